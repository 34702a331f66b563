// Token ids and masks as callers give them (nested arrays, one flat array, or data with a shape), checked and laid out
// for the device.

import { OptionError, ShapeError } from "../core/errors.js";

/** Integers with a shape, as tokenizers give them with `return_tensors`. */
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

function table(name: string, value: Ids): number[][] {
  if (Array.isArray(value)) {
    if (value.length === 0) throw new ShapeError(`${name} is empty`);
    if (typeof value[0] === "number") return [value as number[]];
    return value.map((row: unknown, r) => {
      if (Array.isArray(row) || ArrayBuffer.isView(row)) return Array.from(row as ArrayLike<number>);
      throw new ShapeError(`${name}: row ${r} is not a list of token ids`);
    });
  }
  if (value === null || typeof value !== "object") {
    throw new ShapeError(`${name} must be token ids: number[], number[][], or { data, shape: [B, T] }`);
  }
  if (ArrayBuffer.isView(value)) return [Array.from(value as unknown as ArrayLike<number>, Number)];
  const { data, shape } = value as IntTensorLike;
  if (data === undefined || !Array.isArray(shape) || shape.length === 0 || shape.length > 2) {
    throw new ShapeError(`${name} must be token ids: number[], number[][], or { data, shape: [B, T] }`);
  }
  const steps = shape.at(-1)!;
  const rows = shape.length === 2 ? shape[0]! : 1;
  if (data.length !== rows * steps)
    throw new ShapeError(`${name}: ${data.length} values do not fill [${shape.join(", ")}]`);
  return Array.from({ length: rows }, (_, r) => Array.from({ length: steps }, (_, t) => Number(data[r * steps + t])));
}

/**
 * Checks ids and mask against each other and the vocabulary.
 * @throws ShapeError for ragged rows, OptionError for an id outside the vocabulary
 */
export function readBatch(input_ids: Ids | undefined, attention_mask: Ids | undefined, vocab: number): Batch {
  if (input_ids === undefined) throw new OptionError("input_ids are missing", { hint: "pass ...tokenizer(text)" });
  const rows = table("input_ids", input_ids);
  const steps = rows[0]!.length;
  if (steps === 0)
    throw new ShapeError("input_ids hold no token", { hint: "a prompt needs at least one token, such as bos" });
  const ids = new Int32Array(rows.length * steps);
  rows.forEach((row, r) => {
    if (row.length !== steps) {
      throw new ShapeError(`input_ids: row ${r} has ${row.length} tokens, row 0 has ${steps}`, {
        hint: "tokenize with padding: true",
      });
    }
    row.forEach((id, t) => {
      if (!Number.isSafeInteger(id) || id < 0 || id >= vocab) {
        const what = typeof id === "number" ? String(id) : `a ${typeof id}`;
        throw new OptionError(`input_ids[${r}][${t}] is ${what}; the vocabulary has ids 0 to ${vocab - 1}`);
      }
      ids[r * steps + t] = id;
    });
  });
  if (attention_mask === undefined) return { rows: rows.length, steps, ids, mask: undefined };
  const masks = table("attention_mask", attention_mask);
  if (masks.length !== rows.length || masks.some((row) => row.length !== steps)) {
    throw new ShapeError(`attention_mask must have the shape of input_ids, [${rows.length}, ${steps}]`);
  }
  const mask = Uint8Array.from(masks.flat(), (value) => {
    if (value !== 0 && value !== 1) throw new OptionError(`attention_mask holds ${value}; it must be 0 and 1`);
    return value;
  });
  return { rows: rows.length, steps, ids, mask: mask.includes(0) ? mask : undefined };
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

/** The batch with each row's padding moved to the left, which is where generation needs it. */
export function leftPadded(batch: Batch): Batch {
  const { rows, steps, ids, mask } = batch;
  if (mask === undefined) return batch;
  const newIds = new Int32Array(ids.length);
  const newMask = new Uint8Array(mask.length);
  for (let r = 0; r < rows; r++) {
    const at = r * steps;
    const real = [...ids.subarray(at, at + steps)].filter((_, t) => mask[at + t] === 1);
    if (real.length === 0) throw new OptionError(`row ${r} of the batch is all padding`);
    const pads = [...ids.subarray(at, at + steps)].filter((_, t) => mask[at + t] === 0);
    newIds.set([...pads, ...real], at);
    newMask.fill(1, at + pads.length, at + steps);
  }
  return { rows, steps, ids: newIds, mask: newMask };
}
