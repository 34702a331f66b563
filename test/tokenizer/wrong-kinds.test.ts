// Files with values of the wrong kind at every place: they load, or there is a typed error of some hundred characters.

import { describe, expect, it } from "vitest";
import { FormatError } from "../../src/core/errors.js";
import { JsonTokenizer } from "../../src/tokenizer/engine.js";
import { checkTokenizerJson } from "../../src/tokenizer/tokenizer-json.js";
import { added, expectTyped, make, open, problem, WORDS } from "./support.js";

const N = 100_000;

/** Values that no file should hold where text, a number or a flag should be. */
const VALUES = [
  null,
  true,
  0,
  -1,
  1.5,
  1e300,
  "",
  "a",
  "\ud800",
  "x".repeat(N),
  [],
  [[]],
  ["a"],
  ["a", 1],
  {},
  { toString: 1, valueOf: 1 },
  { toString: null },
  { content: {} },
  { String: 1 },
  { Regex: 1 },
  { Regex: "(" },
  { SpecialToken: null },
  { Sequence: {} },
  { type: "Sequence" },
  { type: "__proto__" },
  { type: "Metaspace", replacement: {} },
  JSON.parse('{"__proto__":{"a":1}}'),
];

/** Copies of a value, in each of which one part is another. */
function* mutants(value: unknown): Generator<unknown> {
  if (typeof value === "object" && value !== null) {
    for (const key of Object.keys(value)) {
      for (const other of mutants((value as Record<string, unknown>)[key])) {
        yield Array.isArray(value) ? Object.assign([...value], { [key]: other }) : { ...value, [key]: other };
      }
    }
  }
  yield* VALUES;
}

const BASES = {
  bytes: {
    model: {
      type: "BPE",
      vocab: { a: 0, b: 1, ab: 2, "<0x41>": 3 },
      merges: ["a b"],
      unk_token: "a",
      fuse_unk: true,
      byte_fallback: true,
    },
    added_tokens: [{ id: 4, content: "<s>", special: true, lstrip: true, single_word: true }],
    normalizer: {
      type: "Sequence",
      normalizers: [
        { type: "Prepend", prepend: "▁" },
        { type: "Replace", pattern: { Regex: " +" }, content: "▁" },
        { type: "BertNormalizer", clean_text: true, lowercase: true, strip_accents: null },
        { type: "Strip", strip_left: true },
        { type: "Precompiled", precompiled_charsmap: "BAAAAAAAAAA=" },
      ],
    },
    pre_tokenizer: {
      type: "Sequence",
      pretokenizers: [
        { type: "Split", pattern: { String: "b" }, behavior: "Isolated", invert: false },
        { type: "Metaspace", replacement: "▁", prepend_scheme: "first", split: true },
        { type: "FixedLength", length: 3 },
        { type: "ByteLevel", add_prefix_space: true },
      ],
    },
    post_processor: {
      type: "TemplateProcessing",
      single: [{ SpecialToken: { id: "<s>", type_id: 0 } }, { Sequence: { id: "A", type_id: 0 } }],
      pair: [{ Sequence: { id: "A", type_id: 0 } }, { Sequence: { id: "B", type_id: 1 } }],
      special_tokens: { "<s>": { id: "<s>", ids: [4], tokens: ["<s>"] } },
    },
    decoder: {
      type: "Sequence",
      decoders: [
        { type: "Replace", pattern: { String: "▁" }, content: " " },
        { type: "ByteFallback" },
        { type: "Fuse" },
        { type: "Strip", content: " ", start: 1, stop: 0 },
      ],
    },
    padding: { pad_token: "<s>", direction: "Left" },
  },
  words: {
    model: {
      type: "WordPiece",
      unk_token: "a",
      continuing_subword_prefix: "##",
      max_input_chars_per_word: 9,
      vocab: { a: 0, "##b": 1 },
    },
    pre_tokenizer: { type: "Punctuation", behavior: "Contiguous" },
    post_processor: { type: "RobertaProcessing", sep: ["a", 0], cls: ["a", 0], trim_offsets: true },
    decoder: { type: "CTC", pad_token: "a", word_delimiter_token: "|", cleanup: true },
  },
  pieces: {
    model: {
      type: "Unigram",
      unk_id: 0,
      byte_fallback: true,
      vocab: [
        ["a", -1],
        ["b", -2],
      ],
    },
    decoder: { type: "WordPiece", prefix: "b", cleanup: true },
  },
};

describe("values of the wrong kind", () => {
  it.each(Object.entries(BASES))("in a tokenizer.json of %s", (_name, base) => {
    let loaded = 0;
    for (const mutant of mutants(base)) {
      problem(() => {
        const tokenizer = new JsonTokenizer(checkTokenizerJson(mutant, "tokenizer.json"));
        loaded++;
        for (const text of ["ab a  b", "", "<s>é\n"]) {
          const ids = problem(() => tokenizer.encode(text)) ? [0, 1] : tokenizer.encode(text);
          problem(() => tokenizer.frame(ids, ids));
          problem(() => expect(tokenizer.decode(ids)).toBeTypeOf("string"));
        }
      });
    }
    expect(loaded).toBeGreaterThan(0);
  });

  it.each<[string, Record<string, unknown>]>([
    [
      "tokenizer_config.json",
      {
        tokenizer_class: "GPT2Tokenizer",
        add_prefix_space: true,
        bos_token: { content: "a" },
        pad_token: "a",
        model_max_length: 5,
        padding_side: "left",
        added_tokens_decoder: { 5: { content: "x" } },
        additional_special_tokens: ["y"],
        chat_template: [{ name: "n", template: "t" }],
        model_input_names: ["input_ids"],
        clean_up_tokenization_spaces: true,
      },
    ],
    ["special_tokens_map.json", { bos_token: { content: "a" }, additional_special_tokens: ["y"] }],
    ["added_tokens.json", { "<x>": 9 }],
    ["vocab.json", { a: 0, b: 1, ab: 2, "<|endoftext|>": 3 }],
  ])("in %s", async (name, content) => {
    const others: Record<string, unknown> =
      name.endsWith("s.json") && name.startsWith("added")
        ? { "vocab.json": { a: 0, b: 1, ab: 2 }, "merges.txt": "a b" }
        : name === "vocab.json"
          ? { "merges.txt": "a b" }
          : { "tokenizer.json": BASES.bytes };
    for (const mutant of mutants(content)) {
      try {
        const tokenizer = await open({ ...others, [name]: mutant });
        problem(() => tokenizer.decode(tokenizer("ab a", { padding: true }).input_ids));
      } catch (error) {
        expectTyped(error);
      }
    }
  });

  it.each(["x y z", "\u0000", "a", `a ${"x".repeat(N)}`, " ", "a b\n\na", "\ud800 b"])(
    "in merges.txt, number %#",
    async (merges) => {
      const loading = open({ "vocab.json": { a: 0, b: 1, ab: 2 }, "merges.txt": merges });
      await loading.catch(expectTyped);
    },
  );

  it("refuses halves of characters and ids that are none in the settings", async () => {
    const settings = (config: object) => open({ "tokenizer.json": { model: WORDS }, "tokenizer_config.json": config });
    await expect(settings({ pad_token: "\ud800" })).rejects.toThrow(FormatError);
    for (const id of ["", "x", "1e3", "-1", " 5"]) {
      await expect(settings({ added_tokens_decoder: { [id]: { content: "b" } } })).rejects.toThrow(/expected an id/);
    }
    expect(() => make({ added_tokens: [added("a\udc00", 2)] })).toThrow(/holds half a character/);
  });
});
