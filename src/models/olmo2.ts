// OLMo 2 (Team OLMo 2025): a decoder like LLaMA's with its norms behind attention and feed-forward instead of before them, and
// over all queries and all keys, before these are split into heads.

import * as z from "zod";
import { scope, type Tensor } from "../core/tensor.js";
import type { Architecture } from "../nn/architecture.js";
import { attend } from "../nn/attend.js";
import { DecoderForCausalLM } from "../nn/decoder.js";
import { Embedding, Linear, Module } from "../nn/module.js";
import { RMSNorm } from "../nn/norm.js";
import { type Pass, runBlocks } from "../nn/pass.js";
import { Rotary } from "../nn/rotary.js";
import type { Act } from "../ops/activation.js";
import { add } from "../ops/add.js";
import { gated } from "../ops/gated.js";
import { rope } from "../ops/rope.js";
import { epsilon, readConfig } from "./_config.js";
import { llamaFields, resolveLlama, type LlamaConfig as Shared } from "./_llama.js";

const schema = z.object({ ...llamaFields, rms_norm_eps: epsilon.default(1e-5) });

type Olmo2Config = Shared<z.infer<typeof schema>>;

class Olmo2Attention extends Module {
  q_proj: Linear;
  k_proj: Linear;
  v_proj: Linear;
  o_proj: Linear;
  q_norm: RMSNorm;
  k_norm: RMSNorm;
  readonly layer: number;
  readonly head_dim: number;

  constructor(c: Olmo2Config, layer: number) {
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
  }

  forward(x: Tensor, pass: Pass, table: Tensor): Tensor {
    const [batch = 0, steps = 0] = x.shape;
    const heads = (y: Tensor): Tensor => y.view(batch, steps, -1, this.head_dim); // [B,T,H,D]
    const q = rope(heads(this.q_norm.forward(this.q_proj.forward(x))), table);
    const k = rope(heads(this.k_norm.forward(this.k_proj.forward(x))), table);
    const y = attend(pass, this.layer, q, k, heads(this.v_proj.forward(x)), { scale: this.head_dim ** -0.5 });
    return this.o_proj.forward(y);
  }
}

class Olmo2MLP extends Module {
  gate_proj: Linear;
  up_proj: Linear;
  down_proj: Linear;
  readonly act: Act;

  constructor(c: Olmo2Config) {
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

class Olmo2DecoderLayer extends Module {
  self_attn: Olmo2Attention;
  mlp: Olmo2MLP;
  post_attention_layernorm: RMSNorm;
  post_feedforward_layernorm: RMSNorm;

  constructor(c: Olmo2Config, layer: number) {
    super();
    this.self_attn = new Olmo2Attention(c, layer);
    this.mlp = new Olmo2MLP(c);
    this.post_attention_layernorm = new RMSNorm(c.hidden_size, c.rms_norm_eps);
    this.post_feedforward_layernorm = new RMSNorm(c.hidden_size, c.rms_norm_eps);
  }

  forward(x: Tensor, pass: Pass, table: Tensor): Tensor {
    const h = scope(() => add(x, this.post_attention_layernorm.forward(this.self_attn.forward(x, pass, table))));
    return add(h, this.post_feedforward_layernorm.forward(this.mlp.forward(h)));
  }
}

class Olmo2Model extends Module {
  embed_tokens: Embedding;
  layers: Olmo2DecoderLayer[];
  norm: RMSNorm;
  readonly rotary: Rotary;

  constructor(c: Olmo2Config) {
    super();
    this.embed_tokens = new Embedding(c.vocab_size, c.hidden_size);
    this.layers = Array.from({ length: c.num_hidden_layers }, (_, layer) => new Olmo2DecoderLayer(c, layer));
    this.norm = new RMSNorm(c.hidden_size, c.rms_norm_eps);
    this.rotary = new Rotary(c.rope);
  }

  forward(pass: Pass, ids: Tensor): Tensor {
    return scope(() => {
      const h = runBlocks(this.layers, this.embed_tokens.forward(ids), pass, (layer, x) =>
        layer.forward(x, pass, this.rotary.table(pass, x.device)),
      );
      return this.norm.forward(h);
    });
  }
}

function olmo2ForCausalLM(c: Olmo2Config): DecoderForCausalLM {
  const base = new Olmo2Model(c);
  return new DecoderForCausalLM({
    name: "Olmo2ForCausalLM",
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
    },
  });
}

export const olmo2: Architecture = {
  model_type: "olmo2",
  tasks: { "causal-lm": (json) => olmo2ForCausalLM(resolveLlama(readConfig(json, schema), json)) },
  names: [{ ignore: /rotary_emb\.inv_freq$/ }, { prefix: "model." }],
};
