// pack and unpack: convert between plain rows and the panel layout that a device's matrix kernels prefer. The layout is
// private to the device; on devices without panels both are copies.

import { ShapeError } from "../core/errors.js";
import { Tensor } from "../core/tensor.js";
import { Op } from "./op.js";

export const packOp = new Op({
  signature: "pack: w[n,K]:f32|f16|bf16|i8|u4 packed[N,K]:f32|f16|bf16|i8|u4@! ; row:i32 ->",
  check([w, packed]) {
    if (w!.dtype !== packed!.dtype) throw new ShapeError(`pack: ${w!.dtype} rows do not go into ${packed!.dtype}`);
  },
  reference({ w, packed }, { row }) {
    const [rows = 0, columns = 0] = w!.shape;
    if (row! + rows > packed!.shape[0]!) return `rows ${row} + ${rows} do not fit ${packed!.shape[0]}`;
    const start = row! * columns;
    if (w!.dtype !== "u4") {
      for (let i = 0; i < rows * columns; i++) packed!.data[start + i] = w!.data[i]!;
      return undefined;
    }
    if (start % 2 !== 0) return `row ${row} of ${columns} 4-bit columns does not begin a byte`;
    for (let i = 0; i < w!.data.length; i++) packed!.data[start / 2 + i] = w!.data[i]!;
    return undefined;
  },
});

/** Stores rows `w[n,K]` as rows `row` .. `row + n` of `packed[N,K]`. */
export function pack(w: Tensor, packed: Tensor, row = 0): void {
  packOp.run([w, packed], [row]);
}

export const unpackOp = new Op({
  signature: "unpack: packed[N,K]:f32|f16|bf16|i8|u4@ w[N,K]:f32|f16|bf16|i8|u4!! ->",
  check([packed, w]) {
    if (w!.dtype !== packed!.dtype) throw new ShapeError(`unpack: ${packed!.dtype} does not go into ${w!.dtype} rows`);
  },
  reference({ packed, w }) {
    for (let i = 0; i < w!.data.length; i++) w!.data[i] = packed!.data[i]!;
    return undefined;
  },
});

/** A matrix as plain rows; itself if it already is. */
export function unpack(packed: Tensor): Tensor {
  if (!packed.panels) return packed;
  const w = Tensor.empty(packed.device, packed.shape, packed.dtype, "unpack");
  unpackOp.run([packed, w], []);
  return w;
}
