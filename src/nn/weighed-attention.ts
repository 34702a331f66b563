// Attention in two steps, which holds its weights, T x S for each head: for dropout, and where a caller asks for it.

import { scope, Tensor } from "../core/tensor.js";
import { contiguous, copyInto } from "../ops/copy.js";
import { filled } from "../ops/fill.js";
import { multiply } from "../ops/gated.js";
import { linear } from "../ops/linear.js";
import { type FusedOptions, fused } from "./fused-attention.js";
import { stream } from "./init.js";

/**
 * What `fused` gives, from its weights: f32[B,T,H,E]. Each weight becomes 0 with probability `dropout`, and the others are divided
 * by 1 - dropout; the masks come from the generator of `manual_seed`.
 */
export function weighed(q: Tensor, k: Tensor, v: Tensor, options: FusedOptions, dropout: number): Tensor {
  const [batch = 0, steps = 0, heads = 0] = q.shape;
  const [, groups = 0, keys = 0, size = 0] = v.shape;
  if (dropout === 1 || batch * steps * heads * keys * size === 0) {
    return filled(q.device, [batch, steps, heads, size], 0);
  }
  // With the unit matrix for values the result is the weights.
  const unit = Float32Array.from({ length: keys * keys }, (_, at) => (at % (keys + 1) === 0 ? 1 : 0));
  const values = Tensor.from(q.device, unit, [1, 1, keys, keys]).expand(batch, groups, keys, keys);
  const weights = fused(q, k, values, options); // [B,T,H,S]
  return mix(dropout === 0 ? weights : dropped(weights, dropout), v);
}

function dropped(weights: Tensor, dropout: number): Tensor {
  const draw = stream()();
  const mask = Float32Array.from({ length: weights.size }, () => (draw() < dropout ? 0 : 1 / (1 - dropout)));
  return multiply(weights, Tensor.from(weights.device, mask, weights.shape, "f32", "dropout"));
}

/** Sums of v[B,G,S,E] by weights[B,T,H,S]: [B,T,H,E]. */
function mix(weights: Tensor, v: Tensor): Tensor {
  const [batch = 0, steps = 0, heads = 0] = weights.shape;
  const [, groups = 0, , size = 0] = v.shape;
  const share = heads / groups;
  const y = Tensor.empty(v.device, [batch, steps, heads, size], "f32", "attention");
  for (let b = 0; b < batch; b++) {
    for (let g = 0; g < groups; g++) {
      scope(() => {
        const own = contiguous(weights.select(0, b).narrow(1, g * share, share));
        const columns = contiguous(v.select(0, b).select(0, g).permute(1, 0), "f32");
        copyInto(linear(own, columns), y.select(0, b).narrow(1, g * share, share));
      });
    }
  }
  return y;
}
