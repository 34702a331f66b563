// The declarations that users compile against: they name no type of WebGPU's (nobody must install @webgpu/types for Octavo)
// and no `any`, and each option has its doc comment.

import { existsSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { beforeAll, expect, test } from "vitest";
import { WORKER_LOAD } from "../../src/browser/options.js";
import { GENERATION } from "../../src/generate/config.js";
import { FORWARD, FROM_PRETRAINED, GENERATE, TOKENIZER_FROM_PRETRAINED } from "../../src/generate/options.js";
import { DEVICE } from "../../src/load/options.js";
import { BITS_AND_BYTES } from "../../src/quant/config.js";
import { CALL } from "../../src/tokenizer/options.js";
import { READY_TIMEOUT, ROOT, ready } from "../support/cli.js";

beforeAll(ready, READY_TIMEOUT);

test("no declaration that the package leads to mentions a type of WebGPU's, or any", () => {
  const seen = new Set<string>();
  const waiting = [join(ROOT, "dist", "index.d.ts")];
  for (let file = waiting.pop(); file; file = waiting.pop()) {
    if (seen.has(file)) continue;
    seen.add(file);
    const text = readFileSync(file, "utf8");
    for (const [, path = ""] of text.matchAll(/(?:from|import\()\s*"(\.[^"]+)\.js"/g)) {
      const next = join(dirname(file), `${path}.d.ts`);
      if (existsSync(next)) waiting.push(next);
    }
    const code = text.replace(/\/\*[\s\S]*?\*\/|\/\/.*/g, "");
    expect(code.match(/\bGPU(?:[A-Z][a-z]\w*)?\b/g), file).toBeNull();
    expect(code.match(/\bany\b/g), file).toBeNull();
  }
  expect(seen.size).toBeGreaterThan(20);
});

test.each([
  ["generate/config.d.ts", GENERATION, ["OWN"]],
  ["generate/cache-options.d.ts", GENERATION, ["CACHE"]],
  ["generate/options.d.ts", FROM_PRETRAINED, ["MODEL"]],
  ["generate/options.d.ts", TOKENIZER_FROM_PRETRAINED, ["TOKENIZER"]],
  ["generate/options.d.ts", GENERATE, ["INPUTS", "RUN"]],
  ["generate/inputs.d.ts", FORWARD, ["PACKED"]],
  ["generate/python.d.ts", FROM_PRETRAINED, ["PYTHON"]],
  ["quant/config.d.ts", BITS_AND_BYTES, ["BITS_AND_BYTES"]],
  ["tokenizer/options.d.ts", CALL, ["CALL"]],
  ["load/options.d.ts", DEVICE, ["DEVICE"]],
  ["load/options.d.ts", FROM_PRETRAINED, ["SOURCE"]],
  ["browser/options.d.ts", WORKER_LOAD, ["WORKER"]],
])("in %s each option has a doc comment and a type that can be read", (file, table, parts) => {
  const text = readFileSync(join(ROOT, "dist", file), "utf8");
  for (const part of parts) {
    const [, body = ""] = new RegExp(`declare const ${part}: \\{\\n([\\s\\S]*?)\\n\\};`).exec(text)!;
    const options = [...body.matchAll(/^ {4}(\w+): (.*)/gm)];
    expect(options.length).toBeGreaterThan(0);
    for (const [line, name, type] of options) {
      expect(Object.keys(table)).toContain(name);
      expect(type, name).toMatch(/^(?:import\("[\w./-]+"\)\.)?Entry</);
      expect(body, name).toContain(`*/\n${line}`);
    }
  }
});

test("the options that users name come from those parts, not from a table whose comments are lost", () => {
  const declared = (file: string) => readFileSync(join(ROOT, "dist", file), "utf8").replace(/\s+/g, " ");
  for (const [file, words] of [
    ["generate/config.d.ts", "GenerationOptions extends Options<typeof OWN>, Options<typeof CACHE>"],
    ["generate/options.d.ts", "FromPretrainedOptions extends Options<typeof MODEL>, Options<typeof SOURCE>"],
    ["generate/options.d.ts", "TokenizerOptions extends Options<typeof TOKENIZER>, Options<typeof SOURCE>"],
    ["generate/options.d.ts", "GenerateOptions extends ModelInputs, GenerationOptions, Options<typeof RUN>"],
    ["quant/config.d.ts", "BitsAndBytesOptions extends Options<typeof BITS_AND_BYTES>"],
  ] as const) {
    expect(declared(file)).toContain(words);
  }
});
