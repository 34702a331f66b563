// layer_norm: normalisation over the last dim (Ba et al. 2016), with or without weight and bias.

import type { Tensor } from "../core/tensor.js";
import { Op } from "./op.js";

export const layerNormOp = new Op({
  signature: "layer_norm: x[..,K]:f32 weight[K]:f32|f16|bf16? bias[K]:f32|f16|bf16? ; eps:f32 -> y[..,K]:f32",
  reference({ x, weight, bias, y }, { eps }) {
    const columns = x!.shape.at(-1)!;
    for (let at = 0; at < x!.data.length; at += columns) {
      let mean = 0;
      for (let k = 0; k < columns; k++) mean += x!.data[at + k]!;
      mean /= columns;
      let variance = 0;
      for (let k = 0; k < columns; k++) variance += (x!.data[at + k]! - mean) ** 2;
      const inverse = 1 / Math.sqrt(variance / columns + eps!);
      for (let k = 0; k < columns; k++) {
        const normal = (x!.data[at + k]! - mean) * inverse;
        y!.data[at + k] = normal * (weight ? weight.data[k]! : 1) + (bias ? bias.data[k]! : 0);
      }
    }
    return undefined;
  },
});

/** `(x - mean) / sqrt(variance + eps) * weight + bias` over the last dim. */
export function layerNorm(x: Tensor, weight: Tensor | undefined, bias: Tensor | undefined, eps: number): Tensor {
  return layerNormOp.run([x, weight, bias], [eps]);
}
