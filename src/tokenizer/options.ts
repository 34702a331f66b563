// The options, call signatures and settings of PreTrainedTokenizer (api.ts): types and lists of names only.

import type { BatchEncoding, Encoding, Side, TensorEncoding } from "./batch.js";
import type { JsonObject } from "./tokenizer-json.js";

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

/** Options of `tokenizer(...)`, spelled as in Python. */
export interface CallOptions {
  /** true or "longest": to the longest row; "max_length": to `max_length`; false or "do_not_pad" (default): none. */
  readonly padding?: boolean | "longest" | "max_length" | "do_not_pad";
  /** Default: only when `max_length` is given and nothing is padded, as in Python. */
  readonly truncation?: boolean | "longest_first" | "do_not_truncate";
  readonly max_length?: number;
  readonly pad_to_multiple_of?: number;
  /** For this call; the default is the tokenizer's own `padding_side`. */
  readonly padding_side?: Side;
  readonly add_special_tokens?: boolean;
  /** Read special tokens in the text as plain text. Use it for text that must not be trusted. */
  readonly split_special_tokens?: boolean;
  /** true, "pt" and "np" all give Octavo's `IntTensor`. */
  readonly return_tensors?: boolean | "pt" | "np";
  readonly return_attention_mask?: boolean;
  readonly return_token_type_ids?: boolean;
  /** A second sequence for each text. */
  readonly text_pair?: string | readonly string[];
}
export const CALL_OPTIONS = [
  "padding",
  "truncation",
  "max_length",
  "pad_to_multiple_of",
  "padding_side",
  "add_special_tokens",
  "split_special_tokens",
  "return_tensors",
  "return_attention_mask",
  "return_token_type_ids",
  "text_pair",
];

export interface DecodeOptions {
  readonly skip_special_tokens?: boolean;
  readonly clean_up_tokenization_spaces?: boolean;
}
export const DECODE_OPTIONS = ["skip_special_tokens", "clean_up_tokenization_spaces"];

type Tensors = { readonly return_tensors: true | "pt" | "np" };
type NoTensors = { readonly return_tensors?: false };

/** The call signatures of a tokenizer. */
export interface TokenizerCall {
  (text: string | readonly string[], options: CallOptions & Tensors): TensorEncoding;
  (text: string, options?: CallOptions & NoTensors): Encoding;
  (text: readonly string[], options?: CallOptions & NoTensors): BatchEncoding;
  (text: string | readonly string[], options?: CallOptions): Encoding | BatchEncoding | TensorEncoding;
}

/** What the settings files say, already sorted out. */
export interface TokenizerSettings {
  readonly special: Readonly<Partial<Record<SpecialName, string>>>;
  readonly additional_special_tokens: readonly string[];
  readonly padding_side: Side;
  readonly truncation_side: Side;
  /** Infinity when the files set no limit. */
  readonly model_max_length: number;
  readonly clean_up_tokenization_spaces: boolean;
  readonly return_token_type_ids: boolean;
  /** The Jinja text of the chat template, several by name, or null. */
  readonly chat_template: string | Readonly<Record<string, string>> | null;
  readonly name_or_path: string;
  /** tokenizer_config.json as it is. */
  readonly init_kwargs: JsonObject;
}
