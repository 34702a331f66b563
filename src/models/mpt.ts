// MPT (MosaicML 2023): ALiBi with slopes of its own, norms with weights alone, no biases, one fused projection ([3, H, D]) that
// may be clipped. Settings of the original that transformers' class does not read are refused where they would matter.

import * as z from "../core/schema.js";
import { scope, type Tensor } from "../core/tensor.js";
import { mptAlibiSlopes } from "../nn/alibi.js";
import type { Architecture } from "../nn/architecture.js";
import { attend } from "../nn/attend.js";
import { clip } from "../nn/clip.js";
import { DecoderForCausalLM } from "../nn/decoder.js";
import { Buffer, Embedding, Linear, Module } from "../nn/module.js";
import { LayerNorm } from "../nn/norm.js";
import { type Pass, runBlocks } from "../nn/pass.js";
import { count, epsilon, headSize, readConfig } from "./_config.js";

const attention = z.object({
  alibi: z.literal(true, "only models with ALiBi are supported").default(true),
  // transformers' class does not read it and takes 8: StoryWriter, trained with 16, needs it.
  alibi_bias_max: z.number().positive().max(65_536).default(8),
  clip_qkv: z.number().min(0).nullish(),
  softmax_scale: z.number().positive().nullish(),
  attn_type: z.literal("multihead_attention").default("multihead_attention"),
  qk_ln: z.literal(false).default(false),
  prefix_lm: z.literal(false).default(false),
  attn_uses_sequence_id: z.literal(false).default(false),
  // Both only say how the original computes or trains.
  attn_impl: z.string().nullish(),
  attn_pdrop: z.number().nullish(),
});

const schema = z.object({
  vocab_size: count,
  d_model: count,
  n_layers: count.max(1024),
  n_heads: count,
  max_seq_len: count.default(2048),
  expansion_ratio: z.literal(4).default(4),
  no_bias: z.literal(true).default(true),
  norm_type: z.literal(["low_precision_layernorm", "layernorm"]).default("low_precision_layernorm"),
  logit_scale: z.literal(null).optional(),
  layer_norm_epsilon: epsilon.default(1e-5),
  attn_config: attention.nullish(),
  tie_word_embeddings: z.boolean().default(true),
});

type MptConfig = z.infer<typeof schema> & { readonly attn: z.infer<typeof attention> };

const ALIASES = {
  d_model: ["hidden_size"],
  n_layers: ["num_hidden_layers"],
  n_heads: ["num_attention_heads"],
};

class MptAttention extends Module {
  Wqkv: Linear;
  out_proj: Linear;
  readonly layer: number;
  readonly heads: number;
  readonly scale: number;
  readonly limit: number;

  constructor(c: MptConfig, layer: number) {
    super();
    this.Wqkv = new Linear(c.d_model, 3 * c.d_model);
    this.out_proj = new Linear(c.d_model, c.d_model);
    this.layer = layer;
    this.heads = c.n_heads;
    this.scale = c.attn.softmax_scale ?? headSize(c.d_model, c.n_heads) ** -0.5;
    this.limit = c.attn.clip_qkv ?? 0;
  }

  forward(x: Tensor, residual: Tensor, pass: Pass, slopes: Tensor): Tensor {
    const [batch = 0, steps = 0, width = 0] = x.shape;
    const fused = this.Wqkv.forward(x);
    const qkv = (this.limit ? clip(fused, this.limit) : fused).view(batch, steps, 3, this.heads, width / this.heads);
    const [q, k, v] = [qkv.select(2, 0), qkv.select(2, 1), qkv.select(2, 2)]; // [B,T,H,D]
    return this.out_proj.forward(attend(pass, this.layer, q, k, v, { scale: this.scale, slopes }), { residual });
  }
}

class MptMLP extends Module {
  up_proj: Linear;
  down_proj: Linear;

  constructor(c: MptConfig) {
    super();
    this.up_proj = new Linear(c.d_model, c.expansion_ratio * c.d_model);
    this.down_proj = new Linear(c.expansion_ratio * c.d_model, c.d_model);
  }

  forward(x: Tensor, residual: Tensor): Tensor {
    return this.down_proj.forward(this.up_proj.forward(x, { act: "gelu" }), { residual });
  }
}

class MptBlock extends Module {
  norm_1: LayerNorm;
  attn: MptAttention;
  norm_2: LayerNorm;
  ffn: MptMLP;

  constructor(c: MptConfig, layer: number) {
    super();
    this.norm_1 = new LayerNorm(c.d_model, c.layer_norm_epsilon, true, false);
    this.attn = new MptAttention(c, layer);
    this.norm_2 = new LayerNorm(c.d_model, c.layer_norm_epsilon, true, false);
    this.ffn = new MptMLP(c);
  }

  forward(x: Tensor, pass: Pass, slopes: Tensor): Tensor {
    const h = scope(() => this.attn.forward(this.norm_1.forward(x), x, pass, slopes));
    return this.ffn.forward(this.norm_2.forward(h), h);
  }
}

class MptModel extends Module {
  wte: Embedding;
  blocks: MptBlock[];
  norm_f: LayerNorm;
  readonly slopes: Buffer;

  constructor(c: MptConfig) {
    super();
    this.wte = new Embedding(c.vocab_size, c.d_model);
    this.blocks = Array.from({ length: c.n_layers }, (_, layer) => new MptBlock(c, layer));
    this.norm_f = new LayerNorm(c.d_model, c.layer_norm_epsilon, true, false);
    this.slopes = new Buffer(() => mptAlibiSlopes(c.n_heads, c.attn.alibi_bias_max));
  }

  forward(pass: Pass, ids: Tensor): Tensor {
    return scope(() => {
      const h = runBlocks(this.blocks, this.wte.forward(ids), pass, (block, x) =>
        block.forward(x, pass, this.slopes.on(x.device)),
      );
      return this.norm_f.forward(h);
    });
  }
}

function mptForCausalLM(c: MptConfig): DecoderForCausalLM {
  const base = new MptModel(c);
  return new DecoderForCausalLM({
    name: "MptForCausalLM",
    prefix: "transformer",
    base,
    layers: base.blocks,
    words: base.wte,
    tied: c.tie_word_embeddings,
    sizes: {
      heads: c.n_heads,
      groups: c.n_heads,
      head_dim: headSize(c.d_model, c.n_heads),
      hidden: c.d_model,
      // The class makes distances for as many tokens; a longer text is an error there, too.
      max_positions: c.max_seq_len,
    },
  });
}

export const mpt: Architecture = {
  model_type: "mpt",
  tasks: {
    "causal-lm": (json) => {
      const fields = readConfig(json, schema, ALIASES);
      return mptForCausalLM({ ...fields, attn: fields.attn_config ?? attention.parse({}) });
    },
  },
  names: [{ prefix: "transformer." }],
};
