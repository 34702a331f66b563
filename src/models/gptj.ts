// GPT-J (Wang and Komatsuzaki 2021): the decoder of _gptj.ts with a projection for each of q, k and v.

import type { Tensor } from "../core/tensor.js";
import type { Architecture } from "../nn/architecture.js";
import { Linear } from "../nn/module.js";
import { GPTJAttention, type GPTJConfig, gptjForCausalLM, gptjNames, parseGPTJ } from "./_gptj.js";

class SplitAttention extends GPTJAttention {
  k_proj: Linear;
  v_proj: Linear;
  q_proj: Linear;
  out_proj: Linear;

  constructor(c: GPTJConfig, layer: number) {
    super(c, layer);
    this.k_proj = new Linear(c.n_embd, c.n_embd);
    this.v_proj = new Linear(c.n_embd, c.n_embd);
    this.q_proj = new Linear(c.n_embd, c.n_embd);
    this.out_proj = new Linear(c.n_embd, c.n_embd);
  }

  protected project(x: Tensor): readonly [q: Tensor, k: Tensor, v: Tensor] {
    const [batch = 0, steps = 0] = x.shape;
    const heads = (projection: Linear): Tensor => projection.forward(x).view(batch, steps, this.heads, this.size);
    return [heads(this.q_proj), heads(this.k_proj), heads(this.v_proj)];
  }
}

export const gptj: Architecture = {
  model_type: "gptj",
  tasks: {
    "causal-lm": (json) => {
      const c = parseGPTJ(json);
      return gptjForCausalLM("GPTJForCausalLM", c, (layer) => new SplitAttention(c, layer));
    },
  },
  names: gptjNames,
};
