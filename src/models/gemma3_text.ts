// Gemma 3 without images (Kamath et al. 2025): norms of heads, and five layers with a window, whose positions have frequencies
// of their own, for each that sees all.

import * as z from "../core/schema.js";
import type { Architecture, ConfigJson } from "../nn/architecture.js";
import { type RopeFields, ropeFields, ropeFrequencies } from "../nn/rope.js";
import { count, headSize, readConfig } from "./_config.js";
import { GemmaLayer, gemmaFields, gemmaTraits } from "./_gemma.js";
import { ropeBlocks, slidingLayers, windowOf } from "./_layer-types.js";
import { llamaForCausalLM, llamaNames, resolveLlama } from "./_llama.js";

const schema = z.object({
  ...gemmaFields,
  max_position_embeddings: count.default(131_072),
  sliding_window_pattern: count.default(6),
  final_logit_softcapping: z.number().positive().nullish(),
});

/**
 * Rotary positions of the layers that see all, and of those with a window: a block for each type in files of transformers 5; in
 * older ones `rope_theta` with `rope_scaling`, and `rope_local_base_freq`.
 */
function rotations(json: ConfigJson): { all: RopeFields; local: RopeFields } {
  const { rope_scaling, rope_theta, rope_local_base_freq, max_position_embeddings } = json;
  const { full_attention, sliding_attention } = ropeBlocks(json, "Gemma 3");
  const own = { rope_scaling, rope_theta, rope_parameters: full_attention, max_position_embeddings };
  const local = { rope_theta: rope_local_base_freq, rope_parameters: sliding_attention, max_position_embeddings };
  return { all: ropeFields(own, 1_000_000), local: ropeFields(local) };
}

export const gemma3_text: Architecture = {
  model_type: "gemma3_text",
  tasks: {
    "causal-lm": (json) => {
      const fields = readConfig(json, schema);
      const dim = fields.head_dim ?? headSize(fields.hidden_size, fields.num_attention_heads);
      const sliding = slidingLayers(fields, (layer) => (layer + 1) % fields.sliding_window_pattern !== 0);
      const { all, local } = rotations(json);
      const traits = {
        ...gemmaTraits(fields),
        window: windowOf(sliding, fields.sliding_window),
        head_norms: true,
        logit_softcap: fields.final_logit_softcapping ?? undefined,
        turns: (layer: number) => (sliding[layer] ? "local" : "global") as "local" | "global",
        local_rope: ropeFrequencies({ ...local, dim }),
      };
      const known = { ...fields, hidden_act: fields.hidden_activation };
      const c = resolveLlama(known, json, traits, () => ropeFrequencies({ ...all, dim }));
      return llamaForCausalLM("Gemma3ForCausalLM", c, (layer) => new GemmaLayer(c, layer));
    },
  },
  names: llamaNames,
};
