// The options, call signatures and settings of PreTrainedTokenizer (api.ts).

import { choice, type Entry, flag, number, type Options, option, such, type Table, text } from "../core/options.js";
import * as z from "../core/schema.js";
import type { BatchEncoding, Encoding, TensorEncoding } from "./batch.js";
import type { Templates } from "./chat/templates.js";
import type { Tokenizer } from "./engine.js";
import type { Infilling } from "./infill.js";
import type { JsonObject } from "./json-file.js";
import type { LanguageRule } from "./languages.js";
import type { AddedToken } from "./tokenizer-json.js";

export const SPECIAL_NAMES = [
  "bos_token",
  "eos_token",
  "unk_token",
  "sep_token",
  "pad_token",
  "cls_token",
  "mask_token",
] as const;
export type SpecialName = (typeof SPECIAL_NAMES)[number];

const positive = (): Entry<number> => option(z.int().min(1), "a positive integer");

const isText = (value: unknown): boolean => typeof value === "string";

/** Options of `tokenizer(...)`, spelled as in Python. */
export const CALL = {
  /** true or "longest": to the longest row; "max_length": to `max_length`; false or "do_not_pad" (default): none. */
  padding: choice([true, false, "longest", "max_length", "do_not_pad"]),
  /** Default: only when `max_length` is given and nothing is padded, as in Python. */
  truncation: choice([true, false, "longest_first", "only_first", "only_second", "do_not_truncate"]),
  /** Most tokens of a row; by default the tokenizer's `model_max_length`. */
  max_length: positive(),
  /** Give what does not fit in rows of its own; `overflow_to_sample_mapping` says whose they are. */
  return_overflowing_tokens: flag(),
  /** Tokens that each such row repeats of the one before. */
  stride: option(z.int().min(0), "a whole number from 0"),
  /** Rows are padded to a multiple of this. */
  pad_to_multiple_of: positive(),
  /** For this call; the default is the tokenizer's own `padding_side`. */
  padding_side: choice(["left", "right"]),
  /** Add the tokenizer's special tokens around a text; the default. */
  add_special_tokens: flag(),
  /** Read special tokens in the text as plain text. Use it for text that must not be trusted. */
  split_special_tokens: flag(),
  /** true, "pt" and "np" all give Octavo's `IntTensor`. */
  return_tensors: choice([true, false, "pt", "np"]),
  /** Return the mask of real tokens; the default. */
  return_attention_mask: flag(),
  /** Return the number of the sequence, 0 or 1, for each token; by default as set in the tokenizer's files. */
  return_token_type_ids: flag(),
  /** Return 1 for each special token that was added and for padding, 0 for the tokens of the text. */
  return_special_tokens_mask: flag(),
  /** Return the number of tokens of each row, padding included. */
  return_length: flag(),
  /**
   * Return for each token from where to where in its text it comes, [0, 0] for special tokens that were added and for padding: Python's
   * numbers, but in UTF-16 units, so that `text.slice(start, end)` is the token's text. The result's `word_ids()` works, too.
   */
  return_offsets_mapping: flag(),
  /** A second sequence for each text. */
  text_pair: such<string | readonly string[]>(
    (value) => isText(value) || (Array.isArray(value) && value.every(isText)),
    "a string or an array of strings",
  ),
  /** Of Code Llama: what stands behind the hole that the model is to fill; a text with its fill token is cut there. */
  suffix: such<string | readonly string[]>(
    (value) => isText(value) || (Array.isArray(value) && value.every(isText)),
    "a string or an array of strings",
  ),
  /** Of Code Llama: what stands behind the hole comes first. */
  suffix_first: flag(),
  /** Texts that a model is to write for these: their ids are `labels` of the result. */
  text_target: such<string | readonly string[]>(
    (value) => isText(value) || (Array.isArray(value) && value.every(isText)),
    "a string or an array of strings",
  ),
};
export interface CallOptions extends Readonly<Options<typeof CALL>> {}

/** Options of `tokenizer.decode(...)`. */
export const DECODE = {
  /** Omit special tokens. */
  skip_special_tokens: flag(),
  /**
   * Remove spaces before punctuation, as in English; by default as set in the tokenizer's files. Without effect on BPE
   * tokenizers, as in Python: each space there is part of the text.
   */
  clean_up_tokenization_spaces: flag(),
};
export interface StreamDecodeOptions extends Readonly<Options<typeof DECODE>> {}

/** Options of `tokenizer.decode(...)` for texts with times. */
export const DECODE_TIMED = {
  ...DECODE,
  /** Of Whisper: write the times into the text, as "<|1.08|>". */
  decode_with_timestamps: flag(),
  /** Of Whisper: give `{ text, offsets }`, the parts of the text with the seconds of their beginning and end. */
  output_offsets: flag(),
  /** Of Whisper: seconds of a step of its times; 0.02. */
  time_precision: number((n) => n > 0 && n < 3600, "a number of seconds above 0"),
  /** Of CTC models: give `{ text, char_offsets }`, the frames of each character. */
  output_char_offsets: flag(),
  /** Of CTC models: give `{ text, word_offsets }`, the frames of each word. */
  output_word_offsets: flag(),
};
export interface DecodeOptions extends Readonly<Options<typeof DECODE_TIMED>> {}

/** Options of `loadTokenizer`: the caller's overrides of the files. */
export const LOAD_TOKENIZER = {
  /** Instead of the files' token; one that the vocabulary lacks is added to it. */
  bos_token: text(),
  /** As `bos_token`. */
  eos_token: text(),
  /** As `bos_token`. */
  unk_token: text(),
  /** As `bos_token`. */
  sep_token: text(),
  /** As `bos_token`. */
  pad_token: text(),
  /** As `bos_token`. */
  cls_token: text(),
  /** As `bos_token`. */
  mask_token: text(),
  /** The side that `padding` fills; by default as in the tokenizer's files. Generation needs "left". */
  padding_side: choice(["left", "right"]),
  /** The side that `truncation` cuts; by default as in the tokenizer's files. */
  truncation_side: choice(["left", "right"]),
  /** The length that `truncation` cuts to unless a call says another. */
  model_max_length: number((n) => n > 0, "a number above 0"),
  /** Remove spaces before punctuation when ids are decoded; without effect on BPE tokenizers. */
  clean_up_tokenization_spaces: flag(),
  /** The language of texts, as tokenizers of translators name it: "en_XX", "eng_Latn", "en". */
  src_lang: text(),
  /** The language of `text_target`. */
  tgt_lang: text(),
  /** Of a speech recognizer of many languages (MMS): whose characters it writes, by its code in vocab.json, "fra". */
  target_lang: text(),
} satisfies Record<SpecialName, unknown> & Table;
export interface LoadTokenizerOptions extends Readonly<Options<typeof LOAD_TOKENIZER>> {}

type Tensors = { readonly return_tensors: true | "pt" | "np" };
type NoTensors = { readonly return_tensors?: false };

/** The call signatures of a tokenizer. */
export interface TokenizerCall {
  (text: string | readonly string[], options: CallOptions & Tensors): TensorEncoding;
  (text: string, options: CallOptions & NoTensors & { readonly return_overflowing_tokens: true }): BatchEncoding;
  (text: string, options?: CallOptions & NoTensors): Encoding;
  (text: readonly string[], options?: CallOptions & NoTensors): BatchEncoding;
  (text: string | readonly string[], options?: CallOptions): Encoding | BatchEncoding | TensorEncoding;
}

/** What of a tokenizer can change after loading. */
export interface TokenizerState {
  readonly special: Readonly<Partial<Record<SpecialName, string>>>;
  readonly padding_side: "left" | "right";
  readonly truncation_side: "left" | "right";
  readonly model_max_length: number;
  readonly clean_up_tokenization_spaces: boolean;
  readonly chat_template: Templates;
  /** Special tokens without a name. */
  readonly additional_special_tokens: readonly string[];
  /** The languages of texts and of what is written for them; null for those that are not said. */
  readonly src_lang: string | null;
  readonly tgt_lang: string | null;
  /** The language whose vocabulary it has, of those in its file; null where there is one alone. */
  readonly target_lang?: string | null;
}

/** What of a tokenizer is saved. */
export interface SavedState extends TokenizerState {
  readonly added_tokens: readonly AddedToken[];
}

/** Saves a tokenizer as it is now, into a folder; gives the names of the files. */
export type SaveTokenizer = (now: SavedState, folder: string) => Promise<string[]>;

/** The content of the settings files, already resolved. */
export interface TokenizerSettings extends TokenizerState {
  readonly return_token_type_ids: boolean;
  /** Special tokens with names of the model's own, such as image_token. */
  readonly model_special_tokens?: readonly string[];
  readonly name_or_path: string;
  /** The unchanged content of tokenizer_config.json. */
  readonly init_kwargs: JsonObject;
  /** Writes the tokenizer's files; absent for tokenizers that came from none. */
  readonly save?: SaveTokenizer | undefined;
  /** The engine for texts that a model is to write, where it is another one. */
  readonly target?: Tokenizer;
  /** How the language of a text is said, if it is. */
  readonly languages?: LanguageRule | undefined;
  /** The engine of another language, where a file has several vocabularies. @throws OptionError for one that it has not */
  readonly in_language?: ((target_lang: string) => Tokenizer) | undefined;
  /** How holes in texts are filled, if they are. */
  readonly infilling?: Infilling | undefined;
}
