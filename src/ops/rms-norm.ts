// rms_norm: root-mean-square normalisation (Zhang and Sennrich 2019). `offset` is 1 where weights are stored as w - 1.

import type { Tensor } from "../core/tensor.js";
import { filled } from "./fill.js";
import { multiply } from "./gated.js";
import { Op, rowsOf } from "./op.js";
import { sumRows } from "./sum-rows.js";

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
  gradient({ inputs: [x, weight], attributes: [eps = 0, offset = 0], dy: [dy], wanted }) {
    const normal = (): Tensor => rmsNorm(x!, filled(x!.device, weight!.shape, 0), eps, 1);
    return [
      wanted[0] ? rmsNormBack(x!, weight!, dy!, eps, offset) : undefined,
      wanted[1] ? sumRows(multiply(normal(), dy!)) : undefined,
    ];
  },
  keeps: () => ["x", "weight"],
  cheap: true,
});

/** `x / sqrt(mean(x²) + eps) * (weight + offset)` over the last dim. */
export function rmsNorm(x: Tensor, weight: Tensor, eps: number, offset = 0): Tensor {
  return rmsNormOp.run([x, weight], [eps, offset]);
}

export const rmsNormBackOp = new Op({
  signature: "rms_norm_back: x[..,K]:f32 weight[K]:f32|f16|bf16 dy[..,K]:f32 ; eps:f32 offset:f32 -> dx[..,K]:f32",
  reference({ x, weight, dy, dx }, { eps, offset }) {
    const columns = weight!.data.length;
    for (let at = 0; at < x!.data.length; at += columns) {
      let squares = 0;
      let product = 0;
      for (let k = 0; k < columns; k++) {
        const g = dy!.data[at + k]! * (weight!.data[k]! + offset!);
        squares += x!.data[at + k]! ** 2;
        product += g * x!.data[at + k]!;
      }
      const inverse = 1 / Math.sqrt(squares / columns + eps!);
      const along = (product * inverse ** 3) / columns;
      for (let k = 0; k < columns; k++) {
        const g = dy!.data[at + k]! * (weight!.data[k]! + offset!);
        dx!.data[at + k] = g * inverse - x!.data[at + k]! * along;
      }
    }
    return undefined;
  },
});

/** Gradient of `rmsNorm` by x: with g = dy * (weight + offset) and r = 1 / rms(x), `r g - x r³ mean(g x)`. */
export function rmsNormBack(x: Tensor, weight: Tensor, dy: Tensor, eps: number, offset = 0): Tensor {
  return rmsNormBackOp.run([x, weight, dy], [eps, offset]);
}
