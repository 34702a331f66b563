// Qwen 3 (Yang et al. 2025): LLaMA with an RMSNorm of each head of queries and keys before they are rotated.

import * as z from "../core/schema.js";
import type { Architecture } from "../nn/architecture.js";
import { count, readConfig } from "./_config.js";
import { LlamaDecoderLayer, llamaForCausalLM, llamaNames, resolveLlama } from "./_llama.js";
import { qwenFields, qwenWindows } from "./_qwen.js";

const schema = z.object({ ...qwenFields, head_dim: count.default(128) });

export const qwen3: Architecture = {
  model_type: "qwen3",
  tasks: {
    "causal-lm": (json) => {
      const fields = readConfig(json, schema);
      const c = resolveLlama(fields, json, { window: qwenWindows(fields), head_norms: true });
      return llamaForCausalLM("Qwen3ForCausalLM", c, (layer) => new LlamaDecoderLayer(c, layer));
    },
  },
  names: llamaNames,
};
