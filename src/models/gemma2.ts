// Gemma 2 (Riviere et al. 2024): soft caps on scores and logits, and a window on every other layer.

import * as z from "../core/schema.js";
import type { Architecture } from "../nn/architecture.js";
import { count, readConfig } from "./_config.js";
import { GemmaLayer, gemmaFields, gemmaTraits } from "./_gemma.js";
import { slidingLayers, windowOf } from "./_layer-types.js";
import { llamaForCausalLM, llamaNames, resolveLlama } from "./_llama.js";

const schema = z.object({
  ...gemmaFields,
  max_position_embeddings: count.default(8192),
  attn_logit_softcapping: z.number().positive().nullable().default(50),
  final_logit_softcapping: z.number().positive().nullable().default(30),
});

export const gemma2: Architecture = {
  model_type: "gemma2",
  tasks: {
    "causal-lm": (json) => {
      const fields = readConfig(json, schema);
      const sliding = slidingLayers(fields, (layer) => layer % 2 === 0);
      const c = resolveLlama({ ...fields, hidden_act: fields.hidden_activation }, json, {
        ...gemmaTraits(fields),
        window: windowOf(sliding, fields.sliding_window),
        softcap: fields.attn_logit_softcapping ?? undefined,
        logit_softcap: fields.final_logit_softcapping ?? undefined,
      });
      return llamaForCausalLM("Gemma2ForCausalLM", c, (layer) => new GemmaLayer(c, layer));
    },
  },
  names: llamaNames,
};
