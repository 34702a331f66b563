// The feed-forward of models that have gate and up in one projection (Phi-3, GLM-4).

import { scope, type Tensor } from "../core/tensor.js";
import { Linear, Module } from "../nn/module.js";
import type { Act } from "../ops/activation.js";
import { gated } from "../ops/gated.js";
import type { LlamaConfig } from "./_llama.js";

/** down(act(gate(x)) * up(x)) */
export class FusedMLP extends Module {
  gate_up_proj: Linear;
  down_proj: Linear;
  readonly inner: number;
  readonly act: Act;

  constructor(c: LlamaConfig) {
    super();
    this.inner = c.intermediate_size;
    this.gate_up_proj = new Linear(c.hidden_size, 2 * this.inner);
    this.down_proj = new Linear(this.inner, c.hidden_size);
    this.act = c.hidden_act;
  }

  forward(x: Tensor, residual?: Tensor): Tensor {
    return scope(() => {
      const both = this.gate_up_proj.forward(x); // [B,T,2I]
      const [gate, up] = [both.narrow(2, 0, this.inner), both.narrow(2, this.inner, this.inner)];
      return this.down_proj.forward(gated(gate, up, this.act), residual ? { residual } : {});
    });
  }
}
