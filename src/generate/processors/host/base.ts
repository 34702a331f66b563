// Logits processors on the host, with the names, arguments and formulas of transformers' generation/logits_process.py. generate() uses
// them for what has no processor on the device, and for beams; callers may use each by itself.

import { isList, isWhole, listOf } from "../../../core/checks.js";
import { OptionError, ShapeError } from "../../../core/errors.js";
import { show } from "../../../core/show.js";
import { Tensor } from "../../../core/tensor.js";
import type { HostProcessor, HostState } from "../host-processor.js";

/** Changes the scores of rows, one row at a time. */
export abstract class RowProcessor implements HostProcessor {
  /**
   * Changes the scores f32[V] of a row in place.
   * @param ids all tokens of the row so far
   * @param row its number
   */
  abstract change(scores: Float32Array, ids: readonly number[], row: number): void;

  /** As one of `logits_processor` of generate(). */
  process(logits: Float32Array, { ids, row }: HostState): void {
    this.change(logits, ids, row);
  }

  /**
   * The changed scores of a batch, as a new tensor f32[B,V].
   * @param input_ids the tokens of each row so far
   * @param scores f32[B,V]
   * @throws OptionError, ShapeError
   */
  async call(input_ids: readonly (readonly number[])[], scores: Tensor): Promise<Tensor> {
    const rows = readRows(input_ids);
    const { values, vocab } = await readScores(scores);
    if (rows.length * vocab !== values.length) {
      throw new ShapeError(`scores have the shape [${scores.shape.join(", ")}], input_ids ${rows.length} rows`);
    }
    for (const [row, ids] of rows.entries()) {
      this.change(values.subarray(row * vocab, (row + 1) * vocab), ids, row);
    }
    return Tensor.from(scores.device, values, scores.shape);
  }
}

/** @throws OptionError */
export function readRows(input_ids: unknown): readonly (readonly number[])[] {
  const isRow = (row: unknown): row is readonly number[] => listOf(row, isWhole) !== undefined;
  const rows = listOf(input_ids, isRow);
  if (rows) return rows;
  throw new OptionError(`input_ids must be lists of token ids, one for each row, got ${show(input_ids)}`);
}

/** @throws OptionError, ShapeError */
export async function readScores(scores: unknown): Promise<{ values: Float32Array; vocab: number }> {
  if (!Tensor.is(scores)) throw new OptionError(`scores must be a tensor f32[B,V], got ${show(scores)}`);
  if (scores.shape.length !== 2 || scores.dtype !== "f32") {
    throw new ShapeError(`scores must be f32[B,V], got ${scores.dtype} [${scores.shape.join(", ")}]`);
  }
  return { values: await scores.readFloats(), vocab: scores.shape[1]! };
}

/** A number that an argument must be. @throws OptionError */
export function numberOf(name: string, value: unknown, fits: (n: number) => boolean, wanted: string): number {
  if (typeof value === "number" && fits(value)) return value;
  throw new OptionError(`${name} must be ${wanted}, got ${show(value)}`, { details: { option: name } });
}

/** A whole number of at least `least`. @throws OptionError */
export function wholeOf(name: string, value: unknown, least: number): number {
  return numberOf(name, value, (n) => Number.isSafeInteger(n) && n >= least, `a whole number of at least ${least}`);
}

/** One id, or a list of them. @throws OptionError */
export function idsOf(name: string, value: unknown): readonly number[] {
  const ids = listOf(isList(value) ? value : [value], isWhole);
  if (ids) return ids;
  throw new OptionError(`${name} must be token ids, got ${show(value)}`, { details: { option: name } });
}

/** Lists of ids. @throws OptionError */
export function listsOf(name: string, value: unknown): readonly (readonly number[])[] {
  const isWord = (word: unknown): word is readonly number[] => (listOf(word, isWhole)?.length ?? 0) > 0;
  const lists = listOf(value, isWord);
  if (lists) return lists;
  throw new OptionError(`${name} must be lists of token ids, got ${show(value)}`, { details: { option: name } });
}

/** log_softmax of scores, in place; sums in f64. */
export function logSoftmax(scores: Float32Array): void {
  const most = greatest(scores);
  let sum = 0;
  for (const score of scores) sum += Math.exp(score - most);
  const shift = most + Math.log(sum);
  for (let i = 0; i < scores.length; i++) scores[i] = scores[i]! - shift;
}

/** The largest of all scores. */
function greatest(scores: Float32Array): number {
  let most = Number.NEGATIVE_INFINITY;
  for (const score of scores) if (score > most) most = score;
  return most;
}

/** e^(score - most). A loop: `from` with a function takes seven times as long (32,000 scores). */
export function powers(scores: Float32Array, most: number): Float64Array {
  const found = new Float64Array(scores.length);
  for (let i = 0; i < found.length; i++) found[i] = Math.exp(scores[i]! - most);
  return found;
}

/** softmax of scores. */
export function softmax(scores: Float32Array): Float64Array {
  const shares = powers(scores, greatest(scores));
  let sum = 0;
  for (const share of shares) sum += share;
  for (let i = 0; i < shares.length; i++) shares[i] = shares[i]! / sum;
  return shares;
}

/** The ids of the `count` largest scores, the largest first; of equal ones the lower id, or the higher one. */
export function largest(scores: ArrayLike<number>, count: number, ties: "lower" | "higher" = "lower"): number[] {
  const higher = ties === "higher";
  const ids: number[] = [];
  // Most scores are compared with this one alone.
  let least = Number.NaN;
  for (let id = 0; id < scores.length; id++) {
    const score = scores[id]!;
    if (ids.length === count && !(score > least || (higher && score === least))) continue;
    let place = ids.length;
    for (; place > 0; place--) {
      const before = scores[ids[place - 1]!]!;
      if (!(score > before || (higher && score === before))) break;
    }
    ids.splice(place, 0, id);
    if (ids.length > count) ids.pop();
    least = scores[ids.at(-1)!]!;
  }
  return ids;
}

/** Bits of an index beside the 32 of a key in one exact number. */
const INDEX = 2 ** 21;

/**
 * Indices in the order of ascending keys; equal ones keep their order. Keys are not NaN.
 *
 * Sorting with a function takes more than twice as long (32,000 keys), so numbers are sorted that hold the upper half of a key and its index; keys whose
 * upper halves are equal are then put in order.
 */
export function ascending(keys: ArrayLike<number>): Uint32Array {
  const { length } = keys;
  const order = new Uint32Array(length);
  const byKey = (a: number, b: number): number => keys[a]! - keys[b]! || a - b; // equal infinities give NaN
  if (length > INDEX) {
    for (let i = 0; i < length; i++) order[i] = i;
    return order.sort(byKey);
  }
  const doubles = new Float64Array(keys);
  const halves = new Uint32Array(doubles.buffer);
  const packed = new Float64Array(length);
  for (let i = 0; i < length; i++) {
    const half = doubles[i] === 0 ? 0 : halves[2 * i + 1]!; // -0 is 0
    packed[i] = (half >= 0x8000_0000 ? 0xffff_ffff - half : half + 0x8000_0000) * INDEX + i;
  }
  packed.sort();
  for (let begin = 0, end = 0; begin < length; begin = end) {
    const half = Math.floor(packed[begin]! / INDEX);
    let sorted = true;
    for (end = begin; end < length && Math.floor(packed[end]! / INDEX) === half; end++) {
      order[end] = packed[end]! % INDEX;
      sorted &&= end === begin || keys[order[end - 1]!]! <= keys[order[end]!]!;
    }
    if (!sorted) order.subarray(begin, end).sort(byKey);
  }
  return order;
}
