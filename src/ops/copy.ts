// copy: from any strides to any strides, with conversion between float dtypes (round half to even).

import { type DType, isFloat } from "../core/dtype.js";
import { DTypeError } from "../core/errors.js";
import { Tensor } from "../core/tensor.js";
import { Op } from "./op.js";

export const copyOp = new Op({
  signature: "copy: x[..]:f32|f16|bf16|i32|i8|u8~ y[..]:f32|f16|bf16|i32|i8|u8~!! ->",
  check([x, y]) {
    const from = x!.dtype;
    const to = y!.dtype;
    const numbers = (dtype: DType): boolean => isFloat(dtype) || dtype === "i32";
    if (from === to || (isFloat(from) && isFloat(to))) return;
    if ((from === "f32" || to === "f32") && numbers(from) && numbers(to)) return;
    throw new DTypeError(`copy: ${from} does not convert to ${to}`);
  },
  reference({ x, y }) {
    for (let i = 0; i < x!.data.length; i++) y!.data[i] = x!.data[i]!;
    return undefined;
  },
  gradient: ({ dy: [dy] }) => [dy, undefined],
  keeps: () => [],
});

/** Copies `x` into `y` (same shape). */
export function copyInto(x: Tensor, y: Tensor): void {
  copyOp.run([x, y], []);
}

/** `x` as contiguous rows in `dtype`; `x` itself if it is that already. */
export function contiguous(x: Tensor, dtype: DType = x.dtype): Tensor {
  if (x.contiguous && x.dtype === dtype) return x;
  const y = Tensor.empty(x.device, x.shape, dtype, "copy");
  copyInto(x, y);
  return y;
}
