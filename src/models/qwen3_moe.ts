// Qwen 3 with experts (Yang et al. 2025): the attention of Qwen 3, and a sparse feed-forward on all layers or some.

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
import {
  LlamaLayer,
  LlamaMLP,
  llamaFields,
  llamaForCausalLM,
  llamaNames,
  resolveLlama,
  type LlamaConfig as Shared,
} from "./_llama.js";

const schema = z.object({
  ...llamaFields,
  ...evenUseFields,
  num_key_value_heads: count.nullable().default(4),
  max_position_embeddings: count.default(32_768),
  use_sliding_window: z.boolean().default(false),
  sliding_window: count.nullable().default(4096),
  // In the files, and not read by transformers either: windows are on all layers or on none.
  max_window_layers: z.unknown().optional(),
  moe_intermediate_size: count.default(768),
  num_experts: z.int().min(0).max(4096).default(128),
  num_experts_per_tok: count.max(4096).default(8),
  norm_topk_prob: z.boolean().default(false),
  decoder_sparse_step: count.default(1),
  mlp_only_layers: z.array(z.int()).nullish(),
});

const ALIASES = { num_experts: ["num_local_experts"] };

type Qwen3MoeConfig = Shared<z.infer<typeof schema>>;

function parse(json: ConfigJson): Qwen3MoeConfig {
  const fields = readConfig(json, schema, ALIASES);
  if (fields.num_experts > 0) checkExperts(fields.num_experts, fields.num_experts_per_tok);
  const size = fields.use_sliding_window ? (fields.sliding_window ?? undefined) : undefined;
  return resolveLlama(fields, json, { window: () => size, head_norms: true });
}

class Qwen3MoeExperts extends Experts {
  gate_proj: Linear;
  up_proj: Linear;
  down_proj: Linear;

  constructor(sizes: ExpertSizes) {
    super(sizes);
    [this.gate_proj, this.up_proj, this.down_proj] = expertStacks(sizes);
  }

  get stacks(): readonly [Linear, Linear, Linear] {
    return [this.gate_proj, this.up_proj, this.down_proj];
  }
}

class Qwen3MoeDecoderLayer extends LlamaLayer {
  mlp: SparseBlock | LlamaMLP;

  constructor(c: Qwen3MoeConfig, layer: number) {
    super(c, layer);
    const { hidden_size: hidden, num_experts: experts, moe_intermediate_size: inner, hidden_act: act } = c;
    const dense = c.mlp_only_layers?.includes(layer) || experts === 0 || (layer + 1) % c.decoder_sparse_step !== 0;
    const options = { experts, each: c.num_experts_per_tok, normalize: c.norm_topk_prob };
    this.mlp = dense
      ? new LlamaMLP(c)
      : new SparseBlock(hidden, new Qwen3MoeExperts({ hidden, inner, experts, act }), options);
  }

  override routerLogits(x: Tensor): Tensor | undefined {
    return this.mlp instanceof SparseBlock ? this.mlp.gate.forward(x) : undefined;
  }

  feedForward(x: Tensor, residual: Tensor): Tensor {
    return this.mlp.forward(x, residual);
  }
}

/** Files have one tensor per expert; those of transformers 5 have stacks, one of which fuses gates and ups. */
const names: readonly NameRule[] = [
  { fused: /\.experts\.gate_up_proj$/, to: [".experts.gate_proj.weight", ".experts.up_proj.weight"] },
  { rename: /\.experts\.down_proj$/, to: ".experts.down_proj.weight" },
  { expert: /\.experts\.(?<expert>\d+)\.((?:gate|up|down)_proj)\.weight$/, to: ".experts.$2.weight" },
  ...llamaNames,
];

export const qwen3_moe: Architecture = {
  model_type: "qwen3_moe",
  tasks: {
    "causal-lm": (json) => {
      const c = parse(json);
      return llamaForCausalLM(
        "Qwen3MoeForCausalLM",
        c,
        (layer) => new Qwen3MoeDecoderLayer(c, layer),
        c.num_experts > 0 ? evenUseOf(c) : undefined,
      );
    },
  },
  names,
};
