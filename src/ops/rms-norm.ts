// rms_norm: root-mean-square normalisation (Zhang and Sennrich 2019). `offset` is 1 where weights are stored as w - 1.

import type { Tensor } from "../core/tensor.js";
import { Op, rowsOf } from "./op.js";

export const rmsNormOp = new Op({
  signature: "rms_norm: x[..,K]:f32 weight[K]:f32|f16|bf16 ; eps:f32 offset:f32 -> y[..,K]:f32",
  reference({ x, weight, y }, { eps, offset }) {
    const columns = weight!.data.length;
    for (let m = 0; m < rowsOf(x!.shape); m++) {
      let squares = 0;
      for (let k = 0; k < columns; k++) squares += x!.data[m * columns + k]! ** 2;
      const inverse = 1 / Math.sqrt(squares / columns + eps!);
      for (let k = 0; k < columns; k++) {
        y!.data[m * columns + k] = x!.data[m * columns + k]! * inverse * (weight!.data[k]! + offset!);
      }
    }
    return undefined;
  },
});

/** `x / sqrt(mean(x²) + eps) * (weight + offset)` over the last dim. */
export function rmsNorm(x: Tensor, weight: Tensor, eps: number, offset = 0): Tensor {
  return rmsNormOp.run([x, weight], [eps, offset]);
}
