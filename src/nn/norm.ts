// Normalisation modules: LayerNorm and RMSNorm over the last dim, GroupNorm over time; and weights that are normalised.

import { scope, Tensor } from "../core/tensor.js";
import { add } from "../ops/add.js";
import { contiguous, copyInto } from "../ops/copy.js";
import { filled } from "../ops/fill.js";
import { multiply } from "../ops/gated.js";
import { layerNorm } from "../ops/layer-norm.js";
import { rmsNorm } from "../ops/rms-norm.js";
import { scale } from "../ops/scale.js";
import { Module, Parameter, within } from "./module.js";

export class LayerNorm extends Module {
  weight: Parameter | undefined;
  bias: Parameter | undefined;
  readonly eps: number;

  /** @param affine with a weight; @param bias and a bias */
  constructor(size: number, eps: number, affine = true, bias = affine) {
    super();
    this.weight = affine ? new Parameter(size) : undefined;
    this.bias = bias ? new Parameter(size) : undefined;
    this.eps = eps;
  }

  forward(x: Tensor): Tensor {
    return within(x.device, this.path, () => layerNorm(x, this.weight?.value, this.bias?.value, this.eps));
  }
}

/** Elements of a block of biases that are added at once: 8 MB. */
const PIECE = 1 << 21;

/** x[B,T,C] over time and the channels of each group; then a weight and a bias for each channel. */
export class GroupNorm extends Module {
  weight: Parameter;
  bias: Parameter;
  readonly groups: number;
  readonly eps: number;

  constructor(groups: number, channels: number, eps: number) {
    super();
    this.weight = new Parameter(channels);
    this.bias = new Parameter(channels);
    this.groups = groups;
    this.eps = eps;
  }

  forward(x: Tensor): Tensor {
    return within(x.device, this.path, () => this.#normalised(x));
  }

  #normalised(x: Tensor): Tensor {
    return scope(() => {
      const [batch = 0, steps = 0, channels = 0] = x.shape;
      const lines = contiguous(x.permute(0, 2, 1)).view(batch * this.groups, -1); // a group in a row
      const normal = layerNorm(lines, undefined, undefined, this.eps).view(batch, channels, steps);
      const rows = contiguous(normal.permute(0, 2, 1)).view(batch * steps, channels);
      const y = Tensor.empty(x.device, rows.shape, "f32", "group norm");
      const [weight, bias] = [this.weight, this.bias].map(({ value }) => contiguous(value, "f32").view(1, channels));
      const step = Math.min(rows.shape[0]!, Math.max(1, Math.floor(PIECE / channels)));
      const biases = contiguous(bias!.expand(step, channels));
      for (let at = 0; at < rows.shape[0]!; at += step) {
        const n = Math.min(step, rows.shape[0]! - at);
        scope(() => {
          const scaled = multiply(rows.narrow(0, at, n), weight!.expand(n, channels));
          copyInto(add(scaled, biases.narrow(0, 0, n)), y.narrow(0, at, n));
        });
      }
      return y.view(batch, steps, channels);
    });
  }
}

/**
 * The product of directions and their magnitudes along dim `dim`, f32: each direction is divided by its norm over all other
 * dims.
 */
export function weightNorm(direction: Tensor, magnitude: Tensor, dim: number): Tensor {
  return scope(() => {
    const { shape, device } = direction;
    const order = [dim, ...shape.map((_, d) => d).filter((d) => d !== dim)];
    const turned = contiguous(contiguous(direction, "f32").permute(...order));
    const rows = turned.view(shape[dim]!, -1);
    const [count = 0, size = 0] = rows.shape;
    // rms_norm divides by the norm and multiplies by the root of the size.
    const unit = rmsNorm(rows, filled(device, [size], 1), 0);
    const factors = contiguous(scale(contiguous(magnitude, "f32").view(count, 1), size ** -0.5).expand(count, size));
    const back = shape.map((_, d) => order.indexOf(d));
    return contiguous(
      multiply(unit, factors)
        .view(...turned.shape)
        .permute(...back),
    );
  });
}

export class RMSNorm extends Module {
  weight: Parameter;
  readonly eps: number;
  /** 1 where the checkpoint stores weight - 1 (Gemma). */
  readonly offset: number;

  constructor(size: number, eps: number, offset = 0) {
    super();
    this.weight = new Parameter(size);
    this.eps = eps;
    this.offset = offset;
  }

  forward(x: Tensor): Tensor {
    return within(x.device, this.path, () => rmsNorm(x, this.weight.value, this.eps, this.offset));
  }
}
