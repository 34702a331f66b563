// Tokens that a program adds: ids, texts and files as Python's library has them (counts and ids seen in transformers 5.18 with
// tokenizers 0.23; test/fixtures/make_new_tokens.py).

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { OptionError } from "../../src/core/errors.js";
import { AutoTokenizer } from "../../src/generate/auto.js";
import { FIXTURES } from "../support/fixtures.js";
import { STORYTELLER } from "../support/models.js";
import { temporary } from "../support/temporary.js";

interface Step {
  readonly call: "add_tokens" | "add_special_tokens";
  readonly tokens: never;
  readonly options: object;
  readonly count: number;
  readonly size: number;
  readonly special: string[];
  readonly named: Record<string, number | null>;
  readonly ids: number[];
  readonly text: string;
}

const { steps, text } = JSON.parse(readFileSync(join(FIXTURES, "new-tokens.json"), "utf8")) as {
  steps: Step[];
  text: string;
};

test("each call counts, gives ids and is found in text as in Python; saved, the tokenizer is the same", async () => {
  const tokenizer = await AutoTokenizer.from_pretrained(STORYTELLER);
  for (const { call, tokens, options, count, size, special, named, ids, text: decoded } of steps) {
    expect(tokenizer[call](tokens, options), JSON.stringify(tokens)).toBe(count);
    expect(tokenizer.size).toBe(size);
    expect(tokenizer.vocab_size).toBe(4096);
    expect(new Set(tokenizer.all_special_tokens)).toEqual(new Set(special));
    expect({ pad_token_id: tokenizer.pad_token_id, cls_token_id: tokenizer.cls_token_id }).toEqual(named);
    expect(tokenizer(text).input_ids).toEqual(ids);
    expect(tokenizer.decode(ids, { skip_special_tokens: true })).toBe(decoded);
  }
  const folder = temporary("tokens");
  await tokenizer.save_pretrained(folder);
  const again = await AutoTokenizer.from_pretrained(folder);
  expect(again(text).input_ids).toEqual(steps.at(-1)!.ids);
  expect(again.get_added_vocab()).toEqual(tokenizer.get_added_vocab());
  expect(again.special_tokens_map).toEqual(tokenizer.special_tokens_map);
  expect(new Set(again.all_special_tokens)).toEqual(new Set(tokenizer.all_special_tokens));
});

test("what is no token is refused, and nothing is added", async () => {
  const tokenizer = await AutoTokenizer.from_pretrained(STORYTELLER);
  for (const tokens of [7, null, [3], ["a", {}], [{ content: 5 }], { content: "x", lstrip: 1 }, "\ud800"]) {
    expect(() => tokenizer.add_tokens(tokens as never), JSON.stringify(tokens)).toThrow(OptionError);
  }
  for (const tokens of [7, ["a"], { pad: "x" }, { pad_token: 3 }, { additional_special_tokens: "x" }]) {
    expect(() => tokenizer.add_special_tokens(tokens as never), JSON.stringify(tokens)).toThrow(OptionError);
  }
  expect(() => tokenizer.add_special_tokens({ pad: "x" } as never)).toThrow(/known are bos_token, .*pad_token/);
  expect(tokenizer.size).toBe(4096);
});
