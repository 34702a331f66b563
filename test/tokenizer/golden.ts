// Reads golden.jsonl (written by make_golden.py with Python's `tokenizers`): small tokenizers and what they do to text.

import { readFileSync } from "node:fs";
import { JsonTokenizer } from "../../src/tokenizer/engine.js";
import { checkTokenizerJson } from "../../src/tokenizer/tokenizer-json.js";

export const STORYTELLER = new URL("../../models/storyteller/", import.meta.url).pathname;

export type GoldenCase = [text: string, plain: number[], framed: number[], decoded: string, skipped: string];

export interface Golden {
  readonly name: string;
  readonly json: unknown;
  readonly cases: readonly GoldenCase[];
  readonly tokenizer: JsonTokenizer;
}

export const goldens: readonly Golden[] = readFileSync(new URL("golden.jsonl", import.meta.url), "utf8")
  .trimEnd()
  .split("\n")
  .map((line) => {
    const entry = JSON.parse(line) as { name: string; json: unknown; cases: GoldenCase[] };
    const json: unknown = entry.json ?? JSON.parse(readFileSync(`${STORYTELLER}tokenizer.json`, "utf8"));
    return { ...entry, json, tokenizer: new JsonTokenizer(checkTokenizerJson(json, `${entry.name}.json`)) };
  });

export function golden(name: string): Golden {
  const found = goldens.find((entry) => entry.name === name);
  if (found === undefined) throw new Error(`no golden ${name}`);
  return found;
}
