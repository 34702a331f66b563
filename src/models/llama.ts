// LLaMA (Touvron et al. 2023): the decoder of _llama.ts with a gated feed-forward.

import * as z from "../core/schema.js";
import type { Architecture } from "../nn/architecture.js";
import { readConfig } from "./_config.js";
import { LlamaDecoderLayer, llamaFields, llamaForCausalLM, llamaNames, resolveLlama } from "./_llama.js";

const schema = z.object({ ...llamaFields, mlp_bias: z.boolean().default(false) });

export const llama: Architecture = {
  model_type: "llama",
  tasks: {
    "causal-lm": (json) => {
      const c = resolveLlama(readConfig(json, schema), json);
      return llamaForCausalLM("LlamaForCausalLM", c, (layer) => new LlamaDecoderLayer(c, layer, c.mlp_bias));
    },
  },
  names: llamaNames,
};
