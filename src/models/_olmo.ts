// What OLMo 2 and 3 share (Team OLMo 2025): a decoder like LLaMA's with its norms behind attention and feed-forward instead of before
// them, and over all queries and all keys, before these are split into heads.

import { scope, type Tensor } from "../core/tensor.js";
import { type AttendOptions, attend } from "../nn/attend.js";
import { DecoderForCausalLM } from "../nn/decoder.js";
import { Embedding, Linear, Module } from "../nn/module.js";
import { RMSNorm } from "../nn/norm.js";
import { type Pass, runBlocks } from "../nn/pass.js";
import { Rotary } from "../nn/rotary.js";
import type { Act } from "../ops/activation.js";
import { add } from "../ops/add.js";
import { gated } from "../ops/gated.js";
import { rope } from "../ops/rope.js";
import { epsilon } from "./_config.js";
import { type LlamaConfig, llamaFields } from "./_llama.js";

/** Fields of config.json that they share. */
export const olmoFields = { ...llamaFields, rms_norm_eps: epsilon.default(1e-5) };

class OlmoAttention extends Module {
  q_proj: Linear;
  k_proj: Linear;
  v_proj: Linear;
  o_proj: Linear;
  q_norm: RMSNorm;
  k_norm: RMSNorm;
  readonly layer: number;
  readonly head_dim: number;
  readonly options: AttendOptions;

  constructor(c: LlamaConfig, layer: number) {
    super();
    const width = c.num_attention_heads * c.head_dim;
    const shared = c.num_key_value_heads * c.head_dim;
    const bias = c.attention_bias;
    this.q_proj = new Linear(c.hidden_size, width, { bias });
    this.k_proj = new Linear(c.hidden_size, shared, { bias });
    this.v_proj = new Linear(c.hidden_size, shared, { bias });
    this.o_proj = new Linear(width, c.hidden_size, { bias });
    this.q_norm = new RMSNorm(width, c.rms_norm_eps);
    this.k_norm = new RMSNorm(shared, c.rms_norm_eps);
    this.layer = layer;
    this.head_dim = c.head_dim;
    this.options = { scale: c.head_dim ** -0.5, window: c.traits.window?.(layer) };
  }

  forward(x: Tensor, pass: Pass, table: Tensor): Tensor {
    const [batch = 0, steps = 0] = x.shape;
    const heads = (y: Tensor): Tensor => y.view(batch, steps, -1, this.head_dim); // [B,T,H,D]
    const q = rope(heads(this.q_norm.forward(this.q_proj.forward(x))), table);
    const k = rope(heads(this.k_norm.forward(this.k_proj.forward(x))), table);
    const y = attend(pass, this.layer, q, k, heads(this.v_proj.forward(x)), this.options);
    return this.o_proj.forward(y);
  }
}

class OlmoMLP extends Module {
  gate_proj: Linear;
  up_proj: Linear;
  down_proj: Linear;
  readonly act: Act;

  constructor(c: LlamaConfig) {
    super();
    this.gate_proj = new Linear(c.hidden_size, c.intermediate_size);
    this.up_proj = new Linear(c.hidden_size, c.intermediate_size);
    this.down_proj = new Linear(c.intermediate_size, c.hidden_size);
    this.act = c.hidden_act;
  }

  forward(x: Tensor): Tensor {
    return this.down_proj.forward(gated(this.gate_proj.forward(x), this.up_proj.forward(x), this.act));
  }
}

class OlmoDecoderLayer extends Module {
  self_attn: OlmoAttention;
  mlp: OlmoMLP;
  post_attention_layernorm: RMSNorm;
  post_feedforward_layernorm: RMSNorm;

  constructor(c: LlamaConfig, layer: number) {
    super();
    this.self_attn = new OlmoAttention(c, layer);
    this.mlp = new OlmoMLP(c);
    this.post_attention_layernorm = new RMSNorm(c.hidden_size, c.rms_norm_eps);
    this.post_feedforward_layernorm = new RMSNorm(c.hidden_size, c.rms_norm_eps);
  }

  forward(x: Tensor, pass: Pass, table: Tensor): Tensor {
    const h = scope(() => add(x, this.post_attention_layernorm.forward(this.self_attn.forward(x, pass, table))));
    return add(h, this.post_feedforward_layernorm.forward(this.mlp.forward(h)));
  }
}

class OlmoModel extends Module {
  embed_tokens: Embedding;
  layers: OlmoDecoderLayer[];
  norm: RMSNorm;
  readonly rotary: Rotary;
  readonly local_rotary: Rotary | undefined;

  constructor(c: LlamaConfig) {
    super();
    this.embed_tokens = new Embedding(c.vocab_size, c.hidden_size);
    this.layers = Array.from({ length: c.num_hidden_layers }, (_, layer) => new OlmoDecoderLayer(c, layer));
    this.norm = new RMSNorm(c.hidden_size, c.rms_norm_eps);
    this.rotary = new Rotary(c.rope);
    this.local_rotary = c.traits.local_rope && new Rotary(c.traits.local_rope);
  }

  /** Layers with a window may have frequencies of their own. */
  #rotaryOf({ self_attn }: OlmoDecoderLayer): Rotary {
    return (self_attn.options.window === undefined ? undefined : this.local_rotary) ?? this.rotary;
  }

  forward(pass: Pass, ids: Tensor): Tensor {
    return scope(() => {
      const h = runBlocks(this.layers, this.embed_tokens.forward(ids), pass, (layer, x) =>
        layer.forward(x, pass, this.#rotaryOf(layer).table(pass, x.device)),
      );
      return this.norm.forward(h);
    });
  }
}

/** @param name of the class in transformers */
export function olmoForCausalLM(name: string, c: LlamaConfig): DecoderForCausalLM {
  const base = new OlmoModel(c);
  return new DecoderForCausalLM({
    name,
    prefix: "model",
    base,
    layers: base.layers,
    words: base.embed_tokens,
    tied: c.tie_word_embeddings,
    sizes: {
      heads: c.num_attention_heads,
      groups: c.num_key_value_heads,
      head_dim: c.head_dim,
      hidden: c.hidden_size,
      max_positions: Number.POSITIVE_INFINITY,
      windows: base.layers.map((layer) => layer.self_attn.options.window),
    },
  });
}
