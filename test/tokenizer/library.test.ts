// The library behind the tokenizer is one exact version, because parts.ts replaces private parts of it: they are where
// that file looks for them, and no other version can be installed in its place.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { Tokenizer } from "@huggingface/tokenizers";
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

type Parts = Record<string, unknown>;
const partsOf = (file: object): Record<string, Parts> =>
  new (Tokenizer as unknown as new (file: object, config: object) => Record<string, Parts>)(
    { normalizer: null, pre_tokenizer: null, post_processor: null, decoder: null, added_tokens: [], ...file },
    { unk_token: "a" },
  );
const vocab = { a: 0, b: 1 };

test("private parts are where parts.ts replaces them", () => {
  const sequence = partsOf({
    model: { type: "BPE", vocab, merges: [], fuse_unk: true, unk_token: "a", end_of_word_suffix: "</w>" },
    pre_tokenizer: {
      type: "Sequence",
      pretokenizers: [
        { type: "Split", pattern: { Regex: "x" }, behavior: "Removed", invert: false },
        { type: "ByteLevel", add_prefix_space: false, use_regex: true, trim_offsets: true },
      ],
    },
    decoder: { type: "Sequence", decoders: [{ type: "ByteLevel" }, { type: "ByteFallback" }] },
  });
  const { model, pre_tokenizer, decoder } = sequence;
  expect(model!.encode).toBeTypeOf("function");
  expect(model!.tokens_to_ids).toEqual(new Map([...Object.entries(vocab)]));
  expect([model!.fuse_unk, model!.unk_token_id, model!.end_of_word_suffix]).toEqual([true, 0, "</w>"]);
  const [split, byteLevel] = pre_tokenizer!.tokenizers as Parts[];
  expect(split!.pattern).toBeInstanceOf(RegExp);
  expect(byteLevel!.pattern).toBeInstanceOf(RegExp);
  for (const part of [split!, byteLevel!]) expect(part.pre_tokenize_text).toBeTypeOf("function");
  for (const part of decoder!.decoders as Parts[]) expect(part.decode_chain).toBeTypeOf("function");
  const scores = [
    ["a", -1],
    ["b", -2],
  ];
  const unigram = partsOf({ model: { type: "Unigram", vocab: scores, unk_id: 0 } });
  expect(unigram.model!.tokenize).toBeTypeOf("function");
});
