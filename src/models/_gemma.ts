// What Gemma 2 and 3 share: embeddings times the root of the hidden size, norms that store weight - 1, before and after each part
// of a layer, and windows on some layers.

import * as z from "../core/schema.js";
import { scope, type Tensor } from "../core/tensor.js";
import { RMSNorm } from "../nn/norm.js";
import type { Pass } from "../nn/pass.js";
import { add } from "../ops/add.js";
import { activationName, count } from "./_config.js";
import { layerTypes } from "./_layer-types.js";
import { DecoderLayer, LlamaAttention, type LlamaConfig, LlamaMLP, type LlamaTraits, llamaFields } from "./_llama.js";

/** Fields of config.json that they share. */
export const gemmaFields = {
  ...llamaFields,
  num_key_value_heads: count.default(4),
  head_dim: count.default(256),
  hidden_activation: activationName.default("gelu_tanh"),
  // In the files beside hidden_activation, which alone counts.
  hidden_act: z.unknown().optional(),
  tie_word_embeddings: z.boolean().default(true),
  query_pre_attn_scalar: z.number().positive().default(256),
  sliding_window: count.default(4096),
  layer_types: layerTypes,
  use_bidirectional_attention: z.literal(false).nullish(),
};

/** The factor on scores, and what both do to embeddings and norms. */
export function gemmaTraits(fields: { hidden_size: number; query_pre_attn_scalar: number }): LlamaTraits {
  return {
    scale: fields.query_pre_attn_scalar ** -0.5,
    norm_offset: 1,
    embedding_scale: { factor: fields.hidden_size ** 0.5, rounded: true },
  };
}

export class GemmaLayer extends DecoderLayer {
  self_attn: LlamaAttention;
  mlp: LlamaMLP;
  input_layernorm: RMSNorm;
  post_attention_layernorm: RMSNorm;
  pre_feedforward_layernorm: RMSNorm;
  post_feedforward_layernorm: RMSNorm;
  readonly width: number;

  constructor(c: LlamaConfig, layer: number) {
    super(c, layer);
    const norm = (): RMSNorm => new RMSNorm(c.hidden_size, c.rms_norm_eps, c.traits.norm_offset);
    this.self_attn = new LlamaAttention(c, layer);
    this.mlp = new LlamaMLP(c);
    this.width = c.intermediate_size;
    this.input_layernorm = norm();
    this.post_attention_layernorm = norm();
    this.pre_feedforward_layernorm = norm();
    this.post_feedforward_layernorm = norm();
  }

  forward(x: Tensor, pass: Pass, table: Tensor | undefined): Tensor {
    return scope(() => {
      const seen = this.self_attn.forward(x, this.input_layernorm, undefined, pass, table);
      const h = add(x, this.post_attention_layernorm.forward(seen));
      return pass.byRows(h, this.width, (rows) => {
        const thought = this.mlp.forward(this.pre_feedforward_layernorm.forward(rows));
        return add(rows, this.post_feedforward_layernorm.forward(thought));
      });
    });
  }
}
