// Command R and Aya (Cohere 2024): both parts of a layer side by side behind a LayerNorm without bias, neighbouring dims rotate together,
// and a factor on logits.

import * as z from "../core/schema.js";
import type { Architecture } from "../nn/architecture.js";
import { LayerNorm } from "../nn/norm.js";
import { epsilon, readConfig } from "./_config.js";
import { decoderFields, decoderNames } from "./_decoder.js";
import { NormOfHeads } from "./_head-norms.js";
import {
  DecoderAttention,
  DecoderLayer,
  DecoderMLP,
  decoderForCausalLM,
  resolveDecoder,
} from "./_layer-norm-decoder.js";

const schema = z.object({
  ...decoderFields,
  layer_norm_eps: epsilon.default(1e-5),
  logit_scale: z.number().default(0.0625),
  attention_bias: z.boolean().default(false),
  use_qk_norm: z.boolean().nullish(),
  tie_word_embeddings: z.boolean().default(true),
});

/** Where config.json says nothing of it. */
const THETA = 500_000;

export const cohere: Architecture = {
  model_type: "cohere",
  tasks: {
    "causal-lm": (json) => {
      const c = resolveDecoder(readConfig(json, schema), json, { theta: THETA });
      const norm = (): LayerNorm => new LayerNorm(c.hidden_size, c.layer_norm_eps, true, false);
      const heads = (count: number): NormOfHeads => new NormOfHeads(c.head_dim, count, c.layer_norm_eps);
      const traits = {
        ...{ bias: c.attention_bias, out_bias: c.attention_bias, interleaved: true },
        ...(c.use_qk_norm ? { norm: { fields: ["q_norm", "k_norm"] as const, of: heads } } : {}),
      };
      return decoderForCausalLM(c, {
        ...{ name: "CohereForCausalLM", norm, logit_scale: c.logit_scale },
        layer: (index) => new DecoderLayer(new DecoderAttention(c, index, traits), new DecoderMLP(c), norm, true),
      });
    },
  },
  names: decoderNames,
};
