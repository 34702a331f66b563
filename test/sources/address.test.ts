// What an address may be, and that its user name, password and query stand in no message.

import { describe, expect, test } from "vitest";
import { BROWSER } from "../../src/browser/platform.js";
import { OctavoError, OptionError } from "../../src/core/errors.js";
import { AutoModelForCausalLM, AutoTokenizer } from "../../src/generate/auto.js";
import { NODE } from "../../src/load/node.js";
import { modelAddress, scrub, withoutSecrets } from "../../src/sources/address.js";
import { failure } from "../support/source-tools.js";

describe("addresses", () => {
  test("of ids, hubs and folders", () => {
    expect(modelAddress("org/name")).toBe("https://huggingface.co/org/name/resolve/main");
    expect(modelAddress("gpt2", "http://localhost:1/hub/", "refs/pr/1")).toBe(
      "http://localhost:1/hub/gpt2/resolve/refs%2Fpr%2F1",
    );
    expect(modelAddress("HTTPS://host/a b/model/")).toBe("https://host/a%20b/model");
    expect(modelAddress(new URL("https://host/@scope/m/?"))).toBe("https://host/@scope/m");
  });

  test.each([
    ["../x"],
    ["a/b/c"],
    ["ftp://host/x"],
    ["https://host/x?y=1"],
    ["https://host/x#y"],
    ["http://user@host/x"],
    ["http://:secret@host/x"],
    ["org/name", "not a hub"],
    ["org/name", "http://user:secret@host"],
    ["org/name", undefined, "../main"],
    ["https://host/x", undefined, "main"],
    [3 as never],
    [{ toString: 1 } as never],
  ])("%s %s %s is refused", (model, hub?: string, revision?: string) => {
    expect(() => modelAddress(model, hub, revision)).toThrow(OptionError);
  });
});

test.each([
  ["http://host/m", "http://host/m"],
  ["org/name@x", "org/name@x"],
  ["C:\\models\\a@b", "C:\\models\\a@b"],
  ["./a@b#c", "./a@b#c"],
  ["https://host/@scope/m", "https://host/@scope/m"],
  ["https://user:secret@host:8/m", "https://...@host:8/m"],
  ["https://secret@host/m?token=secret#secret", "https://...@host/m?...#..."],
  [" https://user:secret@host/m", "https://...@host/m"],
  ["http:user:secret@host/m", "http://...@host/m"],
  ["s3://user:secret@host/m", "s3://...@host/m"],
  ["https://user:sec/ret@host/m", "https:..."],
  ["https://host:bad/m?token=secret", "https:..."],
  ["user:secret@host/m", "user:..."],
  ["//user:secret@host/m", "..."],
])("%s is shown as %s", (address, shown) => {
  expect(withoutSecrets(address)).toBe(shown);
});

test("addresses within a text", () => {
  expect(scrub('sending to (http://u:secret@h/x?t=secret) and "https://h/y" failed')).toBe(
    'sending to (http://...@h/x?... and "https://h/y" failed',
  );
});

const SECRETS = [
  "http://user:hunter2@127.0.0.1:9/model",
  "HTTPS://hunter2@host/model",
  "http://user:hun/hunter2@host",
  "http://host/model?token=hunter2",
  "http://host/model#hunter2",
  "ftp://user:hunter2@host/model",
  "http:user:hunter2@host/model",
  " http://user:hunter2@host/model",
  "user:hunter2@host/model",
  "//user:hunter2@host/model",
  "file://user:hunter2@host/model",
  "org/model?token=hunter2",
  "./model?token=hunter2",
];

/** Everything that an error says. */
const said = (error: unknown): string =>
  error instanceof OctavoError
    ? `${error.message} ${error.hint} ${JSON.stringify(error.details)}`
    : `untyped: ${error}`;

describe("no secret is said", () => {
  // A folder of that name may exist in Node.
  const inNode = SECRETS.filter((address) => !address.startsWith("."));
  test.each(inNode)("Node: %s", async (address) => {
    for (const { from_pretrained } of [AutoModelForCausalLM, AutoTokenizer]) {
      const text = said(await failure(() => from_pretrained(address)));
      expect(text).not.toMatch(/hunter2|untyped/);
    }
  });

  test.each(SECRETS)("browsers: %s", async (address) => {
    expect(said(await failure(() => BROWSER.source(address, { cache: false })))).not.toMatch(/hunter2|untyped/);
  });

  test.each(SECRETS)("as hub: %s", async (hub) => {
    for (const { source } of [NODE, BROWSER]) {
      expect(said(await failure(() => source("org/name", { hub, cache: false })))).not.toMatch(/hunter2|untyped/);
    }
  });

  test("of an address that may not be used", async () => {
    const options = { local_files_only: true };
    expect(said(await failure(() => NODE.source("http://u:hunter2@host/m", options)))).not.toMatch(/hunter2|untyped/);
  });

  test("of a token that no header can hold", async () => {
    for (const token of ["hunter2\nX: y", "hunter2…", "hunter2 hunter2"]) {
      const error = await failure(() => AutoModelForCausalLM.from_pretrained("http://127.0.0.1:9/m", { token }));
      expect(error).toBeInstanceOf(OptionError);
      expect(said(error)).not.toMatch(/hunter2/);
    }
  });
});

test("an address with a password says what to do", async () => {
  const error = await failure(() => AutoModelForCausalLM.from_pretrained("http://user:hunter2@127.0.0.1:9/model"));
  expect(error).toBeInstanceOf(OptionError);
  expect(error).toMatchObject({ hint: expect.stringContaining("`token`") });
});
