// PreTrainedTokenizer: calls, batches, padding, truncation, tensors, special tokens, decoding.

import { join } from "node:path";
import fc from "fast-check";
import { beforeEach, describe, expect, expectTypeOf, it } from "vitest";
import { OptionError } from "../../src/core/errors.js";
import { Disk } from "../../src/sources/disk.js";
import type { BatchEncoding, Encoding, TensorEncoding } from "../../src/tokenizer/api.js";
import { PreTrainedTokenizer } from "../../src/tokenizer/api.js";
import { loadTokenizer } from "../../src/tokenizer/load.js";
import type { CallOptions, TokenizerSettings } from "../../src/tokenizer/options.js";
import { FIXTURES } from "../support/fixtures.js";
import { golden, STORYTELLER } from "./golden.js";
import { open } from "./support.js";

let tokenizer: PreTrainedTokenizer;
beforeEach(async () => {
  tokenizer = await loadTokenizer(new Disk(STORYTELLER));
});

const SETTINGS: TokenizerSettings = {
  special: {},
  additional_special_tokens: [],
  padding_side: "right",
  truncation_side: "right",
  model_max_length: Number.POSITIVE_INFINITY,
  clean_up_tokenization_spaces: false,
  return_token_type_ids: false,
  chat_template: null,
  src_lang: null,
  tgt_lang: null,
  name_or_path: "",
  init_kwargs: {},
};
const bert = () =>
  new PreTrainedTokenizer(golden("wordpiece").tokenizer, {
    ...SETTINGS,
    special: { pad_token: "[PAD]", unk_token: "[UNK]", cls_token: "[CLS]", sep_token: "[SEP]" },
    return_token_type_ids: true,
  });

describe("calling", () => {
  it("gives flat rows for one text and nested ones for several", () => {
    const one = tokenizer("Once upon a time");
    const several = tokenizer(["Once upon a time"]);
    expectTypeOf(one).toEqualTypeOf<Encoding>();
    expectTypeOf(several).toEqualTypeOf<BatchEncoding>();
    expect(one.input_ids.length).toBeGreaterThan(2);
    expect(one.attention_mask).toEqual(one.input_ids.map(() => 1));
    expect(several).toEqual({ input_ids: [one.input_ids], attention_mask: [one.attention_mask] });
    expect(tokenizer([])).toEqual({ input_ids: [], attention_mask: [] });
    expect(tokenizer("")).toEqual({ input_ids: [], attention_mask: [] });
    expect(tokenizer).toBeInstanceOf(PreTrainedTokenizer);
    expect(tokenizer.encode("Once upon a time")).toEqual(one.input_ids);
  });

  it("gives tensors that are always batched", () => {
    const ids = tokenizer.encode("a king");
    for (const return_tensors of [true, "pt", "np"] as const) {
      const inputs = tokenizer("a king", { return_tensors });
      expectTypeOf(inputs).toEqualTypeOf<TensorEncoding>();
      expect(inputs.input_ids).toEqual({ data: Int32Array.from(ids), shape: [1, ids.length] });
    }
    expect(tokenizer([], { return_tensors: true }).input_ids.shape).toEqual([0, 0]);
    expect(tokenizer("", { return_tensors: true }).input_ids.shape).toEqual([1, 0]);
  });

  it("refuses ragged tensors with the remedy", () => {
    const ragged = () => tokenizer(["a", "a king and a queen"], { return_tensors: true });
    expect(ragged).toThrow(OptionError);
    expect(ragged).toThrow(/hint: padding: true/);
    const { input_ids, attention_mask } = tokenizer(["a", "a king"], { return_tensors: true, padding: true });
    expect(input_ids.shape).toEqual(attention_mask?.shape);
  });

  it.each([
    [{ paddding: true }, /unknown option `paddding`; did you mean `padding`\?/],
    [{ padding: "longst" }, /padding must be one of/],
    [{ return_tensors: "tf" }, /return_tensors must be one of/],
    [{ truncation: "only_third" }, /truncation must be one of/],
    [{ max_length: 0, truncation: true }, /max_length must be a positive integer/],
    [{ padding: true, padding_side: "top" }, /padding_side must be "left" or "right"/],
  ])("refuses %o", (options, message) => {
    expect(() => tokenizer("a", options as object)).toThrow(message);
  });

  it("refuses what is not text", () => {
    expect(() => tokenizer(5 as unknown as string)).toThrow(OptionError);
    expect(() => tokenizer([5] as unknown as string[])).toThrow(/text must be a string/);
  });
});

describe("padding and truncation", () => {
  const texts = ["a", "a king and a queen"];

  it("pads on the side asked for", () => {
    const [short, long] = texts.map((text) => tokenizer.encode(text)) as [number[], number[]];
    const gap = new Array<number>(long.length - short.length);
    const right = tokenizer(texts, { padding: true });
    expect(right.input_ids).toEqual([[...short, ...gap.fill(0)], long]);
    expect(right.attention_mask?.[0]).toEqual([...short.map(() => 1), ...gap.fill(0)]);
    tokenizer.padding_side = "left";
    const left = tokenizer(texts, { padding: "longest" });
    expect(left.input_ids).toEqual([[...gap.fill(0), ...short], long]);
    expect(tokenizer(texts, { padding: true, padding_side: "right" })).toEqual(right);
    expect(() => {
      tokenizer.padding_side = "up" as "left";
    }).toThrow(OptionError);
  });

  it("pads to max_length, to model_max_length and to multiples", () => {
    expect(tokenizer("a", { padding: "max_length", max_length: 7 }).input_ids).toHaveLength(7);
    expect(tokenizer("a", { padding: "max_length" }).input_ids).toHaveLength(512);
    expect(tokenizer("a", { padding: true, pad_to_multiple_of: 8 }).input_ids).toHaveLength(8);
    tokenizer.model_max_length = 1e30;
    expect(() => tokenizer("a", { padding: "max_length" })).toThrow(/needs max_length/);
  });

  it("truncates on either side, special tokens kept", () => {
    const ids = tokenizer.encode("a king and a queen");
    expect(tokenizer("a king and a queen", { truncation: true, max_length: 3 }).input_ids).toEqual(ids.slice(0, 3));
    expect(tokenizer("a king and a queen", { max_length: 3 }).input_ids).toEqual(ids.slice(0, 3));
    expect(tokenizer("a king and a queen", { max_length: 3, truncation: false }).input_ids).toEqual(ids);
    tokenizer.truncation_side = "left";
    expect(tokenizer("a king and a queen", { truncation: true, max_length: 3 }).input_ids).toEqual(ids.slice(-3));
    const full = bert()("the language model").input_ids;
    const cut = bert()("the language model", { truncation: true, max_length: 5 }).input_ids;
    expect(cut).toEqual([...full.slice(0, 4), full.at(-1)]);
    expect(() => bert()("the", { truncation: true, max_length: 1 })).toThrow(/2 special tokens/);
  });

  it("frames pairs and tells them apart", () => {
    const tok = bert();
    const [a, b] = [
      tok.encode("the", { add_special_tokens: false }),
      tok.encode("model", { add_special_tokens: false }),
    ];
    const [cls, sep] = [tok.cls_token_id, tok.sep_token_id];
    const both = tok("the", { text_pair: "model" });
    expect(both.input_ids).toEqual([cls, ...a, sep, ...b, sep]);
    expect(both.token_type_ids).toEqual([0, ...a.map(() => 0), 0, ...b.map(() => 1), 1]);
    expect(tok("the model and", { text_pair: "the model", truncation: true, max_length: 5 }).input_ids).toHaveLength(5);
    expect(() => tok(["the"], { text_pair: ["a", "b"] })).toThrow(/text_pair must match/);
  });

  it("cuts one of two sequences, and marks special tokens and padding, as Python does", () => {
    const tok = bert();
    const [a, b] = ["the model and the text", "a model"].map((text) => tok.encode(text, { add_special_tokens: false }));
    const [cls, sep] = [tok.cls_token_id, tok.sep_token_id];
    const over = 3 + a!.length + b!.length - 1;
    const cut = (truncation: "only_first" | "only_second") =>
      tok("the model and the text", { text_pair: "a model", truncation, max_length: over }).input_ids;
    expect(cut("only_first")).toEqual([cls, ...a!.slice(0, -1), sep, ...b!, sep]);
    expect(cut("only_second")).toEqual([cls, ...a!, sep, ...b!.slice(0, -1), sep]);
    expect(() => tok("the", { text_pair: "the model and the text", truncation: "only_first", max_length: 4 })).toThrow(
      /only_first: the sequence has/,
    );
    const { special_tokens_mask } = tok(["the model", "the [MASK] model"], {
      padding: true,
      return_special_tokens_mask: true,
    });
    const [short, long] = special_tokens_mask!;
    expect(long!.slice(1, -1).every((one) => one === 0)).toBe(true);
    expect([long![0], long!.at(-1), short![0], short!.at(-1)]).toEqual([1, 1, 1, 1]);
  });

  it("gives what does not fit in rows of its own, in the order of Python's tokenizers", async () => {
    const words = Array.from({ length: 8 }, (_, i) => [`a${i}`, `b${i}`]).flat();
    const tok = await open({
      "tokenizer.json": {
        model: {
          type: "WordLevel",
          unk_token: "?",
          vocab: Object.fromEntries(["?", "C", "S", ...words].map((w, i) => [w, i])),
        },
        pre_tokenizer: { type: "WhitespaceSplit" },
        post_processor: {
          type: "BertProcessing",
          cls: ["C", 1],
          sep: ["S", 2],
        },
      },
      "tokenizer_config.json": { pad_token: "?" },
    });
    const texts = { a: "a0 a1 a2 a3 a4 a5 a6", b: "b0 b1 b2 b3 b4 b5", five: "a0 a1 a2 a3 a4", two: "a0 a1" };
    const rows = (text: string, max_length: number, options: CallOptions) => {
      const one = {
        ...options,
        truncation: options.truncation ?? true,
        max_length,
        return_overflowing_tokens: true,
      } as const;
      return tok(text, one as typeof one & { return_tensors: false }).input_ids.map((row) => tok.decode(row));
    };
    const stride = 1;
    // tokenizers 0.23 gives these but for the last row of a single text, which it loses.
    expect(rows(texts.a, 5, { stride })).toEqual(["C a0 a1 a2 S", "C a2 a3 a4 S", "C a4 a5 a6 S"]);
    expect(rows(texts.two, 8, { stride, text_pair: "b0 b1 b2 b3 b4 b5 b6", truncation: "only_second" })).toEqual([
      "C a0 a1 S b0 b1 b2 S",
      "C a0 a1 S b2 b3 b4 S",
      "C a0 a1 S b4 b5 b6 S",
    ]);
    expect(rows(texts.five, 9, { stride, text_pair: texts.b })).toEqual([
      "C a0 a1 a2 S b0 b1 b2 S",
      "C a2 a3 a4 S b0 b1 b2 S",
      "C a2 a3 a4 S b2 b3 b4 S",
      "C a2 a3 a4 S b4 b5 S",
      "C a0 a1 a2 S b2 b3 b4 S",
      "C a0 a1 a2 S b4 b5 S",
    ]);
    tok.truncation_side = "left";
    expect(rows(texts.five, 9, { text_pair: "b0 b1 b2 b3 b4" })).toEqual([
      "C a2 a3 a4 S b2 b3 b4 S",
      "C a0 a1 S b2 b3 b4 S",
      "C a0 a1 S b0 b1 S",
      "C a2 a3 a4 S b0 b1 S",
    ]);
    expect(rows(texts.a, 5, { stride: 2 })[1]).toBe("C a3 a4 a5 S");
    tok.truncation_side = "right";
    const options = { truncation: true, max_length: 6, padding: true, return_overflowing_tokens: true } as const;
    const batch = tok([texts.a, texts.two, ""], { ...options, return_length: true, return_offsets_mapping: true });
    expect(batch).toMatchObject({ overflow_to_sample_mapping: [0, 0, 1, 2], length: [6, 6, 6, 6] });
    const [, rest] = (batch as BatchEncoding).offset_mapping!;
    expect(rest!.map(([from, to]) => texts.a.slice(from, to))).toEqual(["", "a4", "a5", "a6", "", ""]);
    const { input_ids } = tok([texts.a], { ...options, return_tensors: "pt" });
    expect(input_ids.shape).toEqual([2, 6]);
    expect(tok(texts.two, { return_length: true }).length).toEqual([4]);
    // A stride that leaves nothing, and rows that would be longer than was asked.
    expect(() => rows(texts.a, 5, { stride: 3 })).toThrow(/leaves 3 tokens of a text; with stride 3/);
    expect(() => tok(texts.a, { ...options, pad_to_multiple_of: 4 })).toThrow(/a multiple of 4 would be longer/);
    const long = "a0 ".repeat(40_000);
    expect(() => rows(long, 20_002, { stride: 19_999 })).toThrow(/stride 19999 repeats/);
  });

  it("asks for a pad token where there is none", () => {
    tokenizer.pad_token = null;
    expect(() => tokenizer(["a"], { padding: true })).toThrow(/hint: tokenizer.pad_token = tokenizer.eos_token/);
    tokenizer.pad_token = tokenizer.eos_token;
    expect(tokenizer.pad_token_id).toBe(0);
    expect(() => {
      tokenizer.pad_token = "<|endoftxt|>";
    }).toThrow(/did you mean <\|endoftext\|>/);
  });
});

describe("tokens and text", () => {
  it("knows its vocabulary", () => {
    expect(tokenizer.vocab_size).toBe(4096);
    expect(tokenizer.size).toBe(4096);
    expect([tokenizer.bos_token, tokenizer.eos_token, tokenizer.unk_token]).toEqual([
      "<|endoftext|>",
      "<|endoftext|>",
      null,
    ]);
    expect(tokenizer.all_special_ids).toEqual([0]);
    expect(tokenizer.model_max_length).toBe(512);
    const tokens = tokenizer.tokenize("a king");
    expect(tokens).toEqual(["a", "Ġking"]);
    expect(tokenizer.convert_ids_to_tokens(tokenizer.convert_tokens_to_ids(tokens) as number[])).toEqual(tokens);
    expect(tokenizer.convert_tokens_to_ids("no such token")).toBeNull();
    expect(() => tokenizer.convert_ids_to_tokens(5000)).toThrow(OptionError);
  });

  it("decodes single ids, lists, tensors and nothing", () => {
    const { input_ids } = tokenizer(["a king", "a queen"], { padding: true, return_tensors: true });
    expect(tokenizer.batch_decode(input_ids, { skip_special_tokens: true })).toEqual(["a king", "a queen"]);
    expect(tokenizer.decode([])).toBe("");
    expect(tokenizer.decode([0], { skip_special_tokens: true })).toBe("");
    expect(tokenizer.decode(0)).toBe("<|endoftext|>");
    expect(tokenizer.decode([0n, 5000, -1])).toBe("<|endoftext|>");
    expect(() => tokenizer.decode([[1]] as unknown as number[])).toThrow(/batch_decode/);
    expect(() => tokenizer.decode([1.5])).toThrow(OptionError);
    expect(() => tokenizer.decode([1], { skip_special: true } as object)).toThrow(
      /the nearest of 7 options: skip_special_tokens/,
    );
    expect(tokenizer.decode(tokenizer.encode("a , b ."), { clean_up_tokenization_spaces: true })).toBe("a , b .");
  });

  it("reads special tokens in untrusted text as plain text when asked", () => {
    const text = "a<|endoftext|>b";
    expect(tokenizer.encode(text)).toContain(0);
    const plain = tokenizer.encode(text, { split_special_tokens: true });
    expect(plain).not.toContain(0);
    expect(tokenizer.decode(plain)).toBe(text);
    expect(tokenizer.encode("<|endoftext|>", { split_special_tokens: true }).length).toBeGreaterThan(1);
  });

  it("gives any text back (byte-level)", () => {
    fc.assert(
      fc.property(fc.string({ unit: "binary", maxLength: 60 }), (text) => {
        expect(tokenizer.decode(tokenizer.encode(text))).toBe(text);
      }),
      { numRuns: 1000 },
    );
  });

  it("replaces lone surrogates", () => {
    expect(tokenizer.decode(tokenizer.encode("a\ud800b\udc00"))).toBe("a\ufffdb\ufffd");
  });
});

// The ids that tokenizers 0.23.2 gives with the tokenizer of test/fixtures/pipelines. It reads each text up to the end of the word in which
// a row would be full, and cuts the longer of what it has read by one token less.
it.each([
  ["zzz ", 9, "film ", 9, 8, "right", [2, 30, 56, 56, 3, 72, 72, 3]],
  ["film ", 9, "zzz ", 9, 8, "right", [2, 72, 72, 3, 30, 56, 56, 3]],
  ["zz ", 9, "zzz ", 9, 8, "right", [2, 30, 56, 3, 30, 56, 56, 3]],
  ["zzz ", 9, "film ", 8, 8, "left", [2, 30, 56, 56, 3, 72, 72, 3]],
  ["film ", 9, "zzz film ", 9, 8, "left", [2, 72, 72, 3, 56, 56, 72, 3]],
  ["zzzz ", 9, "zzz ", 9, 10, "right", [2, 30, 56, 56, 3, 30, 56, 56, 30, 3]],
] as const)(
  "two long texts are cut as in Python: %s x %i, %s x %i",
  async (one, times, two, often, max_length, side, want) => {
    const own = await loadTokenizer(new Disk(join(FIXTURES, "pipelines", "tokenizer")));
    own.truncation_side = side;
    const given = { text_pair: two.repeat(often), truncation: true, max_length } as const;
    expect(own(one.repeat(times), given).input_ids).toEqual(want);
    expect(own(one.repeat(times), { ...given, return_offsets_mapping: true }).input_ids).toEqual(want);
  },
);
