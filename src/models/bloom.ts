// BLOOM (BigScience 2022): ALiBi instead of positions, a LayerNorm right after the embedding, one fused projection whose
// rows are interleaved per head ([H, 3, D]).

import * as z from "../core/schema.js";
import { scope, type Tensor } from "../core/tensor.js";
import { alibiSlopes } from "../nn/alibi.js";
import type { Architecture } from "../nn/architecture.js";
import { attend } from "../nn/attend.js";
import { DecoderForCausalLM } from "../nn/decoder.js";
import { Buffer, Embedding, Linear, Module } from "../nn/module.js";
import { LayerNorm } from "../nn/norm.js";
import { type Pass, runBlocks } from "../nn/pass.js";
import { count, epsilon, headSize, readConfig } from "./_config.js";

const schema = z.object({
  vocab_size: count,
  hidden_size: count,
  n_layer: count.max(1024),
  n_head: count,
  layer_norm_epsilon: epsilon.default(1e-5),
  apply_residual_connection_post_layernorm: z.boolean().default(false),
  tie_word_embeddings: z.boolean().default(true),
});

type BloomConfig = z.infer<typeof schema>;

const ALIASES = {
  hidden_size: ["n_embed"],
  n_layer: ["num_hidden_layers"],
  n_head: ["num_attention_heads"],
};

class BloomAttention extends Module {
  query_key_value: Linear;
  dense: Linear;
  readonly layer: number;
  readonly heads: number;

  constructor(c: BloomConfig, layer: number) {
    super();
    this.query_key_value = new Linear(c.hidden_size, 3 * c.hidden_size, { bias: true });
    this.dense = new Linear(c.hidden_size, c.hidden_size, { bias: true });
    this.layer = layer;
    this.heads = c.n_head;
  }

  forward(x: Tensor, residual: Tensor, pass: Pass, slopes: Tensor): Tensor {
    const [batch = 0, steps = 0, width = 0] = x.shape;
    const size = width / this.heads;
    const qkv = this.query_key_value.forward(x).view(batch, steps, this.heads, 3, size); // [B,T,H,3,D]
    const [q, k, v] = [qkv.select(3, 0), qkv.select(3, 1), qkv.select(3, 2)];
    return this.dense.forward(attend(pass, this.layer, q, k, v, { scale: size ** -0.5, slopes }), { residual });
  }
}

class BloomMLP extends Module {
  dense_h_to_4h: Linear;
  dense_4h_to_h: Linear;

  constructor(c: BloomConfig) {
    super();
    this.dense_h_to_4h = new Linear(c.hidden_size, 4 * c.hidden_size, { bias: true });
    this.dense_4h_to_h = new Linear(4 * c.hidden_size, c.hidden_size, { bias: true });
  }

  forward(x: Tensor, residual: Tensor): Tensor {
    return this.dense_4h_to_h.forward(this.dense_h_to_4h.forward(x, { act: "gelu_tanh" }), { residual });
  }
}

class BloomBlock extends Module {
  input_layernorm: LayerNorm;
  self_attention: BloomAttention;
  post_attention_layernorm: LayerNorm;
  mlp: BloomMLP;
  readonly residual_after_norm: boolean;

  constructor(c: BloomConfig, layer: number) {
    super();
    this.input_layernorm = new LayerNorm(c.hidden_size, c.layer_norm_epsilon);
    this.self_attention = new BloomAttention(c, layer);
    this.post_attention_layernorm = new LayerNorm(c.hidden_size, c.layer_norm_epsilon);
    this.mlp = new BloomMLP(c);
    this.residual_after_norm = c.apply_residual_connection_post_layernorm;
  }

  forward(x: Tensor, pass: Pass, slopes: Tensor): Tensor {
    const a = this.input_layernorm.forward(x);
    const h = this.self_attention.forward(a, this.residual_after_norm ? a : x, pass, slopes);
    const b = this.post_attention_layernorm.forward(h);
    return this.mlp.forward(b, this.residual_after_norm ? b : h);
  }
}

class BloomModel extends Module {
  word_embeddings: Embedding;
  word_embeddings_layernorm: LayerNorm;
  h: BloomBlock[];
  ln_f: LayerNorm;
  readonly slopes: Buffer;

  constructor(c: BloomConfig) {
    super();
    this.word_embeddings = new Embedding(c.vocab_size, c.hidden_size);
    this.word_embeddings_layernorm = new LayerNorm(c.hidden_size, c.layer_norm_epsilon);
    this.h = Array.from({ length: c.n_layer }, (_, layer) => new BloomBlock(c, layer));
    this.ln_f = new LayerNorm(c.hidden_size, c.layer_norm_epsilon);
    this.slopes = new Buffer(() => alibiSlopes(c.n_head));
  }

  forward(pass: Pass, ids: Tensor): Tensor {
    return scope(() => {
      const words = this.word_embeddings_layernorm.forward(this.word_embeddings.forward(ids)); // [B,T,hidden]
      const h = runBlocks(this.h, words, pass, (block, x) => block.forward(x, pass, this.slopes.on(x.device)));
      return this.ln_f.forward(h);
    });
  }
}

function bloomForCausalLM(c: BloomConfig): DecoderForCausalLM {
  const base = new BloomModel(c);
  return new DecoderForCausalLM({
    name: "BloomForCausalLM",
    prefix: "transformer",
    base,
    layers: base.h,
    words: base.word_embeddings,
    tied: c.tie_word_embeddings,
    sizes: {
      heads: c.n_head,
      groups: c.n_head,
      head_dim: headSize(c.hidden_size, c.n_head),
      hidden: c.hidden_size,
      max_positions: Number.POSITIVE_INFINITY,
    },
  });
}

export const bloom: Architecture = {
  model_type: "bloom",
  tasks: { "causal-lm": (json) => bloomForCausalLM(readConfig(json, schema, ALIASES)) },
  names: [{ prefix: "transformer." }],
};
