// Attention in two steps, which holds its weights, T x S for each head: for dropout, and where a caller asks for it.

import { Tensor } from "../core/tensor.js";
import { mixValues, unitValues } from "../ops/attention.js";
import { filled } from "../ops/fill.js";
import { multiply } from "../ops/gated.js";
import { type FusedOptions, fused } from "./fused-attention.js";
import { stream } from "./init.js";

/**
 * What `fused` gives, from its weights: f32[B,T,H,E]. Each weight becomes 0 with probability `dropout`, and the others are divided
 * by 1 - dropout; the masks come from the generator of `manual_seed`.
 */
export function weighed(q: Tensor, k: Tensor, v: Tensor, options: FusedOptions, dropout: number): Tensor {
  const [batch = 0, steps = 0, heads = 0] = q.shape;
  const [, , keys = 0, size = 0] = v.shape;
  if (batch * steps * heads * keys * size === 0) {
    return filled(q.device, [batch, steps, heads, size], 0);
  }
  const weights = fused(q, k, unitValues(k), options); // [B,T,H,S]
  return mixValues(dropout === 0 ? weights : dropped(weights, dropout), v);
}

function dropped(weights: Tensor, dropout: number): Tensor {
  const draw = stream()();
  const mask = Float32Array.from({ length: weights.size }, () => (draw() < dropout ? 0 : 1 / (1 - dropout)));
  return multiply(weights, Tensor.from(weights.device, mask, weights.shape, "f32", "dropout"));
}
