// Sparse feed-forwards of Mixtral and Qwen: a router chooses a few experts for each token, and their results are mixed. An
// expert is a gated feed-forward; each of its three matrices is a stack with those of all experts.

import { CONFIG_HINT, ConfigError } from "../core/errors.js";
import * as z from "../core/schema.js";
import { scope, type Tensor } from "../core/tensor.js";
import type { EvenUse } from "../nn/even-use.js";
import { Linear, Module } from "../nn/module.js";
import type { Act } from "../ops/activation.js";
import { mix, route } from "../ops/experts.js";
import { gated } from "../ops/gated.js";

export interface ExpertSizes {
  readonly hidden: number;
  /** Inner features of an expert. */
  readonly inner: number;
  readonly experts: number;
  readonly act: Act;
}

/** Keys of the loss for an even use of experts. */
export const evenUseFields = {
  output_router_logits: z.boolean().default(false),
  router_aux_loss_coef: z.number().default(0.001),
};

/** What config.json says of it. */
export function evenUseOf({
  output_router_logits,
  router_aux_loss_coef,
  num_experts_per_tok,
}: z.infer<z.ObjectSchema<typeof evenUseFields>> & {
  readonly num_experts_per_tok: number;
}): EvenUse {
  return { each: num_experts_per_tok, coefficient: router_aux_loss_coef, by_default: output_router_logits };
}

/** @throws ConfigError if a token is to use more experts than there are */
export function checkExperts(experts: number, each: number): void {
  if (each <= experts) return;
  throw new ConfigError(`config.json: ${each} experts per token cannot be chosen from ${experts}`, {
    hint: CONFIG_HINT,
  });
}

/** All experts: down(act(gate x) * up x). Fields have the names of the published files. */
export abstract class Experts extends Module {
  readonly act: Act;

  constructor({ act }: ExpertSizes) {
    super();
    this.act = act;
  }

  /** The stacks of gates, ups and downs. */
  abstract get stacks(): readonly [gate: Linear, up: Linear, down: Linear];

  /** x[B,T,hidden], experts[B,T,A] -> [B,T,A,hidden] */
  forward(x: Tensor, experts: Tensor): Tensor {
    const [gate, up, down] = this.stacks;
    return down.forward(gated(gate.forward(x, { experts }), up.forward(x, { experts }), this.act), { experts });
  }
}

/** New stacks for the sizes. */
export function expertStacks({
  hidden,
  inner,
  experts,
}: ExpertSizes): readonly [gate: Linear, up: Linear, down: Linear] {
  const stack = (from: number, to: number): Linear => new Linear(from, to, { experts });
  return [stack(hidden, inner), stack(hidden, inner), stack(inner, hidden)];
}

export class SparseBlock extends Module {
  gate: Linear;
  experts: Experts;
  readonly each: number;
  readonly normalize: boolean;

  /** @param options `each`: experts of a token; `normalize`: their probabilities sum up to 1 */
  constructor(hidden: number, experts: Experts, options: { experts: number; each: number; normalize: boolean }) {
    super();
    this.gate = new Linear(hidden, options.experts);
    this.experts = experts;
    this.each = options.each;
    this.normalize = options.normalize;
  }

  forward(x: Tensor, residual: Tensor): Tensor {
    return scope(() => {
      const { experts, weights } = route(this.gate.forward(x), this.each, this.normalize);
      return mix(this.experts.forward(x, experts), weights, residual);
    });
  }
}
