// Heads that RoBERTa, MPNet and ELECTRA share.

import { scope, type Tensor } from "../core/tensor.js";
import type { EncoderBase } from "../nn/encoder.js";
import { Linear, Module } from "../nn/module.js";
import { LayerNorm } from "../nn/norm.js";
import type { Act } from "../ops/activation.js";
import { firstToken, type HeadConfig, ScoresHead } from "./_bert.js";

/** Scores for each word of the vocabulary, with a GELU whatever the layers have. */
export class GeluScoresHead extends ScoresHead {
  dense: Linear;
  layer_norm: LayerNorm;

  constructor(c: HeadConfig, base: EncoderBase) {
    super(c, base);
    this.dense = new Linear(c.hidden_size, c.hidden_size, { bias: true });
    this.layer_norm = new LayerNorm(c.hidden_size, c.layer_norm_eps);
  }

  forward(hidden: Tensor): Tensor {
    return scope(() => this.decoder.forward(this.layer_norm.forward(this.dense.forward(hidden, { act: "gelu" }))));
  }
}

/** Scores for labels of a text by its first token. */
export class ClassificationHead extends Module {
  dense: Linear;
  out_proj: Linear;
  readonly act: Act;

  constructor(c: HeadConfig, labels: number, act: Act) {
    super();
    this.dense = new Linear(c.hidden_size, c.hidden_size, { bias: true });
    this.out_proj = new Linear(c.hidden_size, labels, { bias: true });
    this.act = act;
  }

  forward(hidden: Tensor): Tensor {
    return scope(() => this.out_proj.forward(this.dense.forward(firstToken(hidden), { act: this.act })));
  }
}
