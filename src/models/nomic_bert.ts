// Nomic's BERT (Nussbaum et al. 2024), of nomic-embed-text: rotary positions, one fused projection for q, k and v, a gated feed-forward, no
// biases, and a LayerNorm after each part. Its embeddings of texts are means of states.

import * as z from "../core/schema.js";
import { scope, Tensor } from "../core/tensor.js";
import type { Architecture, ConfigJson } from "../nn/architecture.js";
import { attendAll } from "../nn/attend.js";
import type { EncoderBase, EncoderGeometry } from "../nn/encoder.js";
import { Embedding, Linear, Module } from "../nn/module.js";
import { LayerNorm } from "../nn/norm.js";
import { type Pass, runBlocks } from "../nn/pass.js";
import { type RopeFrequencies, ropeFields, ropeFrequencies } from "../nn/rope.js";
import { Rotary } from "../nn/rotary.js";
import type { Act } from "../ops/activation.js";
import { add } from "../ops/add.js";
import { gated } from "../ops/gated.js";
import { rope } from "../ops/rope.js";
import { featuresOf, tokenClassifierOf } from "./_bert.js";
import { activationName, count, epsilon, headSize, readConfig } from "./_config.js";

/** What files of the original code say of parts that this model does not have. */
const no = z.literal(false).default(false);

const schema = z.object({
  vocab_size: count.default(30_528),
  hidden_size: count.default(768),
  num_hidden_layers: count.max(1024).default(12),
  num_attention_heads: count.default(12),
  intermediate_size: count.default(3072),
  /** The original calls it by the whole feed-forward. */
  hidden_act: z.union([z.literal("swiglu").transform((): Act => "silu"), activationName]).default("silu"),
  layer_norm_eps: epsilon.default(1e-12),
  head_dim: count.nullish(),
  type_vocab_size: count.default(2),
  pad_token_id: z.int().nullable().default(0),
  rotary_emb_base: z.number().positive().default(1000),
  rotary_emb_fraction: z.literal(1).default(1),
  rotary_emb_interleaved: no,
  rotary_emb_scale_base: z.literal(null).optional(),
  rotary_scaling_factor: z.literal(null).optional(),
  ...{ causal: no, prenorm: no, parallel_block: no, use_rms_norm: no },
  ...{ qkv_proj_bias: no, mlp_fc1_bias: no, mlp_fc2_bias: no },
});

interface NomicConfig extends Omit<z.infer<typeof schema>, "head_dim"> {
  readonly head_dim: number;
  readonly rope: RopeFrequencies;
}

const ALIASES = {
  hidden_size: ["n_embd"],
  num_hidden_layers: ["n_layer"],
  num_attention_heads: ["n_head"],
  intermediate_size: ["n_inner"],
  hidden_act: ["activation_function"],
  layer_norm_eps: ["layer_norm_epsilon"],
};

function parse(json: ConfigJson): NomicConfig {
  const c = readConfig(json, schema, ALIASES);
  const head_dim = c.head_dim ?? headSize(c.hidden_size, c.num_attention_heads);
  return { ...c, head_dim, rope: ropeFrequencies({ ...ropeFields(json, c.rotary_emb_base), dim: head_dim }) };
}

class NomicEmbeddings extends Module {
  word_embeddings: Embedding;
  token_type_embeddings: Embedding;

  constructor(c: NomicConfig) {
    super();
    this.word_embeddings = new Embedding(c.vocab_size, c.hidden_size, c.pad_token_id);
    this.token_type_embeddings = new Embedding(c.type_vocab_size, c.hidden_size);
  }

  forward(pass: Pass, ids: Tensor): Tensor {
    const types = pass.input.token_types ?? Tensor.from(ids.device, new Int32Array(ids.size), ids.shape);
    return add(this.word_embeddings.forward(ids), this.token_type_embeddings.forward(types));
  }
}

class NomicAttention extends Module {
  Wqkv: Linear;
  out_proj: Linear;
  readonly head_dim: number;

  constructor(c: NomicConfig) {
    super();
    const inner = c.num_attention_heads * c.head_dim;
    this.Wqkv = new Linear(c.hidden_size, 3 * inner);
    this.out_proj = new Linear(inner, c.hidden_size);
    this.head_dim = c.head_dim;
  }

  forward(x: Tensor, pass: Pass, table: Tensor): Tensor {
    const [batch = 0, steps = 0] = x.shape;
    const qkv = this.Wqkv.forward(x).view(batch, steps, 3, -1, this.head_dim); // [B,T,3,H,D]
    const [q, k, v] = [rope(qkv.select(2, 0), table), rope(qkv.select(2, 1), table), qkv.select(2, 2)];
    return this.out_proj.forward(attendAll(pass, q, k, v, { scale: this.head_dim ** -0.5 }), { residual: x });
  }
}

/** fc2(act(fc12(x)) * fc11(x)) */
class NomicMLP extends Module {
  fc11: Linear;
  fc12: Linear;
  fc2: Linear;
  readonly act: Act;

  constructor(c: NomicConfig) {
    super();
    this.fc11 = new Linear(c.hidden_size, c.intermediate_size);
    this.fc12 = new Linear(c.hidden_size, c.intermediate_size);
    this.fc2 = new Linear(c.intermediate_size, c.hidden_size);
    this.act = c.hidden_act;
  }

  forward(x: Tensor): Tensor {
    return this.fc2.forward(gated(this.fc12.forward(x), this.fc11.forward(x), this.act), { residual: x });
  }
}

class NomicLayer extends Module {
  attn: NomicAttention;
  mlp: NomicMLP;
  norm1: LayerNorm;
  norm2: LayerNorm;

  constructor(c: NomicConfig) {
    super();
    this.attn = new NomicAttention(c);
    this.mlp = new NomicMLP(c);
    this.norm1 = new LayerNorm(c.hidden_size, c.layer_norm_eps);
    this.norm2 = new LayerNorm(c.hidden_size, c.layer_norm_eps);
  }

  forward(x: Tensor, pass: Pass, table: Tensor): Tensor {
    const h = scope(() => this.norm1.forward(this.attn.forward(x, pass, table)));
    return this.norm2.forward(this.mlp.forward(h));
  }
}

class NomicEncoder extends Module {
  layers: NomicLayer[];

  constructor(c: NomicConfig) {
    super();
    this.layers = Array.from({ length: c.num_hidden_layers }, () => new NomicLayer(c));
  }
}

class NomicBertModel extends Module implements EncoderBase {
  embeddings: NomicEmbeddings;
  emb_ln: LayerNorm;
  encoder: NomicEncoder;
  readonly rotary: Rotary;
  readonly geometry: EncoderGeometry;

  constructor(c: NomicConfig) {
    super();
    this.embeddings = new NomicEmbeddings(c);
    this.emb_ln = new LayerNorm(c.hidden_size, c.layer_norm_eps);
    this.encoder = new NomicEncoder(c);
    this.rotary = new Rotary(c.rope);
    this.geometry = {
      layers: c.num_hidden_layers,
      hidden: c.hidden_size,
      vocab: c.vocab_size,
      token_types: c.type_vocab_size,
      max_positions: Number.POSITIVE_INFINITY,
    };
  }

  get words(): Embedding {
    return this.embeddings.word_embeddings;
  }

  get blocks(): readonly Module[] {
    return this.encoder.layers;
  }

  forward(pass: Pass, ids: Tensor): Tensor {
    return scope(() => {
      const embedded = this.emb_ln.forward(this.embeddings.forward(pass, ids));
      return runBlocks(this.encoder.layers, embedded, pass, (layer, x) =>
        layer.forward(x, pass, this.rotary.table(pass, x.device)),
      );
    });
  }
}

const NAMES = { classes: "NomicBert", prefix: "nomic_bert" };

export const nomicBert: Architecture = {
  model_type: "nomic_bert",
  tasks: {
    base: (json) => featuresOf(NAMES, new NomicBertModel(parse(json))),
    "token-classification": (json) => tokenClassifierOf(NAMES, new NomicBertModel(parse(json)), json),
  },
  names: [{ ignore: /\.inv_freq$/ }, { prefix: "nomic_bert." }],
};
