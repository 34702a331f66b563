// StarCoder 2 (Lozhkov et al. 2024), a model of programs: LayerNorm, biases, a window of keys.

import * as z from "../core/schema.js";
import type { Architecture } from "../nn/architecture.js";
import { LayerNorm } from "../nn/norm.js";
import { activationName, count, epsilon, readConfig } from "./_config.js";
import { decoderFields, decoderNames } from "./_decoder.js";
import { DecoderAttention, DecoderLayer, decoderForCausalLM, PlainMLP, resolveDecoder } from "./_layer-norm-decoder.js";

const schema = z.object({
  ...decoderFields,
  num_key_value_heads: count.default(2),
  hidden_act: activationName.default("gelu_tanh"),
  norm_epsilon: epsilon.default(1e-5),
  sliding_window: count.nullish(),
  use_bias: z.boolean().default(true),
  tie_word_embeddings: z.boolean().default(true),
  // Of the files, which transformers' class does not read.
  norm_type: z.literal("layer_norm").default("layer_norm"),
  mlp_type: z.literal("default").default("default"),
  /** Read by nothing: `hidden_act` and `norm_epsilon` count. */
  activation_function: z.string().nullish(),
  layer_norm_epsilon: z.number().nullish(),
});

export const starcoder2: Architecture = {
  model_type: "starcoder2",
  tasks: {
    "causal-lm": (json) => {
      const c = resolveDecoder(readConfig(json, schema), json);
      const norm = (): LayerNorm => new LayerNorm(c.hidden_size, c.norm_epsilon);
      const window = c.sliding_window ?? undefined;
      const traits = { bias: c.use_bias, out_bias: c.use_bias, window };
      return decoderForCausalLM(c, {
        ...{ name: "Starcoder2ForCausalLM", norm, window },
        layer: (index) => {
          const mlp = new PlainMLP(c, ["c_fc", "c_proj"], c.use_bias);
          return new DecoderLayer(new DecoderAttention(c, index, traits), mlp, norm, false);
        },
      });
    },
  },
  names: decoderNames,
};
