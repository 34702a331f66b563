// Rows of device state: written, copied and reordered.

import { scope, Tensor } from "../../core/tensor.js";
import { copyInto } from "../../ops/copy.js";

/** Tensors that live until they are disposed; if one cannot be allocated, none is kept. */
export function keptTogether<T extends readonly (() => Tensor)[]>(...makers: T): { [K in keyof T]: Tensor } {
  const made: Tensor[] = [];
  try {
    for (const make of makers) made.push(make().keep());
  } catch (error) {
    for (const tensor of made) tensor.dispose();
    throw error;
  }
  return made as { [K in keyof T]: Tensor };
}

/** Overwrites elements of a contiguous tensor of 32-bit values, from element `at` on. */
export function writeAt(tensor: Tensor, at: number, values: Int32Array | Float32Array): void {
  tensor.writeBytes(new Uint8Array(values.buffer, values.byteOffset, values.byteLength), 4 * at);
}

/** Overwrites the beginning of row `row` of a contiguous tensor [R,..] of 32-bit values. */
export function writeRow(tensor: Tensor, row: number, values: Int32Array | Float32Array): void {
  writeAt(tensor, row * (tensor.size / tensor.shape[0]!), values);
}

/** Records that row `to` of a tensor [R,..] becomes a copy of row `from`. */
export function copyRow(tensor: Tensor, from: number, to: number): void {
  if (from !== to) scope(() => copyInto(tensor.narrow(0, from, 1), tensor.narrow(0, to, 1)));
}

/** Records that each row r of a tensor [R,..] becomes a copy of the old row `parents[r]`. */
export function reorderRows(tensor: Tensor, parents: readonly number[]): void {
  if (parents.every((parent, r) => parent === r)) return;
  scope(() => {
    const before = Tensor.empty(tensor.device, tensor.shape, tensor.dtype, "reorder");
    copyInto(tensor, before);
    parents.forEach((parent, r) => {
      if (parent !== r) copyInto(before.narrow(0, parent, 1), tensor.narrow(0, r, 1));
    });
  });
}
