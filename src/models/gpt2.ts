// GPT-2 (Radford et al. 2019): learned positions, LayerNorm before each part, one fused projection for q, k and v whose
// weights checkpoints store transposed ([in, out]).

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
import { activationName, count, epsilon, headSize, readConfig } from "./_config.js";

const schema = z.object({
  vocab_size: count,
  n_embd: count,
  n_layer: count.max(1024),
  n_head: count,
  n_positions: count,
  n_inner: count.nullish(),
  activation_function: activationName.default("gelu_tanh"),
  layer_norm_epsilon: epsilon.default(1e-5),
  scale_attn_weights: z.boolean().default(true),
  scale_attn_by_inverse_layer_idx: z.boolean().default(false),
  tie_word_embeddings: z.boolean().default(true),
});

type GPT2Config = z.infer<typeof schema>;

const ALIASES = {
  n_embd: ["hidden_size"],
  n_layer: ["num_hidden_layers"],
  n_head: ["num_attention_heads"],
  n_positions: ["max_position_embeddings", "n_ctx"],
};

class GPT2Attention extends Module {
  c_attn: Linear;
  c_proj: Linear;
  readonly layer: number;
  readonly heads: number;
  readonly scale: number;

  constructor(c: GPT2Config, layer: number) {
    super();
    this.c_attn = new Linear(c.n_embd, 3 * c.n_embd, { bias: true });
    this.c_proj = new Linear(c.n_embd, c.n_embd, { bias: true });
    this.layer = layer;
    this.heads = c.n_head;
    this.scale = c.scale_attn_weights ? headSize(c.n_embd, c.n_head) ** -0.5 : 1;
    if (c.scale_attn_by_inverse_layer_idx) this.scale /= layer + 1;
  }

  forward(x: Tensor, residual: Tensor, pass: Pass): Tensor {
    const [batch = 0, steps = 0, width = 0] = x.shape;
    const qkv = this.c_attn.forward(x).view(batch, steps, 3, this.heads, width / this.heads); // [B,T,3,H,D]
    const [q, k, v] = [qkv.select(2, 0), qkv.select(2, 1), qkv.select(2, 2)];
    return this.c_proj.forward(attend(pass, this.layer, q, k, v, { scale: this.scale }), { residual });
  }
}

class GPT2MLP extends Module {
  c_fc: Linear;
  c_proj: Linear;
  readonly act: Act;

  constructor(c: GPT2Config) {
    super();
    const inner = c.n_inner ?? 4 * c.n_embd;
    this.c_fc = new Linear(c.n_embd, inner, { bias: true });
    this.c_proj = new Linear(inner, c.n_embd, { bias: true });
    this.act = c.activation_function;
  }

  forward(x: Tensor, residual: Tensor): Tensor {
    return this.c_proj.forward(this.c_fc.forward(x, { act: this.act }), { residual });
  }
}

class GPT2Block extends Module {
  ln_1: LayerNorm;
  attn: GPT2Attention;
  ln_2: LayerNorm;
  mlp: GPT2MLP;

  constructor(c: GPT2Config, layer: number) {
    super();
    this.ln_1 = new LayerNorm(c.n_embd, c.layer_norm_epsilon);
    this.attn = new GPT2Attention(c, layer);
    this.ln_2 = new LayerNorm(c.n_embd, c.layer_norm_epsilon);
    this.mlp = new GPT2MLP(c);
  }

  forward(x: Tensor, pass: Pass): Tensor {
    const h = scope(() => this.attn.forward(this.ln_1.forward(x), x, pass));
    return this.mlp.forward(this.ln_2.forward(h), h);
  }
}

class GPT2Model extends Module {
  wte: Embedding;
  wpe: Embedding;
  h: GPT2Block[];
  ln_f: LayerNorm;

  constructor(c: GPT2Config) {
    super();
    this.wte = new Embedding(c.vocab_size, c.n_embd);
    this.wpe = new Embedding(c.n_positions, c.n_embd);
    this.h = Array.from({ length: c.n_layer }, (_, layer) => new GPT2Block(c, layer));
    this.ln_f = new LayerNorm(c.n_embd, c.layer_norm_epsilon);
  }

  forward(pass: Pass, ids: Tensor): Tensor {
    return scope(() => {
      const words = add(this.wte.forward(ids), this.wpe.forward(pass.input.positions)); // [B,T,hidden]
      const h = runBlocks(this.h, words, pass, (block, x) => block.forward(x, pass));
      return this.ln_f.forward(h);
    });
  }
}

function gpt2ForCausalLM(c: GPT2Config): DecoderForCausalLM {
  const base = new GPT2Model(c);
  return new DecoderForCausalLM({
    name: "GPT2LMHeadModel",
    prefix: "transformer",
    base,
    layers: base.h,
    words: base.wte,
    tied: c.tie_word_embeddings,
    sizes: {
      heads: c.n_head,
      groups: c.n_head,
      head_dim: headSize(c.n_embd, c.n_head),
      hidden: c.n_embd,
      max_positions: c.n_positions,
    },
  });
}

export const gpt2: Architecture = {
  model_type: "gpt2",
  tasks: { "causal-lm": (json) => gpt2ForCausalLM(readConfig(json, schema, ALIASES)) },
  names: [
    { ignore: /\.attn\.(masked_)?bias$/ },
    { transposed: /\.(attn|mlp)\.c_(attn|fc|proj)\.weight$/ },
    { prefix: "transformer." },
  ],
};
