// The declarations that users compile against name no type of WebGPU's: nobody must install @webgpu/types for Octavo.

import { existsSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { beforeAll, expect, test } from "vitest";
import { READY_TIMEOUT, ROOT, ready } from "../support/cli.js";

beforeAll(ready, READY_TIMEOUT);

test("no declaration that the package leads to mentions a type of WebGPU's", () => {
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
  }
  expect(seen.size).toBeGreaterThan(20);
});
