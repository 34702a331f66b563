// SmolLM3 (Hugging Face 2025): LLaMA with some layers that do not rotate queries and keys ("NoPE").

import { CONFIG_HINT, ConfigError } from "../core/errors.js";
import * as z from "../core/schema.js";
import type { Architecture } from "../nn/architecture.js";
import { ropeFields, ropeFrequencies } from "../nn/rope.js";
import { count, readConfig } from "./_config.js";
import { layerTypes, slidingLayers, windowOf } from "./_layer-types.js";
import { LlamaDecoderLayer, llamaFields, llamaForCausalLM, llamaNames, resolveLlama } from "./_llama.js";

const schema = z.object({
  ...llamaFields,
  num_key_value_heads: count.nullable().default(4),
  max_position_embeddings: count.default(32_768),
  tie_word_embeddings: z.boolean().default(true),
  mlp_bias: z.boolean().default(false),
  no_rope_layers: z.array(z.literal([0, 1])).nullish(),
  no_rope_layer_interval: count.default(4),
  use_sliding_window: z.boolean().default(false),
  sliding_window: count.nullish(),
  layer_types: layerTypes,
  // In the files, and not read by transformers either.
  max_window_layers: z.unknown().optional(),
});

/** Whether each layer rotates. @throws ConfigError for a list that ends before the last layer */
function rotating(c: z.infer<typeof schema>): readonly boolean[] {
  const { no_rope_layers: listed, no_rope_layer_interval: interval, num_hidden_layers: layers } = c;
  if (!listed) return Array.from({ length: layers }, (_, layer) => (layer + 1) % interval !== 0);
  if (listed.length >= layers) return listed.map((one) => one === 1);
  throw new ConfigError(`config.json: no_rope_layers has ${listed.length} entries for ${layers} layers`, {
    hint: CONFIG_HINT,
  });
}

export const smollm3: Architecture = {
  model_type: "smollm3",
  tasks: {
    "causal-lm": (json) => {
      const fields = readConfig(json, schema);
      const turning = rotating(fields);
      const size = fields.use_sliding_window ? (fields.sliding_window ?? undefined) : undefined;
      const sliding = slidingLayers(fields, (layer) => size !== undefined && !turning[layer]);
      const traits = {
        window: windowOf(sliding, size),
        turns: (layer: number) => (turning[layer] ? "global" : "not") as "global" | "not",
      };
      const c = resolveLlama(fields, json, traits, (dim) => ropeFrequencies({ ...ropeFields(json, 2_000_000), dim }));
      return llamaForCausalLM("SmolLM3ForCausalLM", c, (layer) => new LlamaDecoderLayer(c, layer, c.mlp_bias));
    },
  },
  names: llamaNames,
};
