// Phi-3 and Phi-4-mini (Abdin et al. 2024): LLaMA with queries, keys and values in one projection, and gate and up in another;
// rotary positions on a part of each head, with LongRoPE for long texts.

import { CONFIG_HINT, ConfigError } from "../core/errors.js";
import * as z from "../core/schema.js";
import { show } from "../core/show.js";
import type { Tensor } from "../core/tensor.js";
import type { Architecture, ConfigJson } from "../nn/architecture.js";
import { Linear } from "../nn/module.js";
import { type RopeFrequencies, ropeFields, ropeFrequencies } from "../nn/rope.js";
import { count, epsilon, readConfig } from "./_config.js";
import { FusedMLP } from "./_fused-mlp.js";
import {
  LlamaLayer,
  llamaFields,
  llamaForCausalLM,
  llamaNames,
  never,
  RotaryAttention,
  resolveLlama,
  type LlamaConfig as Shared,
} from "./_llama.js";

const schema = z.object({
  ...llamaFields,
  max_position_embeddings: count.default(4096),
  original_max_position_embeddings: count.default(4096),
  rms_norm_eps: epsilon.default(1e-5),
  sliding_window: count.nullish(),
  partial_rotary_factor: z.number().positive().max(1).nullish(),
  // Written by Microsoft's own code, and never otherwise.
  attention_bias: never,
  mlp_bias: never,
  lm_head_bias: never,
  full_attn_mod: z.literal(1).default(1),
  interpolate_factor: z.literal(1).default(1),
});

type Phi3Config = Shared<z.infer<typeof schema>>;

const KINDS = new Set<unknown>(["default", "longrope", "su", "yarn"]);

/** The frequencies of the dims that rotate. The first files call LongRoPE "su", or "yarn". */
function rotation(fields: z.infer<typeof schema>, json: ConfigJson, head_dim: number): RopeFrequencies {
  const rope = ropeFields(json);
  const said = rope.scaling?.rope_type ?? rope.scaling?.type ?? "default";
  if (!KINDS.has(said)) {
    throw new ConfigError(`config.json: phi3 has no rope_scaling of type ${show(said)}`, {
      hint: "longrope is the only one it has",
    });
  }
  const part = rope.scaling?.partial_rotary_factor ?? fields.partial_rotary_factor ?? 1;
  const dim = typeof part === "number" ? Math.trunc(head_dim * part) : 0;
  if (!(dim >= 2 && dim <= head_dim && dim % 2 === 0)) {
    throw new ConfigError(
      `config.json: partial_rotary_factor ${show(part)} of ${head_dim} dims is no even number from 2 to ${head_dim}`,
      { hint: CONFIG_HINT },
    );
  }
  const kind = said === "default" ? "default" : "longrope";
  return ropeFrequencies({ ...rope, dim, kind, trained: fields.original_max_position_embeddings });
}

class Phi3Attention extends RotaryAttention {
  qkv_proj: Linear;
  o_proj: Linear;
  readonly heads: number;
  readonly groups: number;

  constructor(c: Phi3Config, layer: number) {
    super(c, layer);
    this.heads = c.num_attention_heads;
    this.groups = c.num_key_value_heads;
    this.qkv_proj = new Linear(c.hidden_size, (this.heads + 2 * this.groups) * c.head_dim);
    this.o_proj = new Linear(this.heads * c.head_dim, c.hidden_size);
  }

  project(x: Tensor): readonly [Tensor, Tensor, Tensor] {
    const [batch = 0, steps = 0] = x.shape;
    const { heads, groups } = this;
    const all = this.qkv_proj.forward(x).view(batch, steps, -1, this.head_dim); // [B,T,H+2G,D]
    const part = (at: number, size: number): Tensor => all.narrow(2, at, size);
    return [part(0, heads), part(heads, groups), part(heads + groups, groups)];
  }
}

class Phi3DecoderLayer extends LlamaLayer {
  mlp: FusedMLP;

  constructor(c: Phi3Config, layer: number) {
    super(c, layer, new Phi3Attention(c, layer));
    this.mlp = new FusedMLP(c);
  }

  feedForward(x: Tensor, residual: Tensor): Tensor {
    return this.mlp.forward(x, residual);
  }
}

export const phi3: Architecture = {
  model_type: "phi3",
  tasks: {
    "causal-lm": (json) => {
      const fields = readConfig(json, schema);
      const traits = { window: () => fields.sliding_window ?? undefined };
      const c = resolveLlama(fields, json, traits, (head_dim) => rotation(fields, json, head_dim));
      return llamaForCausalLM("Phi3ForCausalLM", c, (layer) => new Phi3DecoderLayer(c, layer));
    },
  },
  names: llamaNames,
};
