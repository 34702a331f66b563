// OLMo 3 (Team OLMo 2025): three layers with a window for each that sees all, whose rotary positions alone are scaled.

import * as z from "../core/schema.js";
import type { Architecture, ConfigJson } from "../nn/architecture.js";
import { type RopeFields, ropeFields, ropeFrequencies } from "../nn/rope.js";
import { count, headSize, readConfig } from "./_config.js";
import { layerTypes, ropeBlocks, slidingLayers, windowOf } from "./_layer-types.js";
import { llamaNames, resolveLlama } from "./_llama.js";
import { olmoFields, olmoForCausalLM } from "./_olmo.js";

const schema = z.object({ ...olmoFields, sliding_window: count.nullable().default(4096), layer_types: layerTypes });

const THETA = 500_000;

/**
 * Rotary positions of the layers that see all, and of those with a window: a block for each in files of transformers 5; in older
 * ones `rope_scaling` and `rope_theta` are those of the first. (transformers 5.18 leaves the others their default then.)
 */
function rotations(json: ConfigJson): { all: RopeFields; local: RopeFields } {
  const { rope_scaling, rope_theta, max_position_embeddings } = json;
  const { full_attention, sliding_attention } = ropeBlocks(json, "OLMo 3");
  const all = { rope_scaling, rope_theta, rope_parameters: full_attention, max_position_embeddings };
  const local = { rope_parameters: sliding_attention, max_position_embeddings };
  return { all: ropeFields(all, THETA), local: ropeFields(local, THETA) };
}

export const olmo3: Architecture = {
  model_type: "olmo3",
  tasks: {
    "causal-lm": (json) => {
      const fields = readConfig(json, schema);
      const dim = fields.head_dim ?? headSize(fields.hidden_size, fields.num_attention_heads);
      const sliding = slidingLayers(fields, (layer) => (layer + 1) % 4 !== 0);
      const { all, local } = rotations(json);
      const traits = {
        window: windowOf(sliding, fields.sliding_window ?? undefined),
        local_rope: ropeFrequencies({ ...local, dim }),
      };
      return olmoForCausalLM(
        "Olmo3ForCausalLM",
        resolveLlama(fields, json, traits, () => ropeFrequencies({ ...all, dim })),
      );
    },
  },
  names: llamaNames,
};
