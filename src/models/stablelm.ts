// StableLM (Stability AI 2023): LayerNorm around a decoder like LLaMA's, rotary positions on a part of each head. The larger
// models of version 2 have both parts of a layer side by side, and a norm for each head of queries and keys.

import * as z from "../core/schema.js";
import type { Architecture } from "../nn/architecture.js";
import { LayerNorm } from "../nn/norm.js";
import { epsilon, readConfig } from "./_config.js";
import { decoderFields, decoderNames } from "./_decoder.js";
import { NormPerHead } from "./_head-norms.js";
import {
  DecoderAttention,
  DecoderLayer,
  DecoderMLP,
  decoderForCausalLM,
  resolveDecoder,
} from "./_layer-norm-decoder.js";

const { head_dim: _, ...fields } = decoderFields;
const schema = z.object({
  ...fields,
  layer_norm_eps: epsilon.default(1e-5),
  partial_rotary_factor: z.number().default(0.25),
  use_qkv_bias: z.boolean().default(false),
  qk_layernorm: z.boolean().default(false),
  use_parallel_residual: z.boolean().default(false),
});

export const stablelm: Architecture = {
  model_type: "stablelm",
  tasks: {
    "causal-lm": (json) => {
      const own = readConfig(json, schema);
      const c = resolveDecoder(own, json, { share: own.partial_rotary_factor });
      const norm = (): LayerNorm => new LayerNorm(c.hidden_size, c.layer_norm_eps);
      const heads = (count: number): NormPerHead => new NormPerHead(c.head_dim, count, c.layer_norm_eps);
      const traits = {
        bias: c.use_qkv_bias,
        out_bias: false,
        ...(c.qk_layernorm ? { norm: { fields: ["q_layernorm", "k_layernorm"] as const, of: heads } } : {}),
      };
      return decoderForCausalLM(c, {
        name: "StableLmForCausalLM",
        norm,
        layer: (index) =>
          new DecoderLayer(new DecoderAttention(c, index, traits), new DecoderMLP(c), norm, c.use_parallel_residual),
      });
    },
  },
  names: decoderNames,
};
