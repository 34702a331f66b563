// Mixtral (Jiang et al. 2024): the decoder of _llama.ts with a sparse feed-forward; each token uses a few experts.

import * as z from "zod";
import { CONFIG_HINT, ConfigError } from "../core/errors.js";
import { scope, type Tensor } from "../core/tensor.js";
import type { Architecture, ConfigJson, NameRule } from "../nn/architecture.js";
import { Linear, Module } from "../nn/module.js";
import type { Act } from "../ops/activation.js";
import { mix, route } from "../ops/experts.js";
import { gated } from "../ops/gated.js";
import { count, readConfig } from "./_config.js";
import { LlamaForCausalLM, LlamaLayer, llamaFields, resolveLlama, type LlamaConfig as Shared } from "./_llama.js";

const schema = z.object({
  ...llamaFields,
  sliding_window: count.nullish(),
  num_local_experts: count.max(4096).default(8),
  num_experts_per_tok: count.max(4096).default(2),
});

const ALIASES = { num_local_experts: ["num_experts"] };

type MixtralConfig = Shared<z.infer<typeof schema>>;

function parse(json: ConfigJson): MixtralConfig {
  const c = resolveLlama(readConfig(json, schema, ALIASES), json);
  if (c.num_experts_per_tok > c.num_local_experts) {
    throw new ConfigError(
      `config.json: ${c.num_experts_per_tok} experts per token cannot be chosen from ${c.num_local_experts}`,
      { hint: CONFIG_HINT },
    );
  }
  return c;
}

/** The feed-forwards of all experts: w2(act(w1 x) * w3 x), each of the three a stack. */
class MixtralExperts extends Module {
  w1: Linear;
  w2: Linear;
  w3: Linear;
  readonly act: Act;

  constructor(c: MixtralConfig) {
    super();
    const experts = c.num_local_experts;
    this.w1 = new Linear(c.hidden_size, c.intermediate_size, { experts });
    this.w2 = new Linear(c.intermediate_size, c.hidden_size, { experts });
    this.w3 = new Linear(c.hidden_size, c.intermediate_size, { experts });
    this.act = c.hidden_act;
  }

  /** x[B,T,hidden], experts[B,T,A] -> [B,T,A,hidden] */
  forward(x: Tensor, experts: Tensor): Tensor {
    const inner = gated(this.w1.forward(x, { experts }), this.w3.forward(x, { experts }), this.act);
    return this.w2.forward(inner, { experts });
  }
}

class MixtralSparseMoeBlock extends Module {
  gate: Linear;
  experts: MixtralExperts;
  readonly each: number;

  constructor(c: MixtralConfig) {
    super();
    this.gate = new Linear(c.hidden_size, c.num_local_experts);
    this.experts = new MixtralExperts(c);
    this.each = c.num_experts_per_tok;
  }

  forward(x: Tensor, residual: Tensor): Tensor {
    return scope(() => {
      const { experts, weights } = route(this.gate.forward(x), this.each, true);
      return mix(this.experts.forward(x, experts), weights, residual);
    });
  }
}

class MixtralDecoderLayer extends LlamaLayer {
  block_sparse_moe: MixtralSparseMoeBlock;

  constructor(c: MixtralConfig, layer: number) {
    super(c, layer);
    this.block_sparse_moe = new MixtralSparseMoeBlock(c);
  }

  feedForward(x: Tensor, residual: Tensor): Tensor {
    return this.block_sparse_moe.forward(x, residual);
  }
}

/** Files have one tensor per expert; those of transformers 5 have stacks, one of which fuses w1 and w3. */
const names: readonly NameRule[] = [
  { ignore: /rotary_emb\.inv_freq$/ },
  { rename: /\.mlp\.(gate|experts)\b/, to: ".block_sparse_moe.$1" },
  { fused: /\.experts\.gate_up_proj$/, to: [".experts.w1.weight", ".experts.w3.weight"] },
  { rename: /\.experts\.down_proj$/, to: ".experts.w2.weight" },
  { expert: /\.experts\.(?<expert>\d+)\.(w[123])\.weight$/, to: ".experts.$2.weight" },
  { prefix: "model." },
];

export const mixtral: Architecture = {
  model_type: "mixtral",
  tasks: {
    "causal-lm": (json) => {
      const c = parse(json);
      return new LlamaForCausalLM(c, (layer) => new MixtralDecoderLayer(c, layer)).name_tree();
    },
  },
  names,
};
