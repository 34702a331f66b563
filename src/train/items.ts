// What batches count: labels and tokens.

import { isList } from "../core/checks.js";
import { IGNORED } from "../ops/cross-entropy.js";
import type { Batch } from "./data/types.js";

/** Rows of integers: lists, typed arrays, or data with a shape. */
function rowsOf(value: unknown): ArrayLike<unknown>[] {
  const flat = (one: unknown): one is ArrayLike<unknown> => isList(one) || ArrayBuffer.isView(one);
  if (flat(value)) {
    const list = Array.from(value as ArrayLike<unknown>);
    return list.every(flat) && list.length > 0 ? (list as ArrayLike<unknown>[]) : [list];
  }
  const { data, shape } = (value ?? {}) as { data?: unknown; shape?: unknown };
  if (!flat(data) || !isList(shape)) return [];
  const all = Array.from(data);
  const width = Number(shape.at(-1));
  return Array.from({ length: all.length / width }, (_, r) => all.slice(r * width, (r + 1) * width));
}

/** Labels that count in all batches. @param shifts the first label of a row belongs to no prediction */
export function itemsOf(batches: readonly Batch[], shifts: boolean): number {
  let items = 0;
  for (const { labels } of batches) {
    for (const row of rowsOf(labels)) {
      for (let t = shifts ? 1 : 0; t < row.length; t++) if (Number(row[t]) !== IGNORED) items++;
    }
  }
  return items;
}

/** Whether any answer of a batch lies in its texts, at both ends. What is no position, or not there, is left to the loss. */
export function anyAnswer({ input_ids, start_positions, end_positions }: Batch): boolean {
  const steps = rowsOf(input_ids)[0]?.length ?? 0;
  const inside = (given: unknown): boolean =>
    given === undefined || rowsOf(given).some((row) => Array.from(row).some((at) => !(Number(at) >= steps)));
  return steps === 0 || (inside(start_positions) && inside(end_positions));
}

/** Input tokens of a batch. @param real without padding */
export function tokensOf({ input_ids, attention_mask }: Batch, real: boolean): number {
  const rows = rowsOf(real && attention_mask !== undefined ? attention_mask : input_ids);
  const each = (row: ArrayLike<unknown>): number =>
    real && attention_mask !== undefined ? Array.from(row).filter((one) => Number(one) === 1).length : row.length;
  return rows.reduce((sum, row) => sum + each(row), 0);
}
