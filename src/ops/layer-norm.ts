// layer_norm: normalisation over the last dim (Ba et al. 2016), with or without weight and bias.

import type { Tensor } from "../core/tensor.js";
import { multiply } from "./gated.js";
import { type HostTensor, Op } from "./op.js";
import { sumRows } from "./sum-rows.js";

/** Mean and 1 / deviation of the row of x that begins at element `at`. */
function moments({ data }: HostTensor, at: number, columns: number, eps: number): { mean: number; inverse: number } {
  let mean = 0;
  for (let k = 0; k < columns; k++) mean += data[at + k]!;
  mean /= columns;
  let variance = 0;
  for (let k = 0; k < columns; k++) variance += (data[at + k]! - mean) ** 2;
  return { mean, inverse: 1 / Math.sqrt(variance / columns + eps) };
}

export const layerNormOp = new Op({
  signature: "layer_norm: x[..,K]:f32 weight[K]:f32|f16|bf16? bias[K]:f32|f16|bf16? ; eps:f32 -> y[..,K]:f32",
  reference({ x, weight, bias, y }, { eps }) {
    const columns = x!.shape.at(-1)!;
    for (let at = 0; at < x!.data.length; at += columns) {
      const { mean, inverse } = moments(x!, at, columns, eps!);
      for (let k = 0; k < columns; k++) {
        const normal = (x!.data[at + k]! - mean) * inverse;
        y!.data[at + k] = normal * (weight ? weight.data[k]! : 1) + (bias ? bias.data[k]! : 0);
      }
    }
    return undefined;
  },
  gradient({ inputs: [x, weight], attributes: [eps = 0], dy: [dy], wanted }) {
    return [
      wanted[0] ? layerNormBack(x!, weight, dy!, eps) : undefined,
      wanted[1] ? sumRows(multiply(layerNorm(x!, undefined, undefined, eps), dy!)) : undefined,
      wanted[2] ? sumRows(dy!) : undefined,
    ];
  },
  // The bias only for a result that is computed again.
  keeps: (wanted) => (wanted[0] || wanted[1] ? ["x", "weight", "bias"] : []),
  cheap: true,
});

/** `(x - mean) / sqrt(variance + eps) * weight + bias` over the last dim. */
export function layerNorm(x: Tensor, weight: Tensor | undefined, bias: Tensor | undefined, eps: number): Tensor {
  return layerNormOp.run([x, weight, bias], [eps]);
}

export const layerNormBackOp = new Op({
  signature: "layer_norm_back: x[..,K]:f32 weight[K]:f32|f16|bf16? dy[..,K]:f32 ; eps:f32 -> dx[..,K]:f32",
  reference({ x, weight, dy, dx }, { eps }) {
    const columns = x!.shape.at(-1)!;
    for (let at = 0; at < x!.data.length; at += columns) {
      const { mean, inverse } = moments(x!, at, columns, eps!);
      let total = 0;
      let product = 0;
      for (let k = 0; k < columns; k++) {
        const g = dy!.data[at + k]! * (weight ? weight.data[k]! : 1);
        total += g;
        product += g * (x!.data[at + k]! - mean);
      }
      for (let k = 0; k < columns; k++) {
        const g = dy!.data[at + k]! * (weight ? weight.data[k]! : 1);
        const along = ((x!.data[at + k]! - mean) * product * inverse ** 2) / columns;
        dx!.data[at + k] = (g - total / columns - along) * inverse;
      }
    }
    return undefined;
  },
});

/**
 * Gradient of `layerNorm` by x: with g = dy * weight, n the normalised x and r = 1 / deviation,
 * `r (g - mean(g) - n mean(g n))`.
 */
export function layerNormBack(x: Tensor, weight: Tensor | undefined, dy: Tensor, eps: number): Tensor {
  return layerNormBackOp.run([x, weight, dy], [eps]);
}
