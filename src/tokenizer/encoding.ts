// What a tokenizer's call gives, made of its rows: lists of one text, lists of several, or tensors.

import type { Range } from "./aligned.js";
import {
  type BatchEncoding,
  type Encoding,
  movable,
  type Row,
  stack,
  stackOffsets,
  type TensorEncoding,
} from "./batch.js";
import type { CallOptions } from "./options.js";

interface Made {
  readonly rows: readonly Row[];
  /** Ids of what is to be written for each. */
  readonly labels: number[][] | undefined;
  /** The call was about one text. */
  readonly single: boolean;
  /** Token types are wanted. */
  readonly typed: boolean;
}

export function encodingOf(
  { rows, labels, single, typed }: Made,
  options: CallOptions,
): Encoding | BatchEncoding | TensorEncoding {
  const mask = options.return_attention_mask !== false;
  const collect = <T>(shape: (rows: number[][]) => T) => ({
    input_ids: shape(rows.map((row) => row.ids)),
    ...(labels ? { labels: shape(labels) } : {}),
    ...(typed ? { token_type_ids: shape(rows.map((row) => row.types)) } : {}),
    ...(mask ? { attention_mask: shape(rows.map((row) => row.mask)) } : {}),
    ...(options.return_special_tokens_mask === true
      ? { special_tokens_mask: shape(rows.map((row) => row.special!)) }
      : {}),
  });
  const overflowing = options.return_overflowing_tokens === true;
  const counts = {
    ...(options.return_length === true ? { length: rows.map((row) => row.ids.length) } : {}),
    ...(overflowing ? { overflow_to_sample_mapping: rows.map((row) => row.sample) } : {}),
  };
  const offsets = rows.map((row) => row.offsets!);
  const given_offsets = <T>(shape: (rows: Range[][]) => T) =>
    options.return_offsets_mapping === true ? { offset_mapping: shape(offsets) } : {};
  return options.return_tensors
    ? movable({ ...collect(stack), ...given_offsets(stackOffsets), ...counts }, rows)
    : single && !overflowing
      ? movable({ ...collect((list) => list[0]!), ...given_offsets((list) => list[0]!), ...counts }, rows)
      : movable({ ...collect((list) => list), ...given_offsets((list) => list), ...counts }, rows);
}
