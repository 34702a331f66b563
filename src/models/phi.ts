// Phi-1, 1.5 and 2 (Li et al. 2023): both parts of a layer side by side behind one LayerNorm, rotary positions on a part of each head,
// biases everywhere, the head included.

import * as z from "../core/schema.js";
import type { Architecture } from "../nn/architecture.js";
import { LayerNorm } from "../nn/norm.js";
import { activationName, epsilon, readConfig } from "./_config.js";
import { decoderFields, decoderNames } from "./_decoder.js";
import { DecoderAttention, DecoderLayer, decoderForCausalLM, PlainMLP, resolveDecoder } from "./_layer-norm-decoder.js";

const schema = z.object({
  ...decoderFields,
  hidden_act: activationName.default("gelu_tanh"),
  layer_norm_eps: epsilon.default(1e-5),
  partial_rotary_factor: z.number().default(0.5),
  qk_layernorm: z.boolean().default(false),
});

export const phi: Architecture = {
  model_type: "phi",
  tasks: {
    "causal-lm": (json) => {
      const own = readConfig(json, schema);
      const c = resolveDecoder(own, json, { share: own.partial_rotary_factor });
      const norm = (): LayerNorm => new LayerNorm(c.hidden_size, c.layer_norm_eps);
      const heads = (): LayerNorm => new LayerNorm(c.head_dim, c.layer_norm_eps);
      const traits = {
        ...{ bias: true, out_bias: true, out: "dense" as const },
        ...(c.qk_layernorm ? { norm: { fields: ["q_layernorm", "k_layernorm"] as const, of: heads } } : {}),
      };
      return decoderForCausalLM(c, {
        ...{ name: "PhiForCausalLM", norm, last: "final_layernorm", head_bias: true },
        layer: (index) =>
          new DecoderLayer(new DecoderAttention(c, index, traits), new PlainMLP(c, ["fc1", "fc2"], true), norm, true),
      });
    },
  },
  names: decoderNames,
};
