// Gemma (Mesnard et al. 2024): the decoder of _llama.ts with embeddings times the root of the hidden size, and norms that store
// weight - 1.

import * as z from "../core/schema.js";
import type { Architecture } from "../nn/architecture.js";
import { activationName, count, readConfig } from "./_config.js";
import { LlamaDecoderLayer, llamaFields, llamaForCausalLM, llamaNames, resolveLlama } from "./_llama.js";

const schema = z.object({
  ...llamaFields,
  num_key_value_heads: count.default(16),
  head_dim: count.default(256),
  hidden_act: activationName.default("gelu_tanh"),
  // In some files beside hidden_act, which alone counts.
  hidden_activation: z.unknown().optional(),
  max_position_embeddings: count.default(8192),
  tie_word_embeddings: z.boolean().default(true),
  use_bidirectional_attention: z.literal(false).nullish(),
});

export const gemma: Architecture = {
  model_type: "gemma",
  tasks: {
    "causal-lm": (json) => {
      const fields = readConfig(json, schema);
      // The first files say "gelu" and mean its approximation.
      const hidden_act = fields.hidden_act === "gelu" ? ("gelu_tanh" as const) : fields.hidden_act;
      const c = resolveLlama({ ...fields, hidden_act }, json, {
        norm_offset: 1,
        embedding_scale: { factor: fields.hidden_size ** 0.5, rounded: true },
      });
      return llamaForCausalLM("GemmaForCausalLM", c, (layer) => new LlamaDecoderLayer(c, layer));
    },
  },
  names: llamaNames,
};
