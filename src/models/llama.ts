// LLaMA (Touvron et al. 2023): the decoder of _llama.ts with a gated feed-forward.

import * as z from "zod";
import type { Tensor } from "../core/tensor.js";
import type { Architecture } from "../nn/architecture.js";
import { Linear, Module } from "../nn/module.js";
import type { Act } from "../ops/activation.js";
import { gated } from "../ops/gated.js";
import { readConfig } from "./_config.js";
import { LlamaForCausalLM, LlamaLayer, llamaFields, resolveLlama, type LlamaConfig as Shared } from "./_llama.js";

const schema = z.object({ ...llamaFields, mlp_bias: z.boolean().default(false) });

type LlamaConfig = Shared<z.infer<typeof schema>>;

class LlamaMLP extends Module {
  gate_proj: Linear;
  up_proj: Linear;
  down_proj: Linear;
  readonly act: Act;

  constructor(c: LlamaConfig) {
    super();
    this.gate_proj = new Linear(c.hidden_size, c.intermediate_size, { bias: c.mlp_bias });
    this.up_proj = new Linear(c.hidden_size, c.intermediate_size, { bias: c.mlp_bias });
    this.down_proj = new Linear(c.intermediate_size, c.hidden_size, { bias: c.mlp_bias });
    this.act = c.hidden_act;
  }

  forward(x: Tensor, residual: Tensor): Tensor {
    return this.down_proj.forward(gated(this.gate_proj.forward(x), this.up_proj.forward(x), this.act), { residual });
  }
}

class LlamaDecoderLayer extends LlamaLayer {
  mlp: LlamaMLP;

  constructor(c: LlamaConfig, layer: number) {
    super(c, layer);
    this.mlp = new LlamaMLP(c);
  }

  feedForward(x: Tensor, residual: Tensor): Tensor {
    return this.mlp.forward(x, residual);
  }
}

export const llama: Architecture = {
  model_type: "llama",
  tasks: {
    "causal-lm": (json) => {
      const c = resolveLlama(readConfig(json, schema), json);
      return new LlamaForCausalLM(c, (layer) => new LlamaDecoderLayer(c, layer)).name_tree();
    },
  },
  names: [{ ignore: /rotary_emb\.inv_freq$/ }, { prefix: "model." }],
};
