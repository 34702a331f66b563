// The cache is Python's too. What huggingface_hub leaves for a model is committed (python-layout.json) and compared with what Octavo
// leaves; with OCTAVO_PYTHON, a Python that has huggingface_hub, both read what the other wrote. OCTAVO_GOLDEN=write renews the file.

import { execFile } from "node:child_process";
import { lstatSync, mkdirSync, readFileSync, readlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";
import { describe, expect, test } from "vitest";
import { AutoConfig } from "../../src/generate/auto.js";
import { listCache } from "../../src/hub/cached.js";
import { pull } from "../../src/hub/pull.js";
import { hub, place, tree, useHub, weights } from "../support/hub-suite.js";

useHub();

const GOLDEN = join(import.meta.dirname, "python-layout.json");
const PYTHON = process.env.OCTAVO_PYTHON;
if (!PYTHON) process.stderr.write("*** huggingface_hub SKIPPED: OCTAVO_PYTHON names no Python that has it ***\n");

const publish = (): string =>
  hub.commit("org/tiny", {
    "config.json": '{"model_type":"llama"}',
    "generation_config.json": "{}",
    "tokenizer.json": '{"version":"1.0"}',
    "tokenizer_config.json": "{}",
    "model.safetensors": weights(5000),
    "pytorch_model.bin": Buffer.alloc(5000, 1),
  });

/** The files of a cache that both write: what each is a link to, or holds. */
function layoutOf(cache: string): Record<string, string> {
  // Only Python locks files and keeps the list of a commit; which absent files are noted depends on what was asked for.
  const files = tree(cache).filter((name) => !/\.locks\/|\/trees\/|\.no_exist\/|CACHEDIR\.TAG$/.test(name));
  return Object.fromEntries(
    files.map((name) => {
      const path = join(cache, name);
      if (lstatSync(path).isSymbolicLink()) return [name, `-> ${readlinkSync(path)}`];
      const body = readFileSync(path);
      return [name, body.length <= 64 ? body.toString() : `${body.length} bytes`];
    }),
  );
}

async function python(command: "download" | "look", cache: string): Promise<string> {
  const env = { ...process.env, HF_HUB_DISABLE_TELEMETRY: "1", ...(command === "look" ? { HF_HUB_OFFLINE: "1" } : {}) };
  mkdirSync(place.home, { recursive: true });
  const script = join(import.meta.dirname, "python.py");
  return (await promisify(execFile)(PYTHON!, [script, command, cache], { env, cwd: place.home })).stdout;
}

test("Octavo leaves what Python leaves", async () => {
  publish();
  await pull("org/tiny");
  expect(layoutOf(place.cache)).toEqual(JSON.parse(readFileSync(GOLDEN, "utf8")));
  expect(readFileSync(join(place.cache, "CACHEDIR.TAG"), "utf8")).toMatch(
    /^Signature: 8a477f597d28d172789f06886806bc55\n/,
  );
});

describe.skipIf(!PYTHON)("huggingface_hub", () => {
  test("reads what Octavo wrote, without network", async () => {
    const commit = publish();
    const { folder } = await pull("org/tiny");
    const [model] = await listCache();
    const seen = JSON.parse(await python("look", place.cache)) as Record<string, unknown>;
    expect(seen).toMatchObject({
      warnings: [],
      id: "org/tiny",
      bytes: model!.bytes,
      files: ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"],
      commit,
      refs: ["main"],
      folder,
      sizes: { "generation_config.json": 2, "model.safetensors": weights(5000).length },
      absent: "object", // the library's mark for "known not to exist"; a file's would be str, an unknown one's NoneType
    });
  }, 60_000);

  test("writes what Octavo reads, without network", async () => {
    const commit = publish();
    await python("download", place.cache);
    const layout = layoutOf(place.cache);
    if (process.env.OCTAVO_GOLDEN === "write") writeFileSync(GOLDEN, `${JSON.stringify(layout, null, 2)}\n`);
    expect(layout).toEqual(JSON.parse(readFileSync(GOLDEN, "utf8")));
    hub.hub.asked.length = 0;
    hub.cdn.asked.length = 0;
    const { folder } = await pull("org/tiny", { local_files_only: true });
    expect(folder).toBe(join(place.cache, "models--org--tiny", "snapshots", commit));
    expect(await AutoConfig.from_pretrained("org/tiny", { revision: commit })).toEqual({ model_type: "llama" });
    const [model] = await listCache();
    expect(model).toMatchObject({ id: "org/tiny", revisions: [{ commit, refs: ["main"], files: 5 }] });
    expect(hub.asked).toEqual([]);
    // Over the network nothing of it is loaded again.
    expect((await pull("org/tiny")).received).toBe(0);
  }, 60_000);
});
