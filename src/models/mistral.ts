// Mistral 7B (Jiang et al. 2023) and its descendants: LLaMA without biases, and a window on every layer if config.json has one.

import * as z from "../core/schema.js";
import type { Architecture } from "../nn/architecture.js";
import { count, readConfig } from "./_config.js";
import { LlamaDecoderLayer, llamaFields, llamaForCausalLM, llamaNames, never, resolveLlama } from "./_llama.js";

const schema = z.object({
  ...llamaFields,
  num_key_value_heads: count.nullable().default(8),
  max_position_embeddings: count.default(131_072),
  sliding_window: count.nullable().default(4096),
  attention_bias: never,
});

export const mistral: Architecture = {
  model_type: "mistral",
  tasks: {
    "causal-lm": (json) => {
      const fields = readConfig(json, schema);
      const c = resolveLlama(fields, json, { window: () => fields.sliding_window ?? undefined });
      return llamaForCausalLM("MistralForCausalLM", c, (layer) => new LlamaDecoderLayer(c, layer));
    },
  },
  names: llamaNames,
};
