// `tokenizer.decode`: ids to text, and what its options give beside it.

import { OptionError } from "../core/errors.js";
import { cleanUp, type Tokenizer } from "./engine.js";
import type { DecodeOptions } from "./options.js";
import { framesOf, type TextWithFrames, type TextWithOffsets, Times } from "./timed.js";

export type AnyDecoded = string | TextWithOffsets | TextWithFrames;

/** What `decode` gives for its options: text, or an object with it. */
export type Decoded<O extends DecodeOptions> = O extends { readonly output_offsets: true }
  ? TextWithOffsets
  : O extends { readonly output_char_offsets: true } | { readonly output_word_offsets: true }
    ? TextWithFrames
    : string;

/** @throws OptionError for options about times that the tokenizer's texts do not have */
export function decodeIds(
  {
    backend,
    clean_up_tokenization_spaces: cleans,
  }: { readonly backend: Tokenizer; clean_up_tokenization_spaces: boolean },
  ids: readonly number[],
  options: DecodeOptions,
): AnyDecoded {
  const { skip_special_tokens = false, clean_up_tokenization_spaces = cleans, time_precision: step } = options;
  const { decode_with_timestamps, output_offsets, output_char_offsets, output_word_offsets } = options;
  const plain = (own: readonly number[], skips = skip_special_tokens): string => {
    const text = backend.decode(own, { skip_special_tokens: skips });
    return backend.cleans && clean_up_tokenization_spaces ? cleanUp(text) : text;
  };
  const times = Times.of(backend);
  if (!times && (decode_with_timestamps || output_offsets || step !== undefined)) {
    throw new OptionError(
      "tokenizer.decode: decode_with_timestamps, output_offsets and time_precision are for Whisper's tokenizers",
    );
  }
  const text =
    times && decode_with_timestamps
      ? times.text(ids, plain, skip_special_tokens, step)
      : plain(times ? times.reader(skip_special_tokens)(ids) : ids);
  if (times && output_offsets) return { text, offsets: times.offsets(ids, (own) => plain(own, false), step) };
  if (!output_char_offsets && !output_word_offsets) return text;
  const { chars, words } = framesOf(
    backend,
    skip_special_tokens ? ids.filter((id) => !backend.special_ids.has(id)) : ids,
  );
  return {
    text,
    ...(output_char_offsets ? { char_offsets: chars } : {}),
    ...(output_word_offsets ? { word_offsets: words } : {}),
  };
}
