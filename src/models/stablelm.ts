// StableLM (Stability AI 2023): LayerNorm around a decoder like LLaMA's, rotary positions on a part of each head. The larger
// models of version 2 have both parts of a layer side by side, and a norm for each head of queries and keys.

import * as z from "zod";
import { CONFIG_HINT, ConfigError } from "../core/errors.js";
import { scope, Tensor } from "../core/tensor.js";
import type { Architecture, ConfigJson } from "../nn/architecture.js";
import { attend } from "../nn/attend.js";
import { DecoderForCausalLM } from "../nn/decoder.js";
import { Embedding, Linear, Module } from "../nn/module.js";
import { LayerNorm } from "../nn/norm.js";
import { rotaryDims } from "../nn/partial-rotary.js";
import { type Pass, runBlocks } from "../nn/pass.js";
import { type RopeFrequencies, ropeFields, ropeFrequencies } from "../nn/rope.js";
import { Rotary } from "../nn/rotary.js";
import type { Act } from "../ops/activation.js";
import { copyInto } from "../ops/copy.js";
import { gated, multiply } from "../ops/gated.js";
import { layerNorm } from "../ops/layer-norm.js";
import { rope } from "../ops/rope.js";
import { activationName, count, epsilon, headSize, readConfig } from "./_config.js";

const schema = z.object({
  vocab_size: count,
  hidden_size: count,
  intermediate_size: count,
  num_hidden_layers: count.max(1024),
  num_attention_heads: count,
  num_key_value_heads: count.nullish(),
  hidden_act: activationName.default("silu"),
  layer_norm_eps: epsilon.default(1e-5),
  partial_rotary_factor: z.number().default(0.25),
  use_qkv_bias: z.boolean().default(false),
  qk_layernorm: z.boolean().default(false),
  use_parallel_residual: z.boolean().default(false),
  tie_word_embeddings: z.boolean().default(false),
});

interface StableLmConfig extends z.infer<typeof schema> {
  readonly head_dim: number;
  readonly groups: number;
  readonly rope: RopeFrequencies;
}

/** @throws ConfigError for inconsistent sizes */
function parse(json: ConfigJson): StableLmConfig {
  const fields = readConfig(json, schema);
  const heads = fields.num_attention_heads;
  const groups = fields.num_key_value_heads ?? heads;
  if (heads % groups !== 0) {
    throw new ConfigError(`config.json: ${heads} attention heads cannot share ${groups} key-value heads`, {
      hint: CONFIG_HINT,
    });
  }
  const head_dim = headSize(fields.hidden_size, heads);
  const own = ropeFields(json);
  const dim = rotaryDims(own.scaling, fields.partial_rotary_factor, head_dim, "partial_rotary_factor");
  return { ...fields, head_dim, groups, rope: ropeFrequencies({ ...own, dim }) };
}

/** A LayerNorm for each head, with weights alone. */
class StableLmLayerNormPerHead extends Module {
  norms: LayerNorm[];
  readonly size: number;
  readonly eps: number;

  constructor(size: number, heads: number, eps: number) {
    super();
    this.norms = Array.from({ length: heads }, () => new LayerNorm(size, eps, true, false));
    this.size = size;
    this.eps = eps;
  }

  /** x[B,T,H,D] -> [B,T,H,D] */
  forward(x: Tensor, pass: Pass): Tensor {
    const [batch = 0, steps = 0] = x.shape;
    const heads = this.norms.length;
    const weights = pass.once(this, x.device, () => {
      const rows = Tensor.empty(x.device, [heads, this.size], "f32", "weights of heads");
      for (const [head, { weight }] of this.norms.entries()) copyInto(weight!.value, rows.select(0, head));
      return rows;
    });
    const wide = weights.view(1, 1, heads, this.size).expand(batch, steps, heads, this.size);
    return multiply(layerNorm(x, undefined, undefined, this.eps), wide);
  }
}

class StableLmAttention extends Module {
  q_proj: Linear;
  k_proj: Linear;
  v_proj: Linear;
  o_proj: Linear;
  q_layernorm: StableLmLayerNormPerHead | undefined;
  k_layernorm: StableLmLayerNormPerHead | undefined;
  readonly layer: number;
  readonly size: number;

  constructor(c: StableLmConfig, layer: number) {
    super();
    const projection = (heads: number): Linear =>
      new Linear(c.hidden_size, heads * c.head_dim, { bias: c.use_qkv_bias });
    const norm = (heads: number): StableLmLayerNormPerHead | undefined =>
      c.qk_layernorm ? new StableLmLayerNormPerHead(c.head_dim, heads, c.layer_norm_eps) : undefined;
    this.q_proj = projection(c.num_attention_heads);
    this.k_proj = projection(c.groups);
    this.v_proj = projection(c.groups);
    this.o_proj = new Linear(c.hidden_size, c.hidden_size);
    this.q_layernorm = norm(c.num_attention_heads);
    this.k_layernorm = norm(c.groups);
    this.layer = layer;
    this.size = c.head_dim;
  }

  forward(x: Tensor, residual: Tensor, pass: Pass, table: Tensor): Tensor {
    const [batch = 0, steps = 0] = x.shape;
    const heads = (projection: Linear): Tensor => projection.forward(x).view(batch, steps, -1, this.size);
    const [q, k, v] = [heads(this.q_proj), heads(this.k_proj), heads(this.v_proj)]; // [B,T,H,D], [B,T,G,D]
    const [normalQ, normalK] = [this.q_layernorm?.forward(q, pass) ?? q, this.k_layernorm?.forward(k, pass) ?? k];
    const y = attend(pass, this.layer, rope(normalQ, table), rope(normalK, table), v, { scale: this.size ** -0.5 });
    return this.o_proj.forward(y, { residual });
  }
}

class StableLmMLP extends Module {
  gate_proj: Linear;
  up_proj: Linear;
  down_proj: Linear;
  readonly act: Act;

  constructor(c: StableLmConfig) {
    super();
    this.gate_proj = new Linear(c.hidden_size, c.intermediate_size);
    this.up_proj = new Linear(c.hidden_size, c.intermediate_size);
    this.down_proj = new Linear(c.intermediate_size, c.hidden_size);
    this.act = c.hidden_act;
  }

  forward(x: Tensor, residual: Tensor): Tensor {
    return this.down_proj.forward(gated(this.gate_proj.forward(x), this.up_proj.forward(x), this.act), { residual });
  }
}

class StableLmDecoderLayer extends Module {
  self_attn: StableLmAttention;
  mlp: StableLmMLP;
  input_layernorm: LayerNorm;
  /** Only where the parts come one after the other; side by side they share one norm. */
  post_attention_layernorm: LayerNorm | undefined;

  constructor(c: StableLmConfig, layer: number) {
    super();
    const norm = (): LayerNorm => new LayerNorm(c.hidden_size, c.layer_norm_eps);
    this.self_attn = new StableLmAttention(c, layer);
    this.mlp = new StableLmMLP(c);
    this.input_layernorm = norm();
    this.post_attention_layernorm = c.use_parallel_residual ? undefined : norm();
  }

  forward(x: Tensor, pass: Pass, table: Tensor): Tensor {
    const normal = this.input_layernorm.forward(x);
    const h = scope(() => this.self_attn.forward(normal, x, pass, table));
    return this.mlp.forward(this.post_attention_layernorm?.forward(h) ?? normal, h);
  }
}

class StableLmModel extends Module {
  embed_tokens: Embedding;
  layers: StableLmDecoderLayer[];
  norm: LayerNorm;
  readonly rotary: Rotary;

  constructor(c: StableLmConfig) {
    super();
    this.embed_tokens = new Embedding(c.vocab_size, c.hidden_size);
    this.layers = Array.from({ length: c.num_hidden_layers }, (_, layer) => new StableLmDecoderLayer(c, layer));
    this.norm = new LayerNorm(c.hidden_size, c.layer_norm_eps);
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

function stableLmForCausalLM(c: StableLmConfig): DecoderForCausalLM {
  const base = new StableLmModel(c);
  return new DecoderForCausalLM({
    name: "StableLmForCausalLM",
    prefix: "model",
    base,
    layers: base.layers,
    words: base.embed_tokens,
    tied: c.tie_word_embeddings,
    sizes: {
      heads: c.num_attention_heads,
      groups: c.groups,
      head_dim: c.head_dim,
      hidden: c.hidden_size,
      max_positions: Number.POSITIVE_INFINITY,
    },
  });
}

export const stablelm: Architecture = {
  model_type: "stablelm",
  tasks: { "causal-lm": (json) => stableLmForCausalLM(parse(json)) },
  names: [{ ignore: /rotary_emb\.inv_freq$/ }, { prefix: "model." }],
};
