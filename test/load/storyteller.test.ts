// The model that comes with the package has a name that works wherever the program lies.

import { mkdirSync, mkdtempSync, readFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { afterAll, expect, test, vi } from "vitest";
import { BROWSER } from "../../src/browser/platform.js";
import { NotFoundError } from "../../src/core/errors.js";
import { AutoModelForCausalLM, AutoTokenizer } from "../../src/generate/auto.js";
import { NODE } from "../../src/load/node.js";
import { STORYTELLER as NAME } from "../../src/sources/model-id.js";
import { STORYTELLER } from "../support/models.js";
import { FileServer } from "../support/server.js";

const home = process.cwd();
afterAll(() => process.chdir(home));

test("octavo/storyteller, from any folder", async () => {
  const elsewhere = mkdtempSync(join(tmpdir(), "octavo-elsewhere-"));
  process.chdir(elsewhere);
  const source = await NODE.source(NAME, {});
  expect(source.location).toBe(STORYTELLER);
  const tokenizer = await AutoTokenizer.from_pretrained(NAME);
  const model = await AutoModelForCausalLM.from_pretrained(NAME, { load_in_8bit: true, device: "reference" });
  const ids = await model.generate({ ...tokenizer("Once upon a"), max_new_tokens: 2, do_sample: false });
  expect(tokenizer.decode(ids[0]!)).toMatch(/^Once upon a \w+/);
  model.dispose();
});

test("a folder of that name wins, as of any other", async () => {
  const elsewhere = mkdtempSync(join(tmpdir(), "octavo-elsewhere-"));
  mkdirSync(join(elsewhere, NAME), { recursive: true });
  process.chdir(elsewhere);
  expect((await NODE.source(NAME, {})).location).toBe(NAME);
});

test("in a page, below /models/ of its server, or the page is told where it lies", async () => {
  const server = await new FileServer().start();
  vi.stubGlobal("location", { href: `${server.address}/app/page.html` });
  try {
    const missing = BROWSER.source(NAME, { cache: false });
    await expect(missing).rejects.toThrow(NotFoundError);
    await expect(missing).rejects.toThrow(/lies in a package, and this page's server does not have it at \/models\//);
    for (const file of ["config.json", "tokenizer.json"]) {
      server.files.set(`/models/${NAME}/${file}`, readFileSync(join(STORYTELLER, file)));
    }
    const source = await BROWSER.source(NAME, { cache: false });
    expect(source.location).toBe(`${server.address}/models/${NAME}`);
    expect([...(await source.names(["tokenizer.json", "vocab.txt"]))]).toEqual(["tokenizer.json"]);
    await source.close();
  } finally {
    vi.unstubAllGlobals();
    await server.stop();
  }
});

test("a folder by its address, as text and as a URL", async () => {
  const url = pathToFileURL(STORYTELLER);
  for (const name of [url, url.href]) {
    const model = await AutoModelForCausalLM.from_pretrained(name, { device: "reference" });
    expect(model.module.geometry.vocab).toBe(4096);
    model.dispose();
    expect((await AutoTokenizer.from_pretrained(name)).vocab_size).toBe(4096);
  }
});
