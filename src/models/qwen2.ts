// Qwen 2 and 2.5 (Yang et al. 2024): LLaMA with biases on queries, keys and values.

import * as z from "../core/schema.js";
import type { Architecture } from "../nn/architecture.js";
import { readConfig } from "./_config.js";
import { LlamaDecoderLayer, llamaForCausalLM, llamaNames, never, resolveLlama } from "./_llama.js";
import { qwenFields, qwenWindows } from "./_qwen.js";

const schema = z.object({ ...qwenFields, attention_bias: never });

export const qwen2: Architecture = {
  model_type: "qwen2",
  tasks: {
    "causal-lm": (json) => {
      const fields = readConfig(json, schema);
      const c = resolveLlama(fields, json, { window: qwenWindows(fields), qkv_bias: true });
      return llamaForCausalLM("Qwen2ForCausalLM", c, (layer) => new LlamaDecoderLayer(c, layer));
    },
  },
  names: llamaNames,
};
