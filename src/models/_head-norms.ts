// A LayerNorm of each head with weights of the head's own (StableLM 2, Cohere's), from one tensor for all heads or from one for each.

import { Tensor } from "../core/tensor.js";
import { Module, Parameter } from "../nn/module.js";
import { LayerNorm } from "../nn/norm.js";
import type { Pass } from "../nn/pass.js";
import { copyInto } from "../ops/copy.js";
import { multiply } from "../ops/gated.js";
import { layerNorm } from "../ops/layer-norm.js";

/** x[B,T,H,D] normalised along D, times weights[H,D]. */
function weighted(x: Tensor, weights: Tensor, eps: number): Tensor {
  const [batch = 0, steps = 0, heads = 0, size = 0] = x.shape;
  const wide = weights.view(1, 1, heads, size).expand(batch, steps, heads, size);
  return multiply(layerNorm(x, undefined, undefined, eps), wide);
}

/** Weights in a tensor for each head. */
export class NormPerHead extends Module {
  norms: LayerNorm[];
  readonly size: number;
  readonly eps: number;

  constructor(size: number, heads: number, eps: number) {
    super();
    this.norms = Array.from({ length: heads }, () => new LayerNorm(size, eps, true, false));
    this.size = size;
    this.eps = eps;
  }

  /** x[B,T,H,D] -> [B,T,H,D] */
  forward(x: Tensor, pass: Pass): Tensor {
    const weights = pass.once(this, x.device, () => {
      const rows = Tensor.empty(x.device, [this.norms.length, this.size], "f32", "weights of heads");
      for (const [head, { weight }] of this.norms.entries()) copyInto(weight!.value, rows.select(0, head));
      return rows;
    });
    return weighted(x, weights, this.eps);
  }
}

/** Weights of all heads in one tensor [H,D]. */
export class NormOfHeads extends Module {
  weight: Parameter;
  readonly eps: number;

  constructor(size: number, heads: number, eps: number) {
    super();
    this.weight = new Parameter(heads, size);
    this.eps = eps;
  }

  /** x[B,T,H,D] -> [B,T,H,D] */
  forward(x: Tensor, pass: Pass): Tensor {
    const { value } = this.weight;
    const weights = pass.once(this, x.device, () => {
      const own = Tensor.empty(x.device, value.shape, "f32", "weights of heads");
      copyInto(value, own);
      return own;
    });
    return weighted(x, weights, this.eps);
  }
}
