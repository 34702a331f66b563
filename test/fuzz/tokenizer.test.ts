// Mutants of the files of tokenizers: tokenizer.json of every kind of model, the older files it can be built from, and the
// settings beside them. Those that are read encode and decode a few texts.

import { afterAll } from "vitest";
import { OctavoError } from "../../src/core/errors.js";
import type { PreTrainedTokenizer } from "../../src/tokenizer/api.js";
import { loadTokenizer } from "../../src/tokenizer/load.js";
import { mutateLines } from "./support/bytes.js";
import type { Chance } from "./support/chance.js";
import { fuzz } from "./support/fuzz.js";
import { mutateJson, texts, type Words } from "./support/json.js";
import { MemorySource } from "./support/memory-source.js";
import { json } from "./support/tiny.js";

type Base = Readonly<Record<string, unknown>>;

const LETTERS = ["a", "b", "c", "h", "e", "l", "o", "t", "Ġ", "Ã", "©", "he", "ll", "Ġt", "hell", "hello", "Ġthe"];
const numbered = (tokens: readonly string[], from = 0): Record<string, number> =>
  Object.fromEntries(tokens.map((token, i) => [token, from + i]));
const special = (content: string, id: number) => ({
  ...{ id, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special: true },
});
const BYTE_LEVEL = { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: true };
const MERGES = ["h e", "l l", "Ġ t", "he ll", "hell o", "Ġt he"];
const SETTINGS = {
  ...{
    tokenizer_class: "PreTrainedTokenizerFast",
    bos_token: "<s>",
    eos_token: "</s>",
    pad_token: "<pad>",
    unk_token: null,
  },
  ...{ model_max_length: 64, padding_side: "right", clean_up_tokenization_spaces: false, add_bos_token: false },
  added_tokens_decoder: { 0: special("<s>", 0) },
  additional_special_tokens: ["</s>"],
  chat_template: "{{ messages }}",
};
const ADDED = [special("<s>", 0), special("</s>", 1), special("<pad>", 2)];
const TEMPLATE = {
  type: "TemplateProcessing",
  single: [{ SpecialToken: { id: "<s>", type_id: 0 } }, { Sequence: { id: "A", type_id: 0 } }],
  pair: [{ Sequence: { id: "A", type_id: 0 } }, { Sequence: { id: "B", type_id: 1 } }],
  special_tokens: { "<s>": { id: "<s>", ids: [0], tokens: ["<s>"] } },
};
const SPLIT = {
  type: "Split",
  pattern: { Regex: "\\p{L}+|\\p{N}{1,3}|[^\\s]+|\\s+" },
  behavior: "Isolated",
  invert: false,
};

/** Folders by their files; values of .json files are objects, others are text. */
const BASES: readonly Base[] = [
  {
    "tokenizer.json": {
      ...{ version: "1.0", truncation: null, padding: null, added_tokens: ADDED, normalizer: { type: "NFC" } },
      pre_tokenizer: { type: "Sequence", pretokenizers: [SPLIT, { ...BYTE_LEVEL, use_regex: false }] },
      ...{ post_processor: TEMPLATE, decoder: BYTE_LEVEL },
      model: { type: "BPE", vocab: { ...numbered(["<s>", "</s>", "<pad>"]), ...numbered(LETTERS, 3) }, merges: MERGES },
    },
    "tokenizer_config.json": SETTINGS,
  },
  {
    "tokenizer.json": {
      ...{ version: "1.0", added_tokens: ADDED, post_processor: null },
      normalizer: {
        type: "Sequence",
        normalizers: [
          { type: "Prepend", prepend: "▁" },
          { type: "Replace", pattern: { String: " " }, content: "▁" },
        ],
      },
      pre_tokenizer: null,
      decoder: {
        type: "Sequence",
        decoders: [
          ...[{ type: "Replace", pattern: { String: "▁" }, content: " " }, { type: "ByteFallback" }, { type: "Fuse" }],
          { type: "Strip", content: " ", start: 1, stop: 0 },
        ],
      },
      model: {
        ...{ type: "BPE", unk_token: "</s>", byte_fallback: true, fuse_unk: true },
        vocab: { ...numbered(["<s>", "</s>", "<pad>", "<0x0A>", "<0xC3>", "<0xA9>", "▁", "h", "e", "he", "▁he"]) },
        merges: [
          ["h", "e"],
          ["▁", "he"],
        ],
      },
    },
    "tokenizer_config.json": { ...SETTINGS, tokenizer_class: "LlamaTokenizer", unk_token: "</s>" },
    "special_tokens_map.json": { bos_token: { content: "<s>" }, eos_token: "</s>" },
  },
  {
    "tokenizer.json": {
      ...{ added_tokens: ADDED, normalizer: { type: "NFKC" }, post_processor: TEMPLATE },
      pre_tokenizer: { type: "Metaspace", replacement: "▁", prepend_scheme: "always", split: true },
      decoder: { type: "Metaspace", replacement: "▁", prepend_scheme: "always" },
      model: {
        type: "Unigram",
        unk_id: 1,
        vocab: [
          ["<s>", 0],
          ["</s>", 0],
          ["<pad>", 0],
          ["▁", -1],
          ["h", -2.5],
          ["e", -2],
          ["he", -3],
          ["▁he", -1.5],
        ],
      },
    },
    "tokenizer_config.json": { ...SETTINGS, tokenizer_class: "T5Tokenizer" },
  },
  {
    "tokenizer.json": {
      added_tokens: [special("[UNK]", 0), special("[CLS]", 1), special("[SEP]", 2)],
      normalizer: {
        type: "BertNormalizer",
        clean_text: true,
        handle_chinese_chars: true,
        strip_accents: null,
        lowercase: true,
      },
      pre_tokenizer: { type: "BertPreTokenizer" },
      post_processor: { type: "BertProcessing", sep: ["[SEP]", 2], cls: ["[CLS]", 1] },
      decoder: { type: "WordPiece", prefix: "##", cleanup: true },
      padding: { strategy: "BatchLongest", direction: "Right", pad_id: 0, pad_type_id: 0, pad_token: "[UNK]" },
      model: {
        ...{ type: "WordPiece", unk_token: "[UNK]", continuing_subword_prefix: "##", max_input_chars_per_word: 100 },
        vocab: numbered(["[UNK]", "[CLS]", "[SEP]", "he", "##ll", "##o", "the", "##e"]),
      },
    },
    "tokenizer_config.json": {
      ...SETTINGS,
      tokenizer_class: "BertTokenizer",
      bos_token: null,
      eos_token: null,
      pad_token: null,
    },
  },
  {
    "vocab.json": { "<|endoftext|>": 0, ...numbered(LETTERS, 1) },
    "merges.txt": `#version: 0.2\n${MERGES.join("\n")}\n`,
    "tokenizer_config.json": { tokenizer_class: "GPT2Tokenizer", model_max_length: 64 },
    "added_tokens.json": { "<extra>": 18 },
    "special_tokens_map.json": { eos_token: "<|endoftext|>" },
  },
  {
    "vocab.txt": "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nhe\n##ll\n##o\nthe\n",
    "tokenizer_config.json": { do_lower_case: true, tokenizer_class: "BertTokenizer" },
    "config.json": { model_type: "bert" },
  },
];

const WORDS: Words = {
  values: [
    ...texts(
      "BPE",
      "Unigram",
      "WordPiece",
      "WordLevel",
      "ByteLevel",
      "Metaspace",
      "Split",
      "Sequence",
      "NFC",
      "Replace",
    ),
    ...texts(
      "BertNormalizer",
      "Digits",
      "Punctuation",
      "Whitespace",
      "TemplateProcessing",
      "Precompiled",
      "ByteFallback",
    ),
    ...texts(
      "Isolated",
      "Removed",
      "MergedWithNext",
      "left",
      "Left",
      "always",
      "first",
      "never",
      "▁",
      "Ġ",
      "##",
      "<s>",
    ),
    ...texts("(a+)+$", "(?:(?:a*)*)*b", "[", "(?<x>", "\\p{Nope}", "(?=a)*", "\\", "a{99999}", "(.*)(.*)(.*)(.*)(.*)x"),
    ...texts("h e", "he", " ", "h  e", "x y", "GPT2Tokenizer", "LlamaTokenizerFast", "RobertaTokenizer"),
    ...[
      '{"Regex":"(a|a)*$"}',
      '{"String":""}',
      '{"Regex":""}',
      '{"Regex":"(?!)"}',
      '["h","e"]',
      '["x",0]',
      '["x",-1e300]',
    ],
    ..."0 1 2 -1 255 256 1e9 4294967296 0.5".split(" "),
  ],
  keys: texts(
    ..."type vocab merges unk_token unk_id byte_fallback fuse_unk continuing_subword_prefix end_of_word_suffix".split(
      " ",
    ),
    ..."ignore_merges dropout max_input_chars_per_word added_tokens content id special lstrip rstrip single_word".split(
      " ",
    ),
    ..."normalized normalizer pre_tokenizer post_processor decoder pattern behavior invert replacement split".split(
      " ",
    ),
    ..."prepend_scheme add_prefix_space use_regex trim_offsets single pair special_tokens sep cls prefix cleanup".split(
      " ",
    ),
    ..."padding truncation pad_token bos_token eos_token padding_side model_max_length added_tokens_decoder".split(" "),
    ..."tokenizer_class model_input_names chat_template extra_special_tokens truncation_side".split(" "),
  ),
};
const LINES = [
  "h e",
  "he he",
  "a",
  "a b c",
  " ",
  "",
  "h\u00a0e",
  "#version: 0.2",
  "[CLS]",
  "##",
  "\u001b[2J",
  "\ud800",
];

const TEXTS = ["hello the héllo", "a".repeat(60), " \n\t <s>hello</s>", "日本 😀 e\u0301 \ud800", ""];

function mutate(chance: Chance, base: Base): Record<string, Uint8Array> {
  const names = Object.keys(base);
  // Settings say less than the tokenizer itself.
  const chosen = chance.is(0.6) ? names[0]! : chance.one(names);
  const entries = names.map((name): [string, Uint8Array] => {
    const content = base[name];
    if (name !== chosen) return [name, typeof content === "string" ? Buffer.from(content) : json(content)];
    return [
      name,
      typeof content === "string" ? mutateLines(chance, content, LINES) : mutateJson(chance, content, WORDS),
    ];
  });
  if (chance.is(0.02)) entries.splice(chance.below(entries.length), 1);
  return Object.fromEntries(entries);
}

/** Share of the tokenizers that are used: texts take longer than files. */
const USED = 0.3;

/** What is wrong with the ids and texts of a tokenizer. Typed errors are an answer. */
function useOf(tokenizer: PreTrainedTokenizer): string | undefined {
  for (const text of TEXTS) {
    try {
      const ids = tokenizer.encode(text);
      const bad = ids.find((id) => !Number.isSafeInteger(id) || id < 0);
      if (bad !== undefined) return `${JSON.stringify(text)} has the id ${bad}`;
      if (typeof tokenizer.decode(ids, { skip_special_tokens: true }) !== "string") return "decode gives no text";
    } catch (error) {
      if (!(error instanceof OctavoError)) throw error;
    }
  }
  return undefined;
}

let source: MemorySource | undefined;
afterAll(() => {
  source = undefined;
});

fuzz<Record<string, Uint8Array>>({
  name: "tokenizer",
  make: (chance) => mutate(chance, chance.one(BASES)),
  async read(files, chance) {
    source = new MemorySource(files);
    const tokenizer = await loadTokenizer(source);
    return chance.is(USED) ? useOf(tokenizer) : undefined;
  },
  left: () => (source?.open_files ? `${source.open_files} files are open` : undefined),
});
