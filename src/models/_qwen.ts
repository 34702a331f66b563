// What Qwen 2 and Qwen 3 share: windows that have to be turned on, from some layer on or as listed.

import * as z from "../core/schema.js";
import { count } from "./_config.js";
import { layerTypes, slidingLayers, windowOf } from "./_layer-types.js";
import { type LlamaTraits, llamaFields } from "./_llama.js";

/** Fields of config.json that they share. */
export const qwenFields = {
  ...llamaFields,
  num_key_value_heads: count.nullable().default(32),
  max_position_embeddings: count.default(32_768),
  use_sliding_window: z.boolean().default(false),
  sliding_window: count.nullable().default(4096),
  max_window_layers: z.int().min(0).default(28),
  layer_types: layerTypes,
};

interface Windows {
  readonly num_hidden_layers: number;
  readonly use_sliding_window: boolean;
  readonly sliding_window: number | null;
  readonly max_window_layers: number;
  readonly layer_types?: Parameters<typeof slidingLayers>[0]["layer_types"];
}

/** @throws ConfigError */
export function qwenWindows(fields: Windows): NonNullable<LlamaTraits["window"]> {
  const size = fields.use_sliding_window ? (fields.sliding_window ?? undefined) : undefined;
  const sliding = slidingLayers(fields, (layer) => size !== undefined && layer >= fields.max_window_layers);
  return windowOf(sliding, size);
}
