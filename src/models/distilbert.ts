// DistilBERT (Sanh et al. 2019): BERT with half the layers, without token types and without a pooler.

import * as z from "../core/schema.js";
import { scope, type Tensor } from "../core/tensor.js";
import type { Architecture, ConfigJson } from "../nn/architecture.js";
import { attendAll } from "../nn/attend.js";
import { type EncoderBase, EncoderForTask, type EncoderGeometry } from "../nn/encoder.js";
import { Embedding, Linear, Module } from "../nn/module.js";
import { LayerNorm } from "../nn/norm.js";
import { type Pass, runBlocks } from "../nn/pass.js";
import type { Act } from "../ops/activation.js";
import { add } from "../ops/add.js";
import { featuresOf, firstToken, questionAnsweringOf, tokenClassifierOf } from "./_bert.js";
import { activationName, count, headSize, labelCount, readConfig } from "./_config.js";

const schema = z.object({
  vocab_size: count,
  dim: count,
  hidden_dim: count,
  n_layers: count.max(1024),
  n_heads: count,
  max_position_embeddings: count,
  activation: activationName.default("gelu"),
  // With either value the table of positions is a tensor of the file.
  sinusoidal_pos_embds: z.boolean().default(false),
  tie_word_embeddings: z.boolean().default(true),
  pad_token_id: z.int().nullable().default(0),
});

const ALIASES = {
  dim: ["hidden_size"],
  n_layers: ["num_hidden_layers"],
  n_heads: ["num_attention_heads"],
};

type DistilBertConfig = z.infer<typeof schema>;
const NAMES = { classes: "DistilBert", prefix: "distilbert" };
const EPSILON = 1e-12;

class DistilBertEmbeddings extends Module {
  word_embeddings: Embedding;
  position_embeddings: Embedding;
  LayerNorm: LayerNorm;

  constructor(c: DistilBertConfig) {
    super();
    this.word_embeddings = new Embedding(c.vocab_size, c.dim, c.pad_token_id);
    this.position_embeddings = new Embedding(c.max_position_embeddings, c.dim);
    this.LayerNorm = new LayerNorm(c.dim, EPSILON);
  }

  forward(pass: Pass, ids: Tensor): Tensor {
    const positions = this.position_embeddings.forward(pass.input.positions);
    return this.LayerNorm.forward(add(this.word_embeddings.forward(ids), positions));
  }
}

class DistilBertSelfAttention extends Module {
  q_lin: Linear;
  k_lin: Linear;
  v_lin: Linear;
  out_lin: Linear;
  readonly heads: number;

  constructor(c: DistilBertConfig) {
    super();
    const projection = (): Linear => new Linear(c.dim, c.dim, { bias: true });
    this.q_lin = projection();
    this.k_lin = projection();
    this.v_lin = projection();
    this.out_lin = projection();
    this.heads = c.n_heads;
  }

  forward(x: Tensor, pass: Pass): Tensor {
    const [batch = 0, steps = 0, width = 0] = x.shape;
    const size = width / this.heads;
    const split = (projection: Linear): Tensor => projection.forward(x).view(batch, steps, this.heads, size); // [B,T,H,D]
    const y = attendAll(pass, split(this.q_lin), split(this.k_lin), split(this.v_lin), { scale: size ** -0.5 });
    return this.out_lin.forward(y, { residual: x });
  }
}

class DistilBertFFN extends Module {
  lin1: Linear;
  lin2: Linear;
  readonly act: Act;

  constructor(c: DistilBertConfig) {
    super();
    this.lin1 = new Linear(c.dim, c.hidden_dim, { bias: true });
    this.lin2 = new Linear(c.hidden_dim, c.dim, { bias: true });
    this.act = c.activation;
  }

  forward(x: Tensor): Tensor {
    return this.lin2.forward(this.lin1.forward(x, { act: this.act }), { residual: x });
  }
}

class TransformerBlock extends Module {
  attention: DistilBertSelfAttention;
  sa_layer_norm: LayerNorm;
  ffn: DistilBertFFN;
  output_layer_norm: LayerNorm;

  constructor(c: DistilBertConfig) {
    super();
    this.attention = new DistilBertSelfAttention(c);
    this.sa_layer_norm = new LayerNorm(c.dim, EPSILON);
    this.ffn = new DistilBertFFN(c);
    this.output_layer_norm = new LayerNorm(c.dim, EPSILON);
  }

  forward(x: Tensor, pass: Pass): Tensor {
    const h = scope(() => this.sa_layer_norm.forward(this.attention.forward(x, pass)));
    return this.output_layer_norm.forward(this.ffn.forward(h));
  }
}

class Transformer extends Module {
  layer: TransformerBlock[];

  constructor(c: DistilBertConfig) {
    super();
    this.layer = Array.from({ length: c.n_layers }, () => new TransformerBlock(c));
  }
}

class DistilBertModel extends Module implements EncoderBase {
  embeddings: DistilBertEmbeddings;
  transformer: Transformer;
  readonly geometry: EncoderGeometry;

  constructor(c: DistilBertConfig) {
    super();
    headSize(c.dim, c.n_heads);
    this.embeddings = new DistilBertEmbeddings(c);
    this.transformer = new Transformer(c);
    this.geometry = {
      layers: c.n_layers,
      hidden: c.dim,
      vocab: c.vocab_size,
      token_types: 0,
      max_positions: c.max_position_embeddings,
    };
  }

  get words(): Embedding {
    return this.embeddings.word_embeddings;
  }

  get blocks(): readonly Module[] {
    return this.transformer.layer;
  }

  forward(pass: Pass, ids: Tensor): Tensor {
    const { layer } = this.transformer;
    return scope(() =>
      runBlocks(layer, this.embeddings.forward(pass, ids), pass, (block, x) => block.forward(x, pass)),
    );
  }
}

function maskedLM(c: DistilBertConfig): EncoderForTask {
  const base = new DistilBertModel(c);
  const vocab_transform = new Linear(c.dim, c.dim, { bias: true });
  const vocab_layer_norm = new LayerNorm(c.dim, EPSILON);
  const vocab_projector = new Linear(c.dim, c.vocab_size, { bias: true });
  if (c.tie_word_embeddings) vocab_projector.tie(base.embeddings.word_embeddings.weight);
  return new EncoderForTask({
    ...{ name: "DistilBertForMaskedLM", prefix: NAMES.prefix, base },
    heads: { vocab_transform, vocab_layer_norm, vocab_projector },
    unquantized: ["vocab_projector"],
    output_embeddings: vocab_projector,
    per_token: true,
    outputs: (hidden) => ({
      logits: vocab_projector.forward(vocab_layer_norm.forward(vocab_transform.forward(hidden, { act: c.activation }))),
    }),
  });
}

function sequenceClassifier(c: DistilBertConfig, labels: number): EncoderForTask {
  const base = new DistilBertModel(c);
  const pre_classifier = new Linear(c.dim, c.dim, { bias: true });
  const classifier = new Linear(c.dim, labels, { bias: true });
  return new EncoderForTask({
    ...{ name: "DistilBertForSequenceClassification", prefix: NAMES.prefix, base },
    heads: { pre_classifier, classifier },
    unquantized: ["classifier"],
    outputs: (hidden) => ({
      logits: classifier.forward(pre_classifier.forward(firstToken(hidden), { act: "relu" })),
    }),
  });
}

const read = (json: ConfigJson): DistilBertConfig => readConfig(json, schema, ALIASES);

export const distilbert: Architecture = {
  model_type: "distilbert",
  tasks: {
    base: (json) => featuresOf(NAMES, new DistilBertModel(read(json))),
    "masked-lm": (json) => maskedLM(read(json)),
    "sequence-classification": (json) => sequenceClassifier(read(json), labelCount(json)),
    "token-classification": (json) => tokenClassifierOf(NAMES, new DistilBertModel(read(json)), json),
    "question-answering": (json) => questionAnsweringOf(NAMES, new DistilBertModel(read(json))),
  },
  names: [{ ignore: /\.position_ids$/ }, { prefix: "distilbert." }],
};
