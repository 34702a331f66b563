// What the suites of hostile files and calls share.

import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, expect } from "vitest";
import { OctavoError } from "../../src/core/errors.js";
import { Disk } from "../../src/sources/disk.js";
import type { PreTrainedTokenizer } from "../../src/tokenizer/api.js";
import { JsonTokenizer } from "../../src/tokenizer/engine.js";
import { loadTokenizer } from "../../src/tokenizer/load.js";
import { checkTokenizerJson } from "../../src/tokenizer/tokenizer-json.js";

const folders: string[] = [];
afterEach(() => {
  for (const path of folders.splice(0)) rmSync(path, { recursive: true });
});

/** Opens a folder of these files. */
export function open(files: Record<string, unknown>): Promise<PreTrainedTokenizer> {
  const path = mkdtempSync(join(tmpdir(), "octavo-hostile-"));
  folders.push(path);
  for (const [name, content] of Object.entries(files)) {
    writeFileSync(join(path, name), typeof content === "string" ? content : JSON.stringify(content));
  }
  return loadTokenizer(new Disk(path));
}

/** Fails unless an error is typed and short. */
export function expectTyped(error: unknown): OctavoError {
  expect(error).toBeInstanceOf(OctavoError);
  expect((error as OctavoError).message.length).toBeLessThan(600);
  return error as OctavoError;
}

/** The error of an attempt, which must be typed and short. */
export function problem(work: () => unknown): OctavoError | undefined {
  try {
    work();
    return undefined;
  } catch (error) {
    return expectTyped(error);
  }
}

export const WORDS = { type: "WordLevel", unk_token: "<unk>", vocab: { "<unk>": 0, a: 1 } };
export const make = (json: object) =>
  new JsonTokenizer(checkTokenizerJson({ model: WORDS, ...json }, "tokenizer.json"));
export const added = (content: string, id: number, flags: object = {}) => ({
  id,
  content,
  normalized: false,
  ...flags,
});
