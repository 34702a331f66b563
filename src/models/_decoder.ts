// What the decoders with rotary positions share, whatever their norms: fields of config.json, grouped heads, names of tensors.

import { CONFIG_HINT, ConfigError } from "../core/errors.js";
import * as z from "../core/schema.js";
import type { NameRule } from "../nn/architecture.js";
import { activationName, count } from "./_config.js";

/** Fields of config.json. */
export const decoderFields = {
  vocab_size: count,
  hidden_size: count,
  intermediate_size: count,
  num_hidden_layers: count.max(1024),
  num_attention_heads: count,
  num_key_value_heads: count.nullish(),
  head_dim: count.nullish(),
  hidden_act: activationName.default("silu"),
  tie_word_embeddings: z.boolean().default(false),
};

/** Names of tensors in their files. */
export const decoderNames: readonly NameRule[] = [{ ignore: /rotary_emb\.inv_freq$/ }, { prefix: "model." }];

/** Heads of keys and values. @throws ConfigError unless they divide those of queries */
export function groupsOf(heads: number, groups: number | null | undefined): number {
  const own = groups ?? heads;
  if (heads % own === 0) return own;
  throw new ConfigError(`config.json: ${heads} attention heads cannot share ${own} key-value heads`, {
    hint: CONFIG_HINT,
  });
}
