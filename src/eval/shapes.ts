// Shapes of models that benchmarks build in memory, from a config alone.

import { OptionError, suggestion } from "../core/errors.js";
import type { ConfigJson } from "../nn/architecture.js";

/** The fields of a model's config.json that benchmarks use themselves. */
export interface ShapeConfig extends ConfigJson {
  readonly hidden_size: number;
  readonly intermediate_size: number;
  readonly num_attention_heads: number;
  readonly num_key_value_heads: number;
  readonly vocab_size: number;
}

const llama = (hidden: number, layers: number, ffn: number, heads: number, groups: number): ShapeConfig => ({
  model_type: "llama",
  hidden_size: hidden,
  num_hidden_layers: layers,
  intermediate_size: ffn,
  num_attention_heads: heads,
  num_key_value_heads: groups,
  vocab_size: 32000,
  max_position_embeddings: 4096,
  rms_norm_eps: 1e-5,
  tie_word_embeddings: false,
});

/** XS is for quick checks; M is TinyLlama-1.1B. */
export const SHAPES: Readonly<Record<string, ShapeConfig>> = {
  XS: llama(256, 4, 704, 8, 4),
  S: llama(1024, 16, 2816, 16, 8),
  M: llama(2048, 22, 5632, 32, 4),
};

/**
 * @param others names that the caller takes beside these, for the message
 * @throws OptionError for a name that is not a shape
 */
export function shapeConfig(name: string, others: readonly string[] = []): ShapeConfig {
  const config = SHAPES[name.toUpperCase()];
  if (config) return config;
  const names = [...Object.keys(SHAPES), ...others];
  const near = suggestion(name.toUpperCase(), names);
  throw new OptionError(`unknown shape "${name}"${near ? `; did you mean "${near}"?` : ""}`, {
    hint: `shapes: ${names.join(", ")}`,
  });
}
