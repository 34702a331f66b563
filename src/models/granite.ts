// Granite 3 (IBM 2024): LLaMA with factors on embeddings, scores, the outputs of both parts of a layer, and logits.

import * as z from "../core/schema.js";
import { scope, type Tensor } from "../core/tensor.js";
import type { Architecture } from "../nn/architecture.js";
import { RMSNorm } from "../nn/norm.js";
import type { Pass } from "../nn/pass.js";
import { add } from "../ops/add.js";
import { scale } from "../ops/scale.js";
import { readConfig } from "./_config.js";
import {
  DecoderLayer,
  LlamaAttention,
  LlamaMLP,
  llamaFields,
  llamaForCausalLM,
  llamaNames,
  resolveLlama,
  type LlamaConfig as Shared,
} from "./_llama.js";

const factor = z.number().positive();

const schema = z.object({
  ...llamaFields,
  mlp_bias: z.boolean().default(false),
  embedding_multiplier: factor.default(1),
  attention_multiplier: factor.default(1),
  residual_multiplier: factor.default(1),
  logits_scaling: factor.default(1),
});

type GraniteConfig = Shared<z.infer<typeof schema>>;

class GraniteDecoderLayer extends DecoderLayer {
  self_attn: LlamaAttention;
  mlp: LlamaMLP;
  input_layernorm: RMSNorm;
  post_attention_layernorm: RMSNorm;
  readonly multiplier: number;
  readonly width: number;

  constructor(c: GraniteConfig, layer: number) {
    super(c, layer);
    this.self_attn = new LlamaAttention(c, layer);
    this.mlp = new LlamaMLP(c, c.mlp_bias);
    this.input_layernorm = new RMSNorm(c.hidden_size, c.rms_norm_eps);
    this.post_attention_layernorm = new RMSNorm(c.hidden_size, c.rms_norm_eps);
    this.multiplier = c.residual_multiplier;
    this.width = c.intermediate_size;
  }

  forward(x: Tensor, pass: Pass, table: Tensor | undefined): Tensor {
    return scope(() => {
      const seen = this.self_attn.forward(x, this.input_layernorm, undefined, pass, table);
      const h = add(x, scale(seen, this.multiplier));
      return pass.byRows(h, this.width, (rows) => {
        const thought = this.mlp.forward(this.post_attention_layernorm.forward(rows));
        return add(rows, scale(thought, this.multiplier));
      });
    });
  }
}

export const granite: Architecture = {
  model_type: "granite",
  tasks: {
    "causal-lm": (json) => {
      const fields = readConfig(json, schema);
      const c = resolveLlama(fields, json, {
        scale: fields.attention_multiplier,
        embedding_scale: { factor: fields.embedding_multiplier, rounded: false },
        logit_scale: 1 / fields.logits_scaling,
      });
      return llamaForCausalLM("GraniteForCausalLM", c, (layer) => new GraniteDecoderLayer(c, layer));
    },
  },
  names: llamaNames,
};
