// ELECTRA (Clark et al. 2020): BERT's layers behind tables of another width. Not here: the discriminator's own head, which tells
// replaced tokens from others.

import { UnsupportedModelError } from "../core/errors.js";
import * as z from "../core/schema.js";
import { scope, type Tensor } from "../core/tensor.js";
import type { Architecture, ConfigJson } from "../nn/architecture.js";
import { EncoderForTask } from "../nn/encoder.js";
import { Linear, Module } from "../nn/module.js";
import { LayerNorm } from "../nn/norm.js";
import { BertModel, bertFields, featuresOf, questionAnsweringOf, tokenClassifierOf } from "./_bert.js";
import { count, labelCount, readConfig } from "./_config.js";
import { ClassificationHead } from "./_roberta.js";

const schema = z.object({ ...bertFields, embedding_size: count.default(128) });
type ElectraConfig = z.infer<typeof schema>;
const DISCRIMINATOR = "ElectraForPreTraining";
const NAMES = { classes: "Electra", prefix: "electra" };

class ElectraGeneratorPredictions extends Module {
  LayerNorm: LayerNorm;
  dense: Linear;

  constructor(c: ElectraConfig) {
    super();
    this.LayerNorm = new LayerNorm(c.embedding_size, c.layer_norm_eps);
    this.dense = new Linear(c.hidden_size, c.embedding_size, { bias: true });
  }

  forward(hidden: Tensor): Tensor {
    return this.LayerNorm.forward(this.dense.forward(hidden, { act: "gelu" }));
  }
}

/** @throws UnsupportedModelError for a discriminator's file, which has no scores for words */
function maskedLM(c: ElectraConfig, { architectures }: ConfigJson): EncoderForTask {
  if (Array.isArray(architectures) && architectures[0] === DISCRIMINATOR) {
    throw new UnsupportedModelError(`"${DISCRIMINATOR}" tells replaced tokens from others: its head is not supported`, {
      hint: "it serves features and classifiers; scores for masked tokens are in the generator's folder",
      details: { model_type: "electra", task: "masked-lm" },
    });
  }
  const base = new BertModel(c, false);
  const generator_predictions = new ElectraGeneratorPredictions(c);
  const generator_lm_head = new Linear(c.embedding_size, c.vocab_size, { bias: true });
  if (c.tie_word_embeddings) generator_lm_head.tie(base.words.weight);
  return new EncoderForTask({
    ...{ name: "ElectraForMaskedLM", prefix: NAMES.prefix, base },
    heads: { generator_predictions, generator_lm_head },
    unquantized: ["generator_lm_head"],
    output_embeddings: generator_lm_head,
    per_token: true,
    outputs: (hidden) => ({
      logits: scope(() => generator_lm_head.forward(generator_predictions.forward(hidden))),
    }),
  });
}

function sequenceClassifier(c: ElectraConfig, labels: number): EncoderForTask {
  const base = new BertModel(c, false);
  const classifier = new ClassificationHead(c, labels, "gelu");
  return new EncoderForTask({
    ...{ name: "ElectraForSequenceClassification", prefix: NAMES.prefix, base, heads: { classifier } },
    unquantized: ["classifier.out_proj"],
    outputs: (hidden) => ({ logits: classifier.forward(hidden) }),
  });
}

const read = (json: ConfigJson): ElectraConfig => readConfig(json, schema);

export const electra: Architecture = {
  model_type: "electra",
  tasks: {
    base: (json) => featuresOf(NAMES, new BertModel(read(json), false)),
    "masked-lm": (json) => maskedLM(read(json), json),
    "sequence-classification": (json) => sequenceClassifier(read(json), labelCount(json)),
    "token-classification": (json) => tokenClassifierOf(NAMES, new BertModel(read(json), false), json),
    "question-answering": (json) => questionAnsweringOf(NAMES, new BertModel(read(json), false)),
  },
  names: [{ ignore: /\.position_ids$/ }, { prefix: "electra." }],
};
