// GLM-4-0414 (Zhipu AI 2025): LLaMA with a norm behind each part of a layer, too, gate and up in one projection, and rotary positions on
// neighbouring dims of half of each head.

import * as z from "../core/schema.js";
import { scope, type Tensor } from "../core/tensor.js";
import type { Architecture } from "../nn/architecture.js";
import { RMSNorm } from "../nn/norm.js";
import { rotaryDims } from "../nn/partial-rotary.js";
import type { Pass } from "../nn/pass.js";
import { ropeFields, ropeFrequencies } from "../nn/rope.js";
import { add } from "../ops/add.js";
import { count, epsilon, readConfig } from "./_config.js";
import { FusedMLP } from "./_fused-mlp.js";
import {
  DecoderLayer,
  LlamaAttention,
  type LlamaConfig,
  llamaFields,
  llamaForCausalLM,
  llamaNames,
  resolveLlama,
} from "./_llama.js";

const schema = z.object({
  ...llamaFields,
  num_key_value_heads: count.default(2),
  head_dim: count.default(128),
  rms_norm_eps: epsilon.default(1.5625e-7),
  partial_rotary_factor: z.number().default(0.5),
  attention_bias: z.boolean().default(true),
});

class Glm4DecoderLayer extends DecoderLayer {
  self_attn: LlamaAttention;
  mlp: FusedMLP;
  input_layernorm: RMSNorm;
  post_attention_layernorm: RMSNorm;
  post_self_attn_layernorm: RMSNorm;
  post_mlp_layernorm: RMSNorm;
  readonly width: number;

  constructor(c: LlamaConfig, layer: number) {
    super(c, layer);
    const norm = (): RMSNorm => new RMSNorm(c.hidden_size, c.rms_norm_eps);
    this.self_attn = new LlamaAttention(c, layer);
    this.mlp = new FusedMLP(c);
    this.input_layernorm = norm();
    this.post_attention_layernorm = norm();
    this.post_self_attn_layernorm = norm();
    this.post_mlp_layernorm = norm();
    this.width = c.intermediate_size;
  }

  forward(x: Tensor, pass: Pass, table: Tensor | undefined): Tensor {
    return scope(() => {
      const seen = this.self_attn.forward(x, this.input_layernorm, undefined, pass, table);
      const h = add(x, this.post_self_attn_layernorm.forward(seen));
      return pass.byRows(h, this.width, (rows) => {
        const thought = this.mlp.forward(this.post_attention_layernorm.forward(rows));
        return add(rows, this.post_mlp_layernorm.forward(thought));
      });
    });
  }
}

export const glm4: Architecture = {
  model_type: "glm4",
  tasks: {
    "causal-lm": (json) => {
      const own = readConfig(json, schema);
      const traits = { interleaved: true, qkv_bias: own.attention_bias };
      const c = resolveLlama({ ...own, attention_bias: false }, json, traits, (head_dim) => {
        const rope = ropeFields(json);
        const dim = rotaryDims(rope.scaling, own.partial_rotary_factor, head_dim, "partial_rotary_factor");
        return ropeFrequencies({ ...rope, dim });
      });
      return llamaForCausalLM("Glm4ForCausalLM", c, (layer) => new Glm4DecoderLayer(c, layer));
    },
  },
  names: llamaNames,
};
