// Odd texts, ids without sense, and components that no golden tokenizer has give what Python's libraries give (odd.jsonl, written
// by make_odd.py).

import { readFileSync } from "node:fs";
import { expect, it } from "vitest";
import { FormatError } from "../../src/core/errors.js";
import { cleanUp, JsonTokenizer } from "../../src/tokenizer/engine.js";
import { checkTokenizerJson } from "../../src/tokenizer/tokenizer-json.js";
import { golden } from "./golden.js";

interface Odd {
  readonly name: string;
  readonly base: string;
  readonly change: object;
  readonly encoded?: readonly (readonly number[] | null)[];
  readonly framed?: readonly [text: string, ids: number[], pair: number[], types: number[]][];
  readonly decoded?: readonly [ids: number[], text: string, skipped: string, cleaned: string][];
}
const [texts, ...tokenizers] = readFileSync(new URL("odd.jsonl", import.meta.url), "utf8")
  .trimEnd()
  .split("\n")
  .map((line) => JSON.parse(line)) as [readonly string[], ...Odd[]];

function make({ name, base, change }: Odd): JsonTokenizer {
  return new JsonTokenizer(checkTokenizerJson({ ...(golden(base).json as object), ...change }, name));
}

it.each(tokenizers.map((odd) => [odd.name, odd] as const))("%s", (_name, odd) => {
  const tokenizer = make(odd);
  const plain = (text: string) => tokenizer.encode(text, { add_special_tokens: false });
  for (const [i, ids] of (odd.encoded ?? []).entries()) {
    const text = texts[i]!;
    if (ids === null) expect(() => plain(text), text).toThrow(FormatError);
    else expect([text, plain(text)]).toEqual([text, ids]);
  }
  for (const [text, ids, pair, types] of odd.framed ?? []) {
    expect([text, tokenizer.encode(text)]).toEqual([text, ids]);
    expect([text, tokenizer.frame(plain(text), plain("a b"))]).toEqual([text, { ids: pair, token_type_ids: types }]);
  }
  for (const [ids, text, skipped, cleaned] of odd.decoded ?? []) {
    const without = tokenizer.decode(ids, { skip_special_tokens: true });
    expect([ids, tokenizer.decode(ids), without]).toEqual([ids, text, skipped]);
    expect([ids, tokenizer.cleans ? cleanUp(without) : without]).toEqual([ids, cleaned]);
  }
});
