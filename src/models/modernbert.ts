// ModernBERT (Warner et al. 2024): rotary positions, a norm before each part (but the first), a gated feed-forward, and layers
// that see all tokens among others that see only near ones.

import type { Device } from "../core/device.js";
import { scope, type Tensor } from "../core/tensor.js";
import type { Architecture } from "../nn/architecture.js";
import { attendAll } from "../nn/attend.js";
import { type EncoderBase, EncoderForTask, type EncoderGeometry, startAndEnd } from "../nn/encoder.js";
import { Buffer, Embedding, Linear, Module } from "../nn/module.js";
import type { LayerNorm } from "../nn/norm.js";
import { type Pass, runBlocks } from "../nn/pass.js";
import { ropeFrequencies } from "../nn/rope.js";
import type { Act } from "../ops/activation.js";
import { gated } from "../ops/gated.js";
import { pool } from "../ops/pool.js";
import { rope, ropeTable } from "../ops/rope.js";
import { featuresOf, firstToken } from "./_bert.js";
import { labelCount } from "./_config.js";
import { type Kind, type ModernBertConfig, norm, read, THETA } from "./_modernbert.js";

class ModernBertEmbeddings extends Module {
  tok_embeddings: Embedding;
  norm: LayerNorm;

  constructor(c: ModernBertConfig) {
    super();
    this.tok_embeddings = new Embedding(c.vocab_size, c.hidden_size);
    this.norm = norm(c);
  }

  forward(ids: Tensor): Tensor {
    return this.norm.forward(this.tok_embeddings.forward(ids));
  }
}

class ModernBertAttention extends Module {
  Wqkv: Linear;
  Wo: Linear;
  readonly head_dim: number;
  /** Keys nearer than this are seen, on both sides; undefined for all. */
  readonly window: number | undefined;

  constructor(c: ModernBertConfig, layer: number) {
    super();
    this.Wqkv = new Linear(c.hidden_size, 3 * c.hidden_size, { bias: c.attention_bias });
    this.Wo = new Linear(c.hidden_size, c.hidden_size, { bias: c.attention_bias });
    this.head_dim = c.head_dim;
    this.window = c.kinds[layer] === "sliding_attention" ? Math.floor(c.local_attention / 2) + 1 : undefined;
  }

  forward(x: Tensor, residual: Tensor, pass: Pass, table: Tensor): Tensor {
    const [batch = 0, steps = 0] = x.shape;
    const qkv = this.Wqkv.forward(x).view(batch, steps, 3, -1, this.head_dim); // [B,T,3,H,D]
    const [q, k, v] = [rope(qkv.select(2, 0), table), rope(qkv.select(2, 1), table), qkv.select(2, 2)];
    const window = this.window === undefined ? {} : { window: this.window };
    return this.Wo.forward(attendAll(pass, q, k, v, { scale: this.head_dim ** -0.5, ...window }), { residual });
  }
}

class ModernBertMLP extends Module {
  Wi: Linear;
  Wo: Linear;
  readonly act: Act;
  readonly inner: number;

  constructor(c: ModernBertConfig) {
    super();
    this.Wi = new Linear(c.hidden_size, 2 * c.intermediate_size, { bias: c.mlp_bias });
    this.Wo = new Linear(c.intermediate_size, c.hidden_size, { bias: c.mlp_bias });
    this.act = c.hidden_activation;
    this.inner = c.intermediate_size;
  }

  forward(x: Tensor, residual: Tensor): Tensor {
    const both = this.Wi.forward(x); // [B,T,2*inner]: what is activated, and its gate
    const half = (n: number): Tensor => both.narrow(2, n * this.inner, this.inner);
    return this.Wo.forward(gated(half(0), half(1), this.act), { residual });
  }
}

class ModernBertEncoderLayer extends Module {
  /** Absent in the first layer, whose input the embeddings have normalised. */
  attn_norm: LayerNorm | undefined;
  attn: ModernBertAttention;
  mlp_norm: LayerNorm;
  mlp: ModernBertMLP;
  readonly kind: Kind;

  constructor(c: ModernBertConfig, layer: number) {
    super();
    this.attn_norm = layer === 0 ? undefined : norm(c);
    this.attn = new ModernBertAttention(c, layer);
    this.mlp_norm = norm(c);
    this.mlp = new ModernBertMLP(c);
    this.kind = c.kinds[layer]!;
  }

  forward(x: Tensor, pass: Pass, table: Tensor): Tensor {
    const h = scope(() => this.attn.forward(this.attn_norm?.forward(x) ?? x, x, pass, table));
    return this.mlp.forward(this.mlp_norm.forward(h), h);
  }
}

class ModernBertModel extends Module implements EncoderBase {
  embeddings: ModernBertEmbeddings;
  layers: ModernBertEncoderLayer[];
  final_norm: LayerNorm;
  readonly full_frequencies: Buffer;
  readonly sliding_frequencies: Buffer;
  readonly geometry: EncoderGeometry;

  constructor(c: ModernBertConfig) {
    super();
    this.embeddings = new ModernBertEmbeddings(c);
    this.layers = Array.from({ length: c.num_hidden_layers }, (_, layer) => new ModernBertEncoderLayer(c, layer));
    this.final_norm = norm(c);
    const frequencies = (kind: Kind, given: number | null | undefined): Buffer => {
      const theta = c.rope_parameters?.[kind]?.rope_theta ?? given ?? THETA[kind];
      return new Buffer(() => ropeFrequencies({ theta, dim: c.head_dim, scaling: null }).inverse);
    };
    this.full_frequencies = frequencies("full_attention", c.global_rope_theta);
    this.sliding_frequencies = frequencies("sliding_attention", c.local_rope_theta);
    this.geometry = {
      layers: c.num_hidden_layers,
      hidden: c.hidden_size,
      vocab: c.vocab_size,
      token_types: 0,
      max_positions: c.max_position_embeddings,
    };
  }

  get words(): Embedding {
    return this.embeddings.tok_embeddings;
  }

  get blocks(): readonly Module[] {
    return this.layers;
  }

  forward(pass: Pass, ids: Tensor): Tensor {
    return scope(() => {
      const table = (kind: Kind, device: Device): Tensor => {
        const frequencies = kind === "full_attention" ? this.full_frequencies : this.sliding_frequencies;
        const make = (): Tensor => ropeTable(pass.at(device, pass.input.positions), frequencies.on(device));
        return pass.once(frequencies, device, make); // [B,T,2,D/2]
      };
      const h = runBlocks(this.layers, this.embeddings.forward(ids), pass, (layer, x) =>
        layer.forward(x, pass, table(layer.kind, x.device)),
      );
      return this.final_norm.forward(h);
    });
  }
}

class ModernBertPredictionHead extends Module {
  dense: Linear;
  norm: LayerNorm;
  readonly act: Act;

  constructor(c: ModernBertConfig) {
    super();
    this.dense = new Linear(c.hidden_size, c.hidden_size, { bias: c.classifier_bias });
    this.norm = norm(c);
    this.act = c.classifier_activation;
  }

  forward(hidden: Tensor): Tensor {
    return this.norm.forward(this.dense.forward(hidden, { act: this.act }));
  }
}

function maskedLM(c: ModernBertConfig): EncoderForTask {
  const base = new ModernBertModel(c);
  const head = new ModernBertPredictionHead(c);
  const decoder = new Linear(c.hidden_size, c.vocab_size, { bias: c.decoder_bias });
  if (c.tie_word_embeddings) decoder.tie(base.embeddings.tok_embeddings.weight);
  return new EncoderForTask({
    ...{ name: "ModernBertForMaskedLM", prefix: "model", base, heads: { head, decoder } },
    unquantized: ["decoder"],
    output_embeddings: decoder,
    per_token: true,
    outputs: (hidden) => ({ logits: decoder.forward(head.forward(hidden)) }),
  });
}

/** Scores for `labels` labels: of the whole text if `pooled`, else of each token. */
function classifierOf(c: ModernBertConfig, name: string, labels: number, pooled: boolean): EncoderForTask {
  const base = new ModernBertModel(c);
  const head = new ModernBertPredictionHead(c);
  const classifier = new Linear(c.hidden_size, labels, { bias: true });
  const poolOf = (hidden: Tensor, pass: Pass): Tensor =>
    c.classifier_pooling === "cls" ? firstToken(hidden) : pool(hidden, pass.input.mask, "mean");
  return new EncoderForTask({
    ...{ name, prefix: "model", base, heads: { head, classifier } },
    unquantized: ["classifier"],
    per_token: !pooled,
    outputs: (hidden, pass) => ({
      logits: classifier.forward(head.forward(pooled ? poolOf(hidden, pass) : hidden)),
    }),
  });
}

/** Where an answer starts and ends. */
function answersOf(c: ModernBertConfig): EncoderForTask {
  const base = new ModernBertModel(c);
  const head = new ModernBertPredictionHead(c);
  const classifier = new Linear(c.hidden_size, 2, { bias: true });
  return new EncoderForTask({
    ...{ name: "ModernBertForQuestionAnswering", prefix: "model", base, heads: { head, classifier } },
    unquantized: ["classifier"],
    per_token: true,
    outputs: (hidden) => startAndEnd(classifier.forward(head.forward(hidden))),
  });
}

export const modernbert: Architecture = {
  model_type: "modernbert",
  tasks: {
    base: (json) => featuresOf({ classes: "ModernBert", prefix: "model" }, new ModernBertModel(read(json))),
    "masked-lm": (json) => maskedLM(read(json)),
    "sequence-classification": (json) =>
      classifierOf(read(json), "ModernBertForSequenceClassification", labelCount(json), true),
    "token-classification": (json) =>
      classifierOf(read(json), "ModernBertForTokenClassification", labelCount(json), false),
    "question-answering": (json) => answersOf(read(json)),
  },
  names: [{ ignore: /rotary_emb\./ }, { prefix: "model." }],
};
