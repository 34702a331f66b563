// What LLaMA (Touvron et al. 2023) and its descendants share: RMSNorm before each part, rotary positions, grouped
// key-value heads. Their layers differ only after attention.

import * as z from "zod";
import type { Device } from "../core/device.js";
import { CONFIG_HINT, ConfigError } from "../core/errors.js";
import { scope, type Tensor } from "../core/tensor.js";
import type { ConfigJson } from "../nn/architecture.js";
import { attend } from "../nn/attend.js";
import { CausalLM, type DecoderGeometry } from "../nn/decoder.js";
import { Buffer, Embedding, Linear, Module } from "../nn/module.js";
import { RMSNorm } from "../nn/norm.js";
import { type Pass, runBlocks } from "../nn/pass.js";
import { type RopeFrequencies, ropeFields, ropeFrequencies } from "../nn/rope.js";
import { rope, ropeTable } from "../ops/rope.js";
import { activationName, count, epsilon, headSize } from "./_config.js";

/** Fields of config.json that they share. */
export const llamaFields = {
  vocab_size: count,
  hidden_size: count,
  intermediate_size: count,
  num_hidden_layers: count.max(1024),
  num_attention_heads: count,
  num_key_value_heads: count.nullish(),
  head_dim: count.nullish(),
  hidden_act: activationName.default("silu"),
  max_position_embeddings: count.default(2048),
  rms_norm_eps: epsilon.default(1e-6),
  tie_word_embeddings: z.boolean().default(false),
  attention_bias: z.boolean().default(false),
};

const shared = z.object(llamaFields);
type Fields = z.infer<typeof shared> & { readonly sliding_window?: number | null | undefined };

/** The fields with the values derived from them. */
export type LlamaConfig<F extends Fields = Fields> = F & {
  readonly head_dim: number;
  readonly num_key_value_heads: number;
  readonly rope: RopeFrequencies;
};

/** @throws ConfigError for inconsistent sizes */
export function resolveLlama<F extends Fields>(fields: F, json: ConfigJson): LlamaConfig<F> {
  const heads = fields.num_attention_heads;
  const groups = fields.num_key_value_heads ?? heads;
  if (heads % groups !== 0) {
    throw new ConfigError(`config.json: ${heads} attention heads cannot share ${groups} key-value heads`, {
      hint: CONFIG_HINT,
    });
  }
  const head_dim = fields.head_dim ?? headSize(fields.hidden_size, heads);
  if (head_dim % 2 !== 0) {
    throw new ConfigError(`config.json: rotary positions need an even head_dim, got ${head_dim}`, {
      hint: CONFIG_HINT,
    });
  }
  const frequencies = ropeFrequencies({ ...ropeFields(json), dim: head_dim });
  return { ...fields, head_dim, num_key_value_heads: groups, rope: frequencies };
}

export class LlamaAttention extends Module {
  q_proj: Linear;
  k_proj: Linear;
  v_proj: Linear;
  o_proj: Linear;
  readonly layer: number;
  readonly head_dim: number;
  readonly window: number | undefined;

  constructor(c: LlamaConfig, layer: number) {
    super();
    const width = c.num_attention_heads * c.head_dim;
    const shared = c.num_key_value_heads * c.head_dim;
    const bias = c.attention_bias;
    this.q_proj = new Linear(c.hidden_size, width, { bias });
    this.k_proj = new Linear(c.hidden_size, shared, { bias });
    this.v_proj = new Linear(c.hidden_size, shared, { bias });
    this.o_proj = new Linear(width, c.hidden_size, { bias });
    this.layer = layer;
    this.head_dim = c.head_dim;
    this.window = c.sliding_window ?? undefined;
  }

  forward(x: Tensor, residual: Tensor, pass: Pass, table: Tensor): Tensor {
    const [batch = 0, steps = 0] = x.shape;
    const q = rope(this.q_proj.forward(x).view(batch, steps, -1, this.head_dim), table); // [B,T,H,D]
    const k = rope(this.k_proj.forward(x).view(batch, steps, -1, this.head_dim), table); // [B,T,G,D]
    const v = this.v_proj.forward(x).view(batch, steps, -1, this.head_dim); // [B,T,G,D]
    const y = attend(pass, this.layer, q, k, v, {
      scale: this.head_dim ** -0.5,
      ...(this.window ? { window: this.window } : {}),
    }); // [B,T,H*D]
    return this.o_proj.forward(y, { residual });
  }
}

/** A layer: attention, then the part that differs between descendants. */
export abstract class LlamaLayer extends Module {
  self_attn: LlamaAttention;
  input_layernorm: RMSNorm;
  post_attention_layernorm: RMSNorm;

  constructor(c: LlamaConfig, layer: number) {
    super();
    this.self_attn = new LlamaAttention(c, layer);
    this.input_layernorm = new RMSNorm(c.hidden_size, c.rms_norm_eps);
    this.post_attention_layernorm = new RMSNorm(c.hidden_size, c.rms_norm_eps);
  }

  /** The second half, for x[B,T,hidden] after its norm; `residual` is added. */
  abstract feedForward(x: Tensor, residual: Tensor): Tensor;

  forward(x: Tensor, pass: Pass, table: Tensor): Tensor {
    const h = scope(() => this.self_attn.forward(this.input_layernorm.forward(x), x, pass, table));
    return this.feedForward(this.post_attention_layernorm.forward(h), h);
  }
}

/** Makes layer number `layer`. */
type MakeLayer = (layer: number) => LlamaLayer;

class LlamaModel extends Module {
  embed_tokens: Embedding;
  layers: LlamaLayer[];
  norm: RMSNorm;
  readonly inverse_frequencies: Buffer;
  readonly rope_scale: number;

  constructor(c: LlamaConfig, layer: MakeLayer) {
    super();
    this.embed_tokens = new Embedding(c.vocab_size, c.hidden_size);
    this.layers = Array.from({ length: c.num_hidden_layers }, (_, i) => layer(i));
    this.norm = new RMSNorm(c.hidden_size, c.rms_norm_eps);
    this.inverse_frequencies = new Buffer(() => c.rope.inverse);
    this.rope_scale = c.rope.scale;
  }

  forward(pass: Pass, ids: Tensor): Tensor {
    return scope(() => {
      const table = (device: Device): Tensor =>
        pass.once(this, device, () =>
          ropeTable(pass.at(device, pass.input.positions), this.inverse_frequencies.on(device), this.rope_scale),
        ); // [B,T,2,D/2]
      const h = runBlocks(this.layers, this.embed_tokens.forward(ids), pass, (layer, x) =>
        layer.forward(x, pass, table(x.device)),
      );
      return this.norm.forward(h);
    });
  }
}

export class LlamaForCausalLM extends CausalLM {
  model: LlamaModel;
  lm_head: Linear;
  readonly geometry: DecoderGeometry;

  constructor(c: LlamaConfig, layer: MakeLayer) {
    super();
    this.model = new LlamaModel(c, layer);
    this.lm_head = new Linear(c.hidden_size, c.vocab_size);
    if (c.tie_word_embeddings) this.lm_head.tie(this.model.embed_tokens.weight);
    this.geometry = {
      layers: c.num_hidden_layers,
      heads: c.num_attention_heads,
      groups: c.num_key_value_heads,
      head_dim: c.head_dim,
      hidden: c.hidden_size,
      vocab: c.vocab_size,
      max_positions: Number.POSITIVE_INFINITY,
    };
  }

  get blocks(): readonly (readonly Module[])[] {
    return [this.model.layers];
  }

  override output_embeddings(): Linear {
    return this.lm_head;
  }

  hidden(pass: Pass, ids: Tensor): Tensor {
    return this.model.forward(pass, ids);
  }

  head(hidden: Tensor): Tensor {
    return this.lm_head.forward(hidden);
  }
}
