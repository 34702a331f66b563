// BERT (Devlin et al. 2018): an encoder with learned positions, LayerNorm after each part, and heads for masked tokens, texts,
// tokens and answers.

import * as z from "../core/schema.js";
import type { Architecture, ConfigJson } from "../nn/architecture.js";
import { EncoderForTask } from "../nn/encoder.js";
import { Linear } from "../nn/module.js";
import { type BertConfig, BertModel, bertFields, featuresOf, questionAnsweringOf, tokenClassifierOf } from "./_bert.js";
import { BertOnlyMLMHead } from "./_bert-mlm.js";
import { labelCount, readConfig } from "./_config.js";

const schema = z.object(bertFields);
const NAMES = { classes: "Bert", prefix: "bert" };

function maskedLM(c: BertConfig): EncoderForTask {
  const base = new BertModel(c, false);
  const cls = new BertOnlyMLMHead(c, base);
  return new EncoderForTask({
    ...{ name: "BertForMaskedLM", prefix: "bert", base, heads: { cls } },
    unquantized: ["cls"],
    output_embeddings: cls.predictions.decoder,
    per_token: true,
    outputs: (hidden) => ({ logits: cls.forward(hidden) }),
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
