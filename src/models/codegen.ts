// CodeGen (Nijkamp et al. 2022): the decoder of _gptj.ts with one fused projection, whose rows are in the order of the four
// chips that trained it: [4, (q, v, k), H/4, D].

import { CONFIG_HINT, ConfigError } from "../core/errors.js";
import type { Tensor } from "../core/tensor.js";
import type { Architecture } from "../nn/architecture.js";
import { Linear } from "../nn/module.js";
import { contiguous } from "../ops/copy.js";
import { GPTJAttention, type GPTJConfig, gptjForCausalLM, gptjNames, parseGPTJ } from "./_gptj.js";

const CHIPS = 4;

class FusedAttention extends GPTJAttention {
  qkv_proj: Linear;
  out_proj: Linear;

  constructor(c: GPTJConfig, layer: number) {
    super(c, layer);
    this.qkv_proj = new Linear(c.n_embd, 3 * c.n_embd);
    this.out_proj = new Linear(c.n_embd, c.n_embd);
  }

  protected project(x: Tensor): readonly [q: Tensor, k: Tensor, v: Tensor] {
    const [batch = 0, steps = 0] = x.shape;
    const fused = this.qkv_proj.forward(x).view(batch, steps, CHIPS, 3, this.heads / CHIPS, this.size);
    const part = (index: number): Tensor =>
      contiguous(fused.select(3, index)).view(batch, steps, this.heads, this.size);
    return [part(0), part(2), part(1)];
  }
}

export const codegen: Architecture = {
  model_type: "codegen",
  tasks: {
    "causal-lm": (json) => {
      const c = parseGPTJ(json);
      if (c.n_head % CHIPS !== 0) {
        throw new ConfigError(`config.json: a CodeGen model's heads come in ${CHIPS} parts, got ${c.n_head}`, {
          hint: CONFIG_HINT,
        });
      }
      return gptjForCausalLM("CodeGenForCausalLM", c, (layer) => new FusedAttention(c, layer));
    },
  },
  names: gptjNames,
};
