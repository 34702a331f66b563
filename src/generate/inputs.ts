// Token ids and masks from callers (nested arrays, one flat array, or data with a shape), checked and laid out for the
// device.

import { isWhole, listOf } from "../core/checks.js";
import { OctavoError, OptionError, ShapeError } from "../core/errors.js";
import { checkedLater, type Options } from "../core/options.js";
import { wholeList } from "../core/shape.js";
import { listed, shapeText, show } from "../core/show.js";

/** Integers with a shape, as tokenizers return them with `return_tensors`. */
export interface IntTensorLike {
  readonly data: ArrayLike<number>;
  readonly shape: readonly number[];
}

export type Ids =
  | readonly number[]
  | readonly (readonly number[])[]
  | Int32Array
  | readonly Int32Array[]
  | IntTensorLike;

/** A batch on the host. */
export interface Batch {
  readonly rows: number;
  readonly steps: number;
  /** [B,T] */
  readonly ids: Int32Array;
  /** [B,T] of 0 and 1, or undefined if every token is real. */
  readonly mask: Uint8Array | undefined;
}

const FORMS = "token ids: number[], number[][], or { data, shape: [B, T] }";

/** Rows of numbers as a caller gives them, each read once. @throws ShapeError */
export function table(name: string, value: unknown): number[][] {
  try {
    if (Array.isArray(value)) {
      if (value.length === 0) throw new ShapeError(`${name} is empty`);
      return typeof value[0] === "object" ? rowsOf(name, value) : [numbers(name, value)];
    }
    if (isNumeric(value)) return [numbers(name, value)];
    if (typeof value === "object" && value !== null) return shaped(name, value as Partial<IntTensorLike>);
  } catch (cause) {
    if (cause instanceof OctavoError) throw cause;
    throw new ShapeError(`${name} cannot be read`, { cause, hint: `pass ${FORMS}` });
  }
  throw new ShapeError(`${name} must be ${FORMS}, got ${show(value)}`, {
    hint: typeof value === "string" ? "a tokenizer makes them of a text: tokenizer(text)" : undefined,
  });
}

function rowsOf(name: string, list: readonly unknown[]): number[][] {
  const rows: number[][] = [];
  for (let r = 0; r < list.length; r++) {
    const row = list[r];
    if (!Array.isArray(row) && !isNumeric(row)) throw new ShapeError(`${name}: row ${r} is not a list of token ids`);
    rows.push(numbers(`${name}[${r}]`, row));
  }
  return rows;
}

/** The numbers of { data, shape }. */
function shaped(name: string, { data, shape: given }: Partial<IntTensorLike>): number[][] {
  const shape = wholeList(given);
  if ((!Array.isArray(data) && !isNumeric(data)) || shape === undefined || shape.length === 0 || shape.length > 2) {
    throw new ShapeError(`${name} must be ${FORMS}`);
  }
  const steps = shape.at(-1)!;
  const rows = shape.length === 2 ? shape[0]! : 1;
  if (data.length !== rows * steps)
    throw new ShapeError(`${name}: ${data.length} values do not fill ${shapeText(shape)}`);
  if (rows === 0) throw new ShapeError(`${name} is empty`);
  const all = numbers(name, data);
  return Array.from({ length: rows }, (_, r) => all.slice(r * steps, (r + 1) * steps));
}

/** A typed array whose elements are numbers, or bigints, which token ids of some libraries are. */
function isNumeric(value: unknown): value is ArrayLike<number> {
  return ArrayBuffer.isView(value) && !(value instanceof DataView);
}

/** Stops at the first hole or value that is no number: a list may claim any length. */
function numbers(name: string, list: ArrayLike<unknown>): number[] {
  const row: number[] = [];
  for (let t = 0; t < list.length; t++) {
    const value = list[t];
    if (typeof value !== "number" && !(typeof value === "bigint" && ArrayBuffer.isView(list))) {
      throw new ShapeError(`${name}[${t}] is ${show(value)}, not a number`);
    }
    row.push(Number(value));
  }
  return row;
}

/**
 * Checks ids and mask against each other and the vocabulary.
 * @throws ShapeError for ragged rows, OptionError for an id outside the vocabulary
 */
export function readBatch(
  input_ids: Ids | undefined,
  attention_mask: Ids | undefined,
  vocab: number,
  name = "input_ids",
): Batch {
  if (input_ids === undefined) throw new OptionError(`${name} are missing`, { hint: "pass ...tokenizer(text)" });
  const rows = table(name, input_ids);
  const steps = rows[0]!.length;
  if (steps === 0)
    throw new ShapeError(`${name} hold no token`, { hint: "a prompt needs at least one token, such as bos" });
  const ids = new Int32Array(rows.length * steps);
  rows.forEach((row, r) => {
    if (row.length !== steps) {
      throw new ShapeError(`${name}: row ${r} has ${row.length} tokens, row 0 has ${steps}`, {
        hint: "tokenize with padding: true",
      });
    }
    row.forEach((id, t) => {
      if (!Number.isSafeInteger(id) || id < 0 || id >= vocab) {
        throw new OptionError(`${name}[${r}][${t}] is ${show(id)}; the vocabulary has ids 0 to ${vocab - 1}`);
      }
      ids[r * steps + t] = id;
    });
  });
  if (attention_mask === undefined) return { rows: rows.length, steps, ids, mask: undefined };
  const mask = readMask(attention_mask, rows.length, steps, name.replace(/input_ids$|ids$/, "attention_mask"));
  return { rows: rows.length, steps, ids, mask: mask.includes(0) ? mask : undefined };
}

/** A mask of 0 and 1, [rows, steps]. @throws ShapeError, OptionError */
export function readMask(attention_mask: Ids, rows: number, steps: number, name = "attention_mask"): Uint8Array {
  const masks = table(name, attention_mask);
  if (masks.length !== rows || masks.some((row) => row.length !== steps)) {
    throw new ShapeError(`${name} must have the shape of the input, [${rows}, ${steps}]`);
  }
  return Uint8Array.from(masks.flat(), (value) => {
    if (value !== 0 && value !== 1) throw new OptionError(`${name} holds ${value}; it must be 0 and 1`);
    return value;
  });
}

/**
 * The batch with the mask that its padding implies, if the caller gave none; transformers does the same. Rows that hold
 * nothing else keep their text.
 * @param pad the id of padding; undefined if none is certain to be
 */
export function withImpliedMask(batch: Batch, given: Ids | undefined, pad: number | undefined): Batch {
  const { rows, steps, ids } = batch;
  if (given !== undefined || pad === undefined || !ids.includes(pad)) return batch;
  const mask = Uint8Array.from(ids, (id) => Number(id !== pad));
  for (let r = 0; r < rows; r++) {
    const row = mask.subarray(r * steps, (r + 1) * steps);
    if (!row.includes(1)) row.fill(1);
  }
  return { ...batch, mask: mask.includes(0) ? mask : undefined };
}

/** Position of each token in its own text: real tokens count from 0, padding is at 0. */
export function positionsOf({ rows, steps, mask }: Batch): Int32Array {
  const positions = new Int32Array(rows * steps);
  for (let r = 0; r < rows; r++) {
    let next = 0;
    for (let t = 0; t < steps; t++) {
      const at = r * steps + t;
      if (mask === undefined || mask[at] === 1) positions[at] = next++;
    }
  }
  return positions;
}

/** Row and position of each token in the cache, [2,B,T], for `Pass`; padding belongs to no row. */
export function lanesOf(batch: Batch, positions: Int32Array = positionsOf(batch)): Int32Array {
  const { rows, steps, mask } = batch;
  const lanes = new Int32Array(2 * rows * steps);
  for (let at = 0; at < rows * steps; at++) {
    lanes[at] = mask && mask[at] === 0 ? -1 : Math.floor(at / steps);
  }
  lanes.set(positions, rows * steps);
  return lanes;
}

/** The batch with each row's padding moved to the left: new tokens follow the text. @throws OptionError for a row of padding alone */
export function leftPadded(batch: Batch, name = "the batch"): Batch {
  const { rows, steps, ids, mask } = batch;
  if (mask === undefined) return batch;
  const newIds = new Int32Array(ids.length);
  const newMask = new Uint8Array(mask.length);
  for (let r = 0; r < rows; r++) {
    const at = r * steps;
    const real = [...ids.subarray(at, at + steps)].filter((_, t) => mask[at + t] === 1);
    if (real.length === 0) throw new OptionError(`row ${r} of ${name} is all padding`);
    const pads = [...ids.subarray(at, at + steps)].filter((_, t) => mask[at + t] === 0);
    newIds.set([...pads, ...real], at);
    newMask.fill(1, at + pads.length, at + steps);
  }
  return { rows, steps, ids: newIds, mask: newMask };
}

/** Rows of ids as a batch, [B,T], and its mask. */
export function paddedRows(
  rows: readonly (readonly number[])[],
  pad: number,
  side: "left" | "right",
): { input_ids: number[][]; attention_mask: number[][] } {
  const longest = rows.reduce((most, { length }) => Math.max(most, length), 0);
  const filled = (row: readonly number[], value: number): number[] => {
    const padding = new Array<number>(longest - row.length).fill(value);
    return side === "left" ? [...padding, ...row] : [...row, ...padding];
  };
  const ones = (row: readonly number[]): number[] => new Array<number>(row.length).fill(1);
  return {
    input_ids: rows.map((row) => filled(row, pad)),
    attention_mask: rows.map((row) => filled(ones(row), 0)),
  };
}

/** The text of each row, without its padding. */
export function promptsOf({ rows, steps, ids, mask }: Batch): number[][] {
  return Array.from({ length: rows }, (_, r) => {
    const row = [...ids.subarray(r * steps, (r + 1) * steps)];
    return mask ? row.filter((_, t) => mask[r * steps + t] === 1) : row;
  });
}

/** Numbers of a batch's prompts: their places, unless the caller numbers them. @throws OptionError */
export function numbersOf(given: unknown, rows: number): readonly number[] {
  if (given === undefined) return Array.from({ length: rows }, (_, row) => row);
  const isNumber = (n: unknown): n is number => isWhole(n) && n < 2 ** 31;
  const numbers = listOf(given, isNumber);
  if (numbers?.length === rows) return numbers;
  throw new OptionError(`sequence_numbers must be ${rows} whole numbers below 2^31, got ${show(given)}`, {
    details: { option: "sequence_numbers" },
  });
}

/** The same for batches of which each prompt has several rows, one after the other. */
export function eachPrompt(batch: Batch, copies: number): number[][] {
  return promptsOf(batch).flatMap((prompt) => new Array<number[]>(copies).fill(prompt));
}

/** Positions of tokens, and boundaries in a row of several texts; the names are those of DataCollatorWithFlattening. */
export const PACKED = {
  /**
   * [B,T]; by default the position of each token among the real ones of its row. If nothing is masked, each 0 begins a new
   * text, which does not see the earlier ones in its row.
   */
  position_ids: checkedLater<Ids>(),
  /** [N+1], for one row: 0, then the end of each text; the last is T. */
  cu_seq_lens_q: checkedLater<ArrayLike<number> | IntTensorLike>(),
  /** The same for the keys, which must equal those of the queries. */
  cu_seq_lens_k: checkedLater<ArrayLike<number> | IntTensorLike>(),
  /** Length of the longest text. */
  max_length_q: checkedLater<number>(),
  /** The same for the keys. */
  max_length_k: checkedLater<number>(),
};

export interface PackedInputs extends Options<typeof PACKED> {}

export interface Places {
  /** i32[B,T] */
  readonly positions: Int32Array;
  /** i32[B,T]: number of the text that a token belongs to; undefined if each row is one text. */
  readonly segments: Int32Array | undefined;
}

/**
 * Positions and segments of a batch.
 * @throws ShapeError, OptionError: lengths that do not add up or are not increasing, positions beyond the model's
 */
export function placesOf(batch: Batch, inputs: PackedInputs, max_positions: number): Places {
  const ends = readEnds(batch, inputs);
  let segments: Int32Array | undefined;
  if (ends) {
    segments = new Int32Array(batch.steps);
    for (let n = 1; n < ends.length; n++) segments.fill(n - 1, ends[n - 1], ends[n]);
  }
  if (inputs.position_ids !== undefined) {
    const positions = readPositions(batch, inputs.position_ids, max_positions);
    return { positions, segments: segments ?? restarts(batch, positions) };
  }
  const positions = ends ? segments!.map((segment, t) => t - ends[segment]!) : positionsOf(batch);
  const last = positions.reduce((most, position) => Math.max(most, position), 0);
  if (last >= max_positions) {
    throw new OptionError(`${last + 1} tokens are more than the ${max_positions} positions of this model`, {
      hint: "shorten the text",
    });
  }
  return { positions, segments };
}

function readPositions(batch: Batch, given: Ids, max_positions: number): Int32Array {
  const rows = table("position_ids", given);
  if (rows.length !== batch.rows || rows.some((row) => row.length !== batch.steps)) {
    throw new ShapeError(`position_ids must have the shape of input_ids, [${batch.rows}, ${batch.steps}]`);
  }
  const most = Math.min(max_positions, 2 ** 31 - 1);
  return Int32Array.from(rows.flat(), (position, at) => {
    if (Number.isSafeInteger(position) && position >= 0 && position < most) return position;
    const where = `position_ids[${Math.floor(at / batch.steps)}][${at % batch.steps}]`;
    throw new OptionError(`${where} is ${show(position)}; this model has positions 0 to ${most - 1}`);
  });
}

/** Segments of rows whose positions restart; undefined if none do, or if zeros may be padding. */
/**
 * The length of each text of a batch by its highest position: one text a row, or several, which `texts` [B,T] then numbers
 * through. Padding does not count.
 */
export function textLengths(
  { rows, steps, mask }: Batch,
  positions: Int32Array,
  segments: Int32Array | undefined,
): { readonly lengths: readonly number[]; readonly texts: Int32Array | undefined } {
  const lengths: number[] = [];
  const texts = segments && new Int32Array(rows * steps);
  let text = -1;
  for (let at = 0; at < rows * steps; at++) {
    const first = at % steps === 0;
    if (first || (segments && segments[at] !== segments[at - 1])) {
      text++;
      lengths.push(1);
    }
    if (texts) texts[at] = text;
    if (!mask || mask[at] === 1) lengths[text] = Math.max(lengths[text]!, positions[at]! + 1);
  }
  return { lengths, texts };
}

function restarts({ rows, steps, mask }: Batch, positions: Int32Array): Int32Array | undefined {
  if (mask !== undefined) return undefined;
  const segments = new Int32Array(rows * steps);
  let several = false;
  for (let r = 0; r < rows; r++) {
    let segment = 0;
    for (let t = 0; t < steps; t++) {
      if (t > 0 && positions[r * steps + t] === 0) {
        segment++;
        several = true;
      }
      segments[r * steps + t] = segment;
    }
  }
  return several ? segments : undefined;
}

/** The ends of texts, after a 0. */
function readEnds(batch: Batch, inputs: PackedInputs): Int32Array | undefined {
  const { cu_seq_lens_q, cu_seq_lens_k } = inputs;
  if (cu_seq_lens_q === undefined) {
    const alone = (["cu_seq_lens_k", "max_length_q", "max_length_k"] as const).find(
      (name) => inputs[name] !== undefined,
    );
    if (alone) throw new OptionError(`${alone} is given without cu_seq_lens_q`, { hint: "pass cu_seq_lens_q as well" });
    return undefined;
  }
  if (batch.rows !== 1 || batch.mask !== undefined) {
    const what = batch.rows !== 1 ? `${batch.rows} rows` : "an attention_mask that hides tokens";
    throw new ShapeError(`cu_seq_lens_q is for one row without padding, got ${what}`, {
      hint: "put all texts into one row, one after the other",
    });
  }
  const ends = readLengths("cu_seq_lens_q", cu_seq_lens_q, batch.steps);
  if (cu_seq_lens_k !== undefined) {
    const keys = readLengths("cu_seq_lens_k", cu_seq_lens_k, batch.steps);
    if (keys.length !== ends.length || keys.some((end, n) => end !== ends[n])) {
      throw new OptionError("cu_seq_lens_k must equal cu_seq_lens_q", {
        hint: "the keys of a forward pass are its own tokens",
      });
    }
  }
  let longest = 0;
  for (let n = 1; n < ends.length; n++) longest = Math.max(longest, ends[n]! - ends[n - 1]!);
  for (const name of ["max_length_q", "max_length_k"] as const) {
    const value = inputs[name];
    if (value === undefined || (Number.isSafeInteger(value) && value >= longest)) continue;
    throw new OptionError(`${name} must be at least ${longest}, the longest text, got ${show(value)}`);
  }
  return ends;
}

function readLengths(name: string, given: unknown, steps: number): Int32Array {
  const ends = lengthsOf(name, given);
  const said = `[${listed(ends)}]`;
  const hint = `${name} holds 0, then the cumulative lengths of the texts`;
  if (ends.length < 2 || ends[0] !== 0)
    throw new ShapeError(`${name} must begin with 0 and hold an end, got ${said}`, { hint });
  ends.forEach((end, n) => {
    if (n > 0 && !(Number.isSafeInteger(end) && end > ends[n - 1]!)) {
      throw new ShapeError(`${name} must increase with each text, got ${said}`, { hint });
    }
  });
  if (ends.at(-1) !== steps) {
    throw new ShapeError(`${name} ends at ${ends.at(-1)}, but input_ids hold ${steps} tokens`, { hint });
  }
  return Int32Array.from(ends);
}

/** A list of numbers, or one with a shape. @throws ShapeError */
function lengthsOf(name: string, given: unknown): number[] {
  try {
    const values: unknown = typeof given === "object" && given !== null && "data" in given ? given.data : given;
    if (Array.isArray(values) || isNumeric(values)) return numbers(name, values);
  } catch (cause) {
    if (cause instanceof OctavoError) throw cause;
    throw new ShapeError(`${name} cannot be read`, { cause });
  }
  throw new ShapeError(`${name} must be whole numbers: 0, then the end of each text`);
}
