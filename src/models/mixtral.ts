// Mixtral (Jiang et al. 2024): the decoder of _llama.ts with a sparse feed-forward; each token uses a few experts.

import * as z from "../core/schema.js";
import type { Tensor } from "../core/tensor.js";
import type { Architecture, ConfigJson, NameRule } from "../nn/architecture.js";
import type { Linear } from "../nn/module.js";
import { count, readConfig } from "./_config.js";
import {
  checkExperts,
  type ExpertSizes,
  Experts,
  evenUseFields,
  evenUseOf,
  expertStacks,
  SparseBlock,
} from "./_experts.js";
import { LlamaLayer, llamaFields, llamaForCausalLM, resolveLlama, type LlamaConfig as Shared } from "./_llama.js";

const schema = z.object({
  ...llamaFields,
  ...evenUseFields,
  sliding_window: count.nullish(),
  num_local_experts: count.max(4096).default(8),
  num_experts_per_tok: count.max(4096).default(2),
});

const ALIASES = { num_local_experts: ["num_experts"] };

type MixtralConfig = Shared<z.infer<typeof schema>>;

function parse(json: ConfigJson): MixtralConfig {
  const fields = readConfig(json, schema, ALIASES);
  checkExperts(fields.num_local_experts, fields.num_experts_per_tok);
  return resolveLlama(fields, json, { window: () => fields.sliding_window ?? undefined });
}

/** w2(act(w1 x) * w3 x) */
class MixtralExperts extends Experts {
  w1: Linear;
  w2: Linear;
  w3: Linear;

  constructor(sizes: ExpertSizes) {
    super(sizes);
    [this.w1, this.w3, this.w2] = expertStacks(sizes);
  }

  get stacks(): readonly [Linear, Linear, Linear] {
    return [this.w1, this.w3, this.w2];
  }
}

class MixtralDecoderLayer extends LlamaLayer {
  block_sparse_moe: SparseBlock;

  constructor(c: MixtralConfig, layer: number) {
    super(c, layer);
    const { hidden_size: hidden, intermediate_size: inner, num_local_experts: experts, hidden_act: act } = c;
    const all = new MixtralExperts({ hidden, inner, experts, act });
    this.block_sparse_moe = new SparseBlock(hidden, all, { experts, each: c.num_experts_per_tok, normalize: true });
  }

  override routerLogits(x: Tensor): Tensor {
    return this.block_sparse_moe.gate.forward(x);
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
      return llamaForCausalLM("MixtralForCausalLM", c, (layer) => new MixtralDecoderLayer(c, layer), evenUseOf(c));
    },
  },
  names,
};
