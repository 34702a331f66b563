// gpt-oss (OpenAI 2025, model card): experts with biases and limits, a window on every other layer, and for each head a sink: one
// more score beside those of its keys, for a key without a value.

import * as z from "../core/schema.js";
import { scope, type Tensor } from "../core/tensor.js";
import type { Architecture, ConfigJson, NameRule } from "../nn/architecture.js";
import type { AttendOptions } from "../nn/attend.js";
import { Linear, Matrix, Module, Parameter, within } from "../nn/module.js";
import { type RopeFrequencies, ropeFields, ropeFrequencies } from "../nn/rope.js";
import { contiguous } from "../ops/copy.js";
import { mix, route } from "../ops/experts.js";
import { clampedGated } from "../ops/gated.js";
import { count, epsilon, readConfig } from "./_config.js";
import { checkExperts, evenUseFields, evenUseOf } from "./_experts.js";
import { layerTypes, slidingLayers, windowOf } from "./_layer-types.js";
import {
  LlamaAttention,
  LlamaLayer,
  llamaFields,
  llamaForCausalLM,
  llamaNames,
  resolveLlama,
  type LlamaConfig as Shared,
} from "./_llama.js";

const schema = z.object({
  ...llamaFields,
  ...evenUseFields,
  vocab_size: count.default(201_088),
  hidden_size: count.default(2880),
  intermediate_size: count.default(2880),
  num_hidden_layers: count.max(1024).default(36),
  num_attention_heads: count.default(64),
  num_key_value_heads: count.nullable().default(8),
  head_dim: count.nullable().default(64),
  // The experts' activation is none of the others: files name the function inside it.
  hidden_act: z.literal("silu").default("silu"),
  max_position_embeddings: count.default(131_072),
  rms_norm_eps: epsilon.default(1e-5),
  attention_bias: z.boolean().default(true),
  sliding_window: count.nullable().default(128),
  layer_types: layerTypes,
  num_local_experts: count.min(2).max(4096).default(128),
  num_experts_per_tok: count.max(4096).default(4),
  swiglu_limit: z.number().positive().default(7),
  // The original length under another name; rope_scaling has it, too.
  initial_context_length: z.unknown().optional(),
});

const ALIASES = { num_local_experts: ["num_experts"], num_experts_per_tok: ["experts_per_token"] };

/** YaRN, where config.json has no rope block at all. */
const YARN = {
  rope_type: "yarn",
  factor: 32,
  beta_fast: 32,
  beta_slow: 1,
  truncate: false,
  original_max_position_embeddings: 4096,
};

type GptOssConfig = Shared<z.infer<typeof schema>>;

function parse(json: ConfigJson): GptOssConfig {
  const fields = readConfig(json, schema, ALIASES);
  checkExperts(fields.num_local_experts, fields.num_experts_per_tok);
  const sliding = slidingLayers(fields, (layer) => layer % 2 === 0);
  const window = windowOf(sliding, fields.sliding_window ?? undefined);
  return resolveLlama(fields, json, { window }, (dim) => rotation(json, dim));
}

function rotation(json: ConfigJson, dim: number): RopeFrequencies {
  const rope = ropeFields(json, 150_000);
  return ropeFrequencies({ ...rope, scaling: rope.scaling ?? YARN, dim });
}

class GptOssAttention extends LlamaAttention {
  sinks: Parameter;

  constructor(c: GptOssConfig, layer: number) {
    super(c, layer);
    this.sinks = new Parameter(c.num_attention_heads);
  }

  override attending(): AttendOptions {
    return { ...this.options, sinks: contiguous(this.sinks.value, "f32") };
  }
}

/** Scores of experts. No Linear: it is never quantized, and takes no adapter. */
class GptOssTopKRouter extends Module {
  weight: Matrix;
  bias: Parameter;

  constructor(hidden: number, experts: number) {
    super();
    this.weight = new Matrix(experts, hidden);
    this.weight.product = true;
    this.bias = new Parameter(experts);
  }

  forward(x: Tensor): Tensor {
    return within(x.device, this.path, () => this.weight.weight.linear(x, { bias: this.bias.value }));
  }
}

/** down(the gate and up of a token, which alternate in the rows of one matrix). */
class GptOssExperts extends Module {
  gate_up_proj: Linear;
  down_proj: Linear;
  readonly limit: number;

  constructor({
    hidden_size: hidden,
    intermediate_size: inner,
    num_local_experts: experts,
    swiglu_limit,
  }: GptOssConfig) {
    super();
    this.gate_up_proj = new Linear(hidden, 2 * inner, { bias: true, experts });
    this.down_proj = new Linear(inner, hidden, { bias: true, experts });
    this.limit = swiglu_limit;
  }

  /** x[B,T,hidden], experts[B,T,A] -> [B,T,A,hidden] */
  forward(x: Tensor, experts: Tensor): Tensor {
    const both = this.gate_up_proj.forward(x, { experts });
    const pairs = both.view(...experts.shape, -1, 2);
    const last = experts.shape.length + 1;
    const inner = clampedGated(pairs.select(last, 0), pairs.select(last, 1), this.limit);
    return this.down_proj.forward(inner, { experts });
  }
}

class GptOssMLP extends Module {
  router: GptOssTopKRouter;
  experts: GptOssExperts;
  readonly each: number;

  constructor(c: GptOssConfig) {
    super();
    this.router = new GptOssTopKRouter(c.hidden_size, c.num_local_experts);
    this.experts = new GptOssExperts(c);
    this.each = c.num_experts_per_tok;
  }

  forward(x: Tensor, residual: Tensor): Tensor {
    return scope(() => {
      // The softmax of the chosen scores alone: what `normalize` makes of that of all.
      const { experts, weights } = route(this.router.forward(x), this.each, true);
      return mix(this.experts.forward(x, experts), weights, residual);
    });
  }
}

class GptOssDecoderLayer extends LlamaLayer {
  mlp: GptOssMLP;

  constructor(c: GptOssConfig, layer: number) {
    super(c, layer, new GptOssAttention(c, layer));
    this.mlp = new GptOssMLP(c);
  }

  override routerLogits(x: Tensor): Tensor {
    return this.mlp.router.forward(x);
  }

  feedForward(x: Tensor, residual: Tensor): Tensor {
    return this.mlp.forward(x, residual);
  }
}

/** Matrices and biases of all experts are one tensor each; in 8 and 4 bits each expert has its own. */
const names: readonly NameRule[] = [
  ...["gate_up_proj", "down_proj"].flatMap((one): NameRule[] => [
    { ending: `.experts.${one}`, to: `.experts.${one}.weight`, inputs_first: true },
    { ending: `.experts.${one}_bias`, to: `.experts.${one}.bias` },
  ]),
  { expert: /\.experts\.(?<expert>\d+)\.(\w+_proj)\.weight$/, to: ".experts.$2.weight" },
  ...llamaNames,
];

export const gpt_oss: Architecture = {
  model_type: "gpt_oss",
  tasks: {
    "causal-lm": (json) => {
      const c = parse(json);
      const make = (layer: number): GptOssDecoderLayer => new GptOssDecoderLayer(c, layer);
      return llamaForCausalLM("GptOssForCausalLM", c, make, evenUseOf(c));
    },
  },
  names,
};
