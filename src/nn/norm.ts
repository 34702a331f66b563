// Normalisation modules: LayerNorm and RMSNorm over the last dim.

import type { Tensor } from "../core/tensor.js";
import { layerNorm } from "../ops/layer-norm.js";
import { rmsNorm } from "../ops/rms-norm.js";
import { Module, Parameter } from "./module.js";

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
    return layerNorm(x, this.weight?.value, this.bias?.value, this.eps);
  }
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
    return rmsNorm(x, this.weight.value, this.eps, this.offset);
  }
}
