// The head for masked tokens as BERT has it; DeBERTa v2 has the same.

import { scope, type Tensor } from "../core/tensor.js";
import type { EncoderBase } from "../nn/encoder.js";
import { Linear, Module } from "../nn/module.js";
import { LayerNorm } from "../nn/norm.js";
import type { Act } from "../ops/activation.js";
import { type BertConfig, type HeadConfig, ScoresHead } from "./_bert.js";

type MLMConfig = HeadConfig & Pick<BertConfig, "hidden_act">;

class BertPredictionHeadTransform extends Module {
  dense: Linear;
  LayerNorm: LayerNorm;
  readonly act: Act;

  constructor(c: MLMConfig) {
    super();
    this.dense = new Linear(c.hidden_size, c.hidden_size, { bias: true });
    this.LayerNorm = new LayerNorm(c.hidden_size, c.layer_norm_eps);
    this.act = c.hidden_act;
  }

  forward(x: Tensor): Tensor {
    return this.LayerNorm.forward(this.dense.forward(x, { act: this.act }));
  }
}

class BertLMPredictionHead extends ScoresHead {
  transform: BertPredictionHeadTransform;

  constructor(c: MLMConfig, base: EncoderBase) {
    super(c, base);
    this.transform = new BertPredictionHeadTransform(c);
  }
}

export class BertOnlyMLMHead extends Module {
  predictions: BertLMPredictionHead;

  constructor(c: MLMConfig, base: EncoderBase) {
    super();
    this.predictions = new BertLMPredictionHead(c, base);
  }

  forward(hidden: Tensor): Tensor {
    const { transform, decoder } = this.predictions;
    return scope(() => decoder.forward(transform.forward(hidden)));
  }
}
