// BERT (Devlin et al. 2018): an encoder with learned positions, LayerNorm after each part, and heads for masked tokens, texts,
// tokens and answers.

import * as z from "zod";
import type { Tensor } from "../core/tensor.js";
import { scope } from "../core/tensor.js";
import type { Architecture, ConfigJson } from "../nn/architecture.js";
import { EncoderForTask } from "../nn/encoder.js";
import { Linear, Module } from "../nn/module.js";
import { LayerNorm } from "../nn/norm.js";
import type { Act } from "../ops/activation.js";
import {
  type BertConfig,
  BertModel,
  bertFields,
  featuresOf,
  questionAnsweringOf,
  ScoresHead,
  tokenClassifierOf,
} from "./_bert.js";
import { labelCount, readConfig } from "./_config.js";

const schema = z.object(bertFields);
const NAMES = { classes: "Bert", prefix: "bert" };

class BertPredictionHeadTransform extends Module {
  dense: Linear;
  LayerNorm: LayerNorm;
  readonly act: Act;

  constructor(c: BertConfig) {
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

  constructor(c: BertConfig, base: BertModel) {
    super(c, base);
    this.transform = new BertPredictionHeadTransform(c);
  }
}

class BertOnlyMLMHead extends Module {
  predictions: BertLMPredictionHead;

  constructor(c: BertConfig, base: BertModel) {
    super();
    this.predictions = new BertLMPredictionHead(c, base);
  }
}

function maskedLM(c: BertConfig): EncoderForTask {
  const base = new BertModel(c, false);
  const cls = new BertOnlyMLMHead(c, base);
  const { transform, decoder } = cls.predictions;
  return new EncoderForTask({
    ...{ name: "BertForMaskedLM", prefix: "bert", base, heads: { cls } },
    unquantized: ["cls"],
    output_embeddings: decoder,
    per_token: true,
    outputs: (hidden) => ({ logits: scope(() => decoder.forward(transform.forward(hidden))) }),
  });
}

function sequenceClassifier(c: BertConfig, labels: number): EncoderForTask {
  const base = new BertModel(c, true);
  const classifier = new Linear(c.hidden_size, labels, { bias: true });
  return new EncoderForTask({
    ...{ name: "BertForSequenceClassification", prefix: "bert", base, heads: { classifier } },
    unquantized: ["classifier"],
    outputs: (hidden) => ({ logits: classifier.forward(base.pooled(hidden)) }),
  });
}

const read = (json: ConfigJson): BertConfig => readConfig(json, schema);

export const bert: Architecture = {
  model_type: "bert",
  tasks: {
    base: (json) => featuresOf(NAMES, new BertModel(read(json), true)),
    "masked-lm": (json) => maskedLM(read(json)),
    "sequence-classification": (json) => sequenceClassifier(read(json), labelCount(json)),
    "token-classification": (json) => tokenClassifierOf(NAMES, new BertModel(read(json), false), json),
    "question-answering": (json) => questionAnsweringOf(NAMES, new BertModel(read(json), false)),
  },
  names: [
    { ignore: /\.position_ids$/ },
    { ignore: /^cls\.seq_relationship\./ },
    { rename: /LayerNorm\.gamma$/, to: "LayerNorm.weight" },
    { rename: /LayerNorm\.beta$/, to: "LayerNorm.bias" },
    { prefix: "bert." },
  ],
};
