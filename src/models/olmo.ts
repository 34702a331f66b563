// OLMo (Groeneveld et al. 2024): a LayerNorm without weights; queries, keys and values may have a limit.

import * as z from "../core/schema.js";
import type { Architecture } from "../nn/architecture.js";
import { LayerNorm } from "../nn/norm.js";
import { readConfig } from "./_config.js";
import { decoderFields, decoderNames } from "./_decoder.js";
import {
  DecoderAttention,
  DecoderLayer,
  DecoderMLP,
  decoderForCausalLM,
  resolveDecoder,
} from "./_layer-norm-decoder.js";

const schema = z.object({
  ...decoderFields,
  attention_bias: z.boolean().default(false),
  clip_qkv: z.number().min(0).nullish(),
});

const EPSILON = 1e-5;

export const olmo: Architecture = {
  model_type: "olmo",
  tasks: {
    "causal-lm": (json) => {
      const c = resolveDecoder(readConfig(json, schema), json);
      const norm = (): LayerNorm => new LayerNorm(c.hidden_size, EPSILON, false);
      const traits = { bias: c.attention_bias, out_bias: c.attention_bias, limit: c.clip_qkv ?? undefined };
      return decoderForCausalLM(c, {
        ...{ name: "OlmoForCausalLM", norm },
        layer: (index) => new DecoderLayer(new DecoderAttention(c, index, traits), new DecoderMLP(c), norm, false),
      });
    },
  },
  names: decoderNames,
};
