// ERNIE 4.5 (Baidu 2025), the dense models: LLaMA whose neighbouring dims rotate together.

import * as z from "../core/schema.js";
import type { Architecture } from "../nn/architecture.js";
import { ropeFields, ropeFrequencies } from "../nn/rope.js";
import { count, epsilon, readConfig } from "./_config.js";
import { LlamaDecoderLayer, llamaFields, llamaForCausalLM, llamaNames, resolveLlama } from "./_llama.js";

const { attention_bias: _, ...fields } = llamaFields;
const schema = z.object({
  ...fields,
  num_key_value_heads: count.nullable().default(2),
  head_dim: count.nullable().default(128),
  rms_norm_eps: epsilon.default(1e-5),
  use_bias: z.boolean().nullish(),
  tie_word_embeddings: z.boolean().default(true),
});

/** Where config.json says nothing of it. */
const THETA = 500_000;

export const ernie4_5: Architecture = {
  model_type: "ernie4_5",
  tasks: {
    "causal-lm": (json) => {
      const { use_bias, ...own } = readConfig(json, schema);
      const bias = use_bias === true;
      const c = resolveLlama({ ...own, attention_bias: bias }, json, { interleaved: true }, (dim) =>
        ropeFrequencies({ ...ropeFields(json, THETA), dim }),
      );
      return llamaForCausalLM("Ernie4_5ForCausalLM", c, (layer) => new LlamaDecoderLayer(c, layer, bias));
    },
  },
  names: llamaNames,
};
