// Rows of ids to batches: padding, truncation, rectangular tensors, and the types of what a tokenizer call returns.
// Pure functions on numbers; no text here.

import { OptionError } from "../core/errors.js";
import { show } from "../core/show.js";
import type { Range } from "./aligned.js";

export type Side = "left" | "right";

/** Integers in row-major order with their shape [B, T]. */
export interface IntTensor {
  readonly data: Int32Array;
  readonly shape: readonly [B: number, T: number];
}

/** Offsets with their shape [B, T, 2]. */
export interface OffsetTensor {
  readonly data: Int32Array;
  readonly shape: readonly [B: number, T: number, two: 2];
}

/** What a tokenizer call returns can be asked to move, and for its words, as in Python. */
export interface Movable {
  /** The encoding itself: ids are on the host, and each call of a model brings them to its device. */
  to(...where: readonly unknown[]): this;
  /**
   * For each token of a row the number of its word, counted for each sequence; null for special tokens that were added and padding.
   * @throws OptionError unless the call had `return_offsets_mapping: true`
   */
  word_ids(batch_index?: number): (number | null)[];
}

/** What a call on one text returns. */
export interface Encoding extends Movable {
  input_ids: number[];
  /** Ids of `text_target`. */
  labels?: number[];
  /** 1 for tokens that the assistant says; of `apply_chat_template` alone. */
  assistant_masks?: number[];
  /** 1 for special tokens that the tokenizer added, and for padding. */
  special_tokens_mask?: number[];
  /** Where in its text each token starts and ends, in UTF-16 units. */
  offset_mapping?: (readonly [start: number, end: number])[];
  attention_mask?: number[];
  token_type_ids?: number[];
  /** Tokens of the row, padding included. */
  length?: number[];
}

/** What a call on several texts returns: a row for each. */
export interface BatchEncoding extends Movable {
  input_ids: number[][];
  labels?: number[][];
  assistant_masks?: number[][];
  special_tokens_mask?: number[][];
  offset_mapping?: (readonly [start: number, end: number])[][];
  attention_mask?: number[][];
  token_type_ids?: number[][];
  /** Tokens of each row, padding included. */
  length?: number[];
  /** With `return_overflowing_tokens`: for each row the number of its text. */
  overflow_to_sample_mapping?: number[];
}

/** What a call with `return_tensors` returns. */
export interface TensorEncoding extends Movable {
  input_ids: IntTensor;
  labels?: IntTensor;
  assistant_masks?: IntTensor;
  special_tokens_mask?: IntTensor;
  offset_mapping?: OffsetTensor;
  attention_mask?: IntTensor;
  token_type_ids?: IntTensor;
  /** Tokens of each row, padding included. */
  length?: number[];
  /** With `return_overflowing_tokens`: for each row the number of its text. */
  overflow_to_sample_mapping?: number[];
}

/** An encoding with its methods, which are no properties of its own: spreading the encoding leaves them out. */
export function movable<T extends object>(encoding: T, rows: readonly Row[]): T & Movable {
  const words = rows.map((row) => row.words); // the method keeps nothing else of the rows
  const word_ids = (batch_index: unknown = 0) => {
    if (words.includes(undefined)) {
      throw new OptionError(
        "encoding.word_ids: words are known only after tokenizer(..., { return_offsets_mapping: true })",
      );
    }
    const row = typeof batch_index === "number" ? words[batch_index] : undefined;
    if (row === undefined) {
      throw new OptionError(`encoding.word_ids: batch_index must be below ${words.length}, got ${show(batch_index)}`);
    }
    return [...row];
  };
  const method = (value: unknown) => ({ value, configurable: true, writable: true });
  return Object.defineProperties(encoding, { to: method(() => encoding), word_ids: method(word_ids) }) as T & Movable;
}

/** Ids of one row, with their token types. */
export interface Row {
  /** The number of its text. */
  readonly sample: number;
  ids: number[];
  mask: number[];
  types: number[];
  /** 1 for special tokens; absent unless it was asked for. */
  special?: number[];
  /** Where each comes from in its text, and its word. Absent unless asked for. */
  offsets?: Range[];
  words?: (number | null)[];
}

/** Rows of ids in any accepted form: nested arrays, typed arrays, or a tensor [B, T]. */
export type IdRows = IntTensor | Iterable<Iterable<number | bigint>>;

/** How rows are padded. `length` is the fixed length, or undefined for the longest row's. */
export interface PadPlan {
  readonly length: number | undefined;
  readonly multiple: number;
  readonly side: Side;
  /** Id to fill with; called only if a row needs it. */
  readonly pad: () => number;
}

/**
 * The pieces of a sequence of which each keeps at most `length`: what is left of it, and what does not fit in further pieces, each of which
 * repeats `stride` ids of the one before, fewer than `length`. `side` is cut: pieces begin at the other one.
 */
export function* pieces(ids: readonly number[], length: number, stride: number, side: Side): Generator<number[]> {
  const count = ids.length;
  for (let from = 0; from === 0 || from + stride < count; from += length - stride) {
    const to = from + length;
    yield side === "right" ? ids.slice(from, to) : ids.slice(Math.max(0, count - to), count - from);
  }
}

/**
 * What two sequences keep of `room` together if always the longer one is cut ("longest_first"). Of two that are cut to an odd length the
 * longer one keeps one more; of two equal ones the second does.
 * @param seen the length by which a long one is compared: tokenizers 0.23 reads no further than a row can hold
 */
export function keptOfPair(
  first: number,
  second: number,
  room: number,
  seen: (which: 0 | 1) => number,
): [number, number] {
  if (first + second <= room) return [first, second];
  const half = Math.floor(room / 2);
  const odd = room % 2 === 1 && Math.min(first, second) > half;
  const shorter = odd ? seen(0) <= seen(1) : first <= second;
  const kept = shorter ? Math.min(first, half) : room - Math.min(second, half);
  return [kept, room - kept];
}

/**
 * What two sequences keep if one of them is cut so that both have `length` together.
 * @throws OptionError when it is too short for that
 */
export function keptOfOne(
  first: number,
  second: number,
  length: number,
  which: "only_first" | "only_second",
): [number, number] {
  const over = Math.max(0, first + second - length);
  const cut = which === "only_first" ? first : second;
  if (over > 0 && cut <= over) {
    throw new OptionError(`tokenizer: ${which}: the sequence has ${cut} tokens, ${over} too many for max_length`, {
      hint: 'truncation: "longest_first", or a larger max_length',
      details: { option: "truncation" },
    });
  }
  return which === "only_first" ? [first - over, second] : [first, second - over];
}

/** The offsets of what is not in the text. */
export const NOWHERE: Range = Object.freeze([0, 0] as const);

/** Most ids of a batch: 1 GB of numbers. */
export const MOST_IDS = 2 ** 27;

/**
 * Pads every row in place to the plan's length (longer rows stay as they are).
 * @throws OptionError when the rows would have more than 2^27 ids together
 */
export function padRows(rows: readonly Row[], plan: PadPlan): void {
  let length = plan.length ?? rows.reduce((most, row) => Math.max(most, row.ids.length), 0);
  if (plan.multiple > 1) length = Math.ceil(length / plan.multiple) * plan.multiple;
  if (length * rows.length > MOST_IDS) {
    throw new OptionError(
      `tokenizer: padding ${rows.length} rows to ${length} tokens makes more than ${MOST_IDS} ids`,
      { hint: "a smaller max_length or pad_to_multiple_of", details: { option: "padding", got: length } },
    );
  }
  for (const row of rows) {
    const missing = length - row.ids.length;
    if (missing <= 0) continue;
    const fill = <T>(list: readonly T[], value: T) => {
      const padding = new Array<T>(missing).fill(value);
      return plan.side === "left" ? [...padding, ...list] : [...list, ...padding];
    };
    row.ids = fill(row.ids, plan.pad());
    row.mask = fill(row.mask, 0);
    row.types = fill(row.types, 0);
    if (row.special) row.special = fill(row.special, 1);
    if (row.offsets) row.offsets = fill(row.offsets, NOWHERE);
    if (row.words) row.words = fill(row.words, null);
  }
}

/**
 * Joins rows of equal length into one tensor.
 * @throws OptionError when the rows differ in length
 */
export function stack(rows: readonly (readonly number[])[]): IntTensor {
  const T = rows[0]?.length ?? 0;
  const data = new Int32Array(rows.length * T);
  rows.forEach((row, b) => {
    if (row.length !== T) {
      throw new OptionError(`tokenizer: rows of ${T} and ${row.length} tokens (rows 0 and ${b}) cannot be one tensor`, {
        hint: "padding: true",
        details: { option: "padding", expected: T, got: row.length },
      });
    }
    data.set(row, b * T);
  });
  return { data, shape: [rows.length, T] };
}

/**
 * `stack` of offsets.
 * @throws OptionError when the rows differ in length
 */
export function stackOffsets(rows: readonly (readonly Range[])[]): OffsetTensor {
  const starts = stack(rows.map((row) => row.map(([start]) => start)));
  const ends = stack(rows.map((row) => row.map(([, end]) => end)));
  const data = new Int32Array(2 * starts.data.length);
  for (let i = 0; i < starts.data.length; i++) {
    data[2 * i] = starts.data[i]!;
    data[2 * i + 1] = ends.data[i]!;
  }
  return { data, shape: [...starts.shape, 2] };
}
