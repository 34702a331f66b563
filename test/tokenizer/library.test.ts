// The library that translates patterns is one exact version, because pattern.ts uses a private part of it: it is where that
// file looks for it, and no other version can be installed in its place.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import * as library from "@huggingface/tokenizers";
import { expect, test } from "vitest";
import { ROOT } from "../support/cli.js";

const NAME = "@huggingface/tokenizers";
const json = (...path: string[]): Record<string, Record<string, unknown>> =>
  JSON.parse(readFileSync(join(ROOT, ...path), "utf8"));

test("one exact version is asked for, locked and installed", () => {
  const wanted = json("package.json").dependencies![NAME];
  expect(wanted).toMatch(/^\d+\.\d+\.\d+$/);
  const lock = json("package-lock.json").packages as Record<string, Record<string, unknown>>;
  expect((lock[""]!.dependencies as Record<string, string>)[NAME]).toBe(wanted);
  expect(lock[`node_modules/${NAME}`]!.version).toBe(wanted);
  expect(json("node_modules", NAME, "package.json").version).toBe(wanted);
});

test("the private part is where pattern.ts looks for it", () => {
  const { SplitPreTokenizer } = library as unknown as Record<string, new (config: object) => { pattern: unknown }>;
  const { pattern } = new SplitPreTokenizer!({ pattern: { Regex: "[[:alpha:]&&[^a]]+(?i:b)" } });
  expect(pattern).toBeInstanceOf(RegExp);
  expect("abBcaB".match(pattern as RegExp)).toEqual(["bBcaB".slice(0, 2)]);
});
