// The config of ModernBERT.

import { CONFIG_HINT, ConfigError } from "../core/errors.js";
import * as z from "../core/schema.js";
import { show } from "../core/show.js";
import type { ConfigJson } from "../nn/architecture.js";
import { LayerNorm } from "../nn/norm.js";
import { activationName, count, epsilon, headSize, readConfig } from "./_config.js";

const KINDS = ["full_attention", "sliding_attention"] as const;
export type Kind = (typeof KINDS)[number];
/** Bases of the rotary positions where a file does not say them. */
export const THETA: Readonly<Record<Kind, number>> = { full_attention: 160_000, sliding_attention: 10_000 };

export const theta = z.number().positive();
const ropeBlock = z.object({ rope_type: z.literal("default").default("default"), rope_theta: theta.optional() });
const schema = z.object({
  vocab_size: count,
  hidden_size: count,
  intermediate_size: count,
  num_hidden_layers: count.max(1024),
  num_attention_heads: count,
  max_position_embeddings: count.default(8192),
  hidden_activation: activationName.default("gelu"),
  norm_eps: epsilon.default(1e-5),
  norm_bias: z.boolean().default(false),
  attention_bias: z.boolean().default(false),
  mlp_bias: z.boolean().default(false),
  decoder_bias: z.boolean().default(true),
  classifier_bias: z.boolean().default(false),
  classifier_activation: activationName.default("gelu"),
  classifier_pooling: z.literal(["cls", "mean"]).default("cls"),
  local_attention: count.min(2).default(128),
  layer_types: z.array(z.literal(KINDS)).nullish(),
  global_attn_every_n_layers: count.default(3),
  global_rope_theta: theta.nullish(),
  local_rope_theta: theta.nullish(),
  rope_parameters: z.partialRecord(KINDS, ropeBlock).nullish(),
  rope_scaling: z.literal(null).optional(),
  tie_word_embeddings: z.boolean().default(true),
});

export interface ModernBertConfig extends z.infer<typeof schema> {
  readonly kinds: readonly Kind[];
  readonly head_dim: number;
}

export function read(json: ConfigJson): ModernBertConfig {
  const c = readConfig(json, schema);
  const layers = Array.from({ length: c.num_hidden_layers }, (_, layer) => layer);
  const kinds =
    c.layer_types ?? layers.map((n) => (n % c.global_attn_every_n_layers ? "sliding_attention" : "full_attention"));
  if (kinds.length !== layers.length) {
    throw new ConfigError(`config.json: layer_types has ${kinds.length} entries for ${show(layers.length)} layers`, {
      hint: CONFIG_HINT,
    });
  }
  return { ...c, kinds, head_dim: headSize(c.hidden_size, c.num_attention_heads) };
}

/** A norm that has a bias only if the config says so. */
export const norm = (c: ModernBertConfig): LayerNorm => new LayerNorm(c.hidden_size, c.norm_eps, true, c.norm_bias);
