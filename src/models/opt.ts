// OPT (Zhang et al. 2022): learned positions with an offset of 2, ReLU. The 350m model differs: LayerNorm after each
// part, none at the end, and projections between a narrower embedding and the hidden size.

import * as z from "../core/schema.js";
import { scope, type Tensor } from "../core/tensor.js";
import type { Architecture } from "../nn/architecture.js";
import { attend } from "../nn/attend.js";
import { DecoderForCausalLM } from "../nn/decoder.js";
import { Embedding, Linear, Module } from "../nn/module.js";
import { LayerNorm } from "../nn/norm.js";
import { type Pass, runBlocks } from "../nn/pass.js";
import type { Act } from "../ops/activation.js";
import { add } from "../ops/add.js";
import { activationName, count, headSize, readConfig } from "./_config.js";
import { OffsetPositions } from "./_offset-positions.js";

const schema = z.object({
  vocab_size: count,
  hidden_size: count,
  ffn_dim: count,
  num_hidden_layers: count.max(1024),
  num_attention_heads: count,
  max_position_embeddings: count,
  word_embed_proj_dim: count.nullish(),
  activation_function: activationName.default("relu"),
  do_layer_norm_before: z.boolean().default(true),
  _remove_final_layer_norm: z.boolean().default(false),
  enable_bias: z.boolean().default(true),
  layer_norm_elementwise_affine: z.boolean().default(true),
  tie_word_embeddings: z.boolean().default(true),
});

type OPTConfig = z.infer<typeof schema>;

const EPSILON = 1e-5;
class OPTAttention extends Module {
  q_proj: Linear;
  k_proj: Linear;
  v_proj: Linear;
  out_proj: Linear;
  readonly layer: number;
  readonly heads: number;

  constructor(c: OPTConfig, layer: number) {
    super();
    const projection = (): Linear => new Linear(c.hidden_size, c.hidden_size, { bias: c.enable_bias });
    this.q_proj = projection();
    this.k_proj = projection();
    this.v_proj = projection();
    this.out_proj = projection();
    this.layer = layer;
    this.heads = c.num_attention_heads;
  }

  forward(x: Tensor, residual: Tensor, pass: Pass): Tensor {
    const [batch = 0, steps = 0, width = 0] = x.shape;
    const size = width / this.heads;
    const split = (projection: Linear): Tensor => projection.forward(x).view(batch, steps, this.heads, size);
    const [q, k, v] = [split(this.q_proj), split(this.k_proj), split(this.v_proj)]; // [B,T,H,D]
    return this.out_proj.forward(attend(pass, this.layer, q, k, v, { scale: size ** -0.5 }), { residual });
  }
}

class OPTDecoderLayer extends Module {
  self_attn: OPTAttention;
  self_attn_layer_norm: LayerNorm;
  fc1: Linear;
  fc2: Linear;
  final_layer_norm: LayerNorm;
  readonly norm_before: boolean;
  readonly act: Act;

  constructor(c: OPTConfig, layer: number) {
    super();
    const affine = c.layer_norm_elementwise_affine;
    this.self_attn = new OPTAttention(c, layer);
    this.self_attn_layer_norm = new LayerNorm(c.hidden_size, EPSILON, affine);
    this.fc1 = new Linear(c.hidden_size, c.ffn_dim, { bias: c.enable_bias });
    this.fc2 = new Linear(c.ffn_dim, c.hidden_size, { bias: c.enable_bias });
    this.final_layer_norm = new LayerNorm(c.hidden_size, EPSILON, affine);
    this.norm_before = c.do_layer_norm_before;
    this.act = c.activation_function;
  }

  forward(x: Tensor, pass: Pass): Tensor {
    const feedForward = (h: Tensor, residual: Tensor): Tensor =>
      this.fc2.forward(this.fc1.forward(h, { act: this.act }), { residual });
    if (this.norm_before) {
      const h = scope(() => this.self_attn.forward(this.self_attn_layer_norm.forward(x), x, pass));
      return feedForward(this.final_layer_norm.forward(h), h);
    }
    const h = scope(() => this.self_attn_layer_norm.forward(this.self_attn.forward(x, x, pass)));
    return this.final_layer_norm.forward(feedForward(h, h));
  }
}

class OPTDecoder extends Module {
  embed_tokens: Embedding;
  embed_positions: OffsetPositions;
  project_out: Linear | undefined;
  project_in: Linear | undefined;
  layers: OPTDecoderLayer[];
  final_layer_norm: LayerNorm | undefined;

  constructor(c: OPTConfig) {
    super();
    const narrow = c.word_embed_proj_dim ?? c.hidden_size;
    this.embed_tokens = new Embedding(c.vocab_size, narrow);
    this.embed_positions = new OffsetPositions(c.max_position_embeddings, c.hidden_size);
    this.project_out = narrow === c.hidden_size ? undefined : new Linear(c.hidden_size, narrow);
    this.project_in = narrow === c.hidden_size ? undefined : new Linear(narrow, c.hidden_size);
    this.layers = Array.from({ length: c.num_hidden_layers }, (_, layer) => new OPTDecoderLayer(c, layer));
    this.final_layer_norm =
      c.do_layer_norm_before && !c._remove_final_layer_norm
        ? new LayerNorm(c.hidden_size, EPSILON, c.layer_norm_elementwise_affine)
        : undefined;
  }

  forward(pass: Pass, ids: Tensor): Tensor {
    return scope(() => {
      const words = this.embed_tokens.forward(ids);
      const wide = this.project_in ? this.project_in.forward(words) : words;
      const embedded = add(wide, this.embed_positions.forward(pass.input.positions)); // [B,T,hidden]
      let h = runBlocks(this.layers, embedded, pass, (layer, x) => layer.forward(x, pass));
      if (this.final_layer_norm) h = this.final_layer_norm.forward(h);
      return this.project_out ? this.project_out.forward(h) : h;
    });
  }
}

class OPTModel extends Module {
  decoder: OPTDecoder;

  constructor(c: OPTConfig) {
    super();
    this.decoder = new OPTDecoder(c);
  }

  forward(pass: Pass, ids: Tensor): Tensor {
    return this.decoder.forward(pass, ids);
  }
}

function optForCausalLM(c: OPTConfig): DecoderForCausalLM {
  const base = new OPTModel(c);
  return new DecoderForCausalLM({
    name: "OPTForCausalLM",
    prefix: "model",
    base,
    layers: base.decoder.layers,
    words: base.decoder.embed_tokens,
    tied: c.tie_word_embeddings,
    sizes: {
      heads: c.num_attention_heads,
      groups: c.num_attention_heads,
      head_dim: headSize(c.hidden_size, c.num_attention_heads),
      hidden: c.hidden_size,
      max_positions: c.max_position_embeddings,
    },
  });
}

export const opt: Architecture = {
  model_type: "opt",
  tasks: { "causal-lm": (json) => optForCausalLM(readConfig(json, schema)) },
  names: [{ ignore: /^(model\.)?decoder\.version$/ }, { prefix: "model." }],
};
