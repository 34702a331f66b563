// Gradients of what mixtures of experts consist of (experts.ts): of products with chosen matrices by their inputs, straight from the
// stored stacks, and by dense stacks; of the choice by the scores of the experts.

import type { Tensor } from "../core/tensor.js";
import { checkRows, checkStacked, eachRow, slice, statisticsOf } from "./_experts.js";
import { checkRounding, checkStatistics, fourBitBackOp } from "./four-bit.js";
import { checkCompute, linearBackOp } from "./linear.js";
import { llmInt8BackOp } from "./llm-int8.js";
import { Op } from "./op.js";

/** `dy · weight[e]` for each row of dy[M,A,N] and its expert e: [M,A,K]; as `linear_back`, without the other experts. */
export const expertLinearBackOp = new Op({
  signature:
    "expert_linear_back: dy[M,A,N]:f32 weight[E,N,K]:f32|f16|bf16@ experts[M,A]:i32 ; compute:i32 -> dx[M,A,K]:f32",
  check: (_, [compute]) => checkCompute("expert_linear_back", compute!, 2),
  reference: ({ dy, weight, experts, dx }, attributes) =>
    eachRow(dy!, experts!, dx!, weight!.shape[0]!, (row, to, e) =>
      linearBackOp.definition.reference({ dy: row, weight: slice(weight, e)!, dx: to }, attributes),
    ),
});

/** The same for codes[E,N,K] (i8) and scb[E,N]; as `llm_int8_back`. */
export const llmInt8ExpertBackOp = new Op({
  signature:
    "llm_int8_expert_back: dy[M,A,N]:f32 codes[E,N,K]:i8@ scb[E,N]:f32 experts[M,A]:i32 ; compute:i32 -> dx[M,A,K]:f32",
  check: (_, [compute]) => checkCompute("llm_int8_expert_back", compute!, 2),
  reference: ({ dy, codes, scb, experts, dx }, attributes) =>
    eachRow(dy!, experts!, dx!, codes!.shape[0]!, (row, to, e) =>
      llmInt8BackOp.definition.reference({ dy: row, codes: slice(codes, e)!, scb: slice(scb, e)!, dx: to }, attributes),
    ),
});

/** The same for 4-bit codes[E,N,K], each expert with blocks of its own; as `four_bit_back`. */
export const fourBitExpertBackOp = new Op({
  signature:
    "four_bit_expert_back: dy[M,A,N]:f32 codes[E,N,K]:u4@ absmax[E,B]:f32|u8|i8 nested[E,C]:f32? map[T]:f32? offset[E]:f32? experts[M,A]:i32 ; kind:i32 blocksize:i32 rounding:i32 compute:i32 -> dx[M,A,K]:f32",
  check(inputs, [kind, blocksize, rounding, compute]) {
    checkStacked(inputs[1]!);
    checkStatistics(inputs, 2, kind!, blocksize!, inputs[1]!.shape[0]!);
    checkCompute("four_bit_expert_back", compute!, 3);
    checkRounding(rounding!, compute);
  },
  reference: (operands, attributes) =>
    eachRow(operands.dy!, operands.experts!, operands.dx!, operands.codes!.shape[0]!, (row, to, e) => {
      const own = statisticsOf(operands, e);
      return fourBitBackOp.definition.reference(
        { dy: row, codes: slice(operands.codes, e)!, ...own, dx: to },
        attributes,
      );
    }),
});

export const expertOuterOp = new Op({
  signature: "expert_outer: dy[M,A,N]:f32 x[M,X,K]:f32 experts[M,A]:i32 ; count:i32 -> dw[E,N,K]:f32",
  shape: ({ N = 0, K = 0 }, { count = 0 }) => [[count, N, K]],
  check: ([, x, experts]) => checkRows(x!, experts!),
  reference({ dy, x, experts, dw }, { count }) {
    const [, N = 0, K = 0] = dw!.shape;
    dw!.data.fill(0);
    return eachRow(x!, experts!, dy!, count!, ({ data: row }, { data: by }, e) => {
      for (let n = 0; n < N; n++) {
        for (let k = 0; k < K; k++) dw!.data[(e * N + n) * K + k]! += by[n]! * row[k]!;
      }
      return undefined;
    });
  },
});

/** The gradient of a stack of `count` matrices, f32[E,N,K]: that of each is the sum of dy xᵀ over the rows that had its expert. */
export function expertOuter(dy: Tensor, x: Tensor, experts: Tensor, count: number): Tensor {
  return expertOuterOp.run([dy, x, experts], [count]);
}

export const routeBackOp = new Op({
  signature: "route_back: logits[M,E]:f32 experts[M,A]:i32 dweights[M,A]:f32 ; normalize:i32 -> dlogits[M,E]:f32",
  reference({ logits, experts, dweights, dlogits }, { normalize }) {
    const [tokens = 0, count = 0] = logits!.shape;
    const each = experts!.shape[1]!;
    dlogits!.data.fill(0);
    for (let m = 0; m < tokens; m++) {
      const scores = logits!.data.subarray(m * count, (m + 1) * count);
      const chosen = experts!.data.subarray(m * each, (m + 1) * each);
      const wrong = chosen.find((e) => e < 0 || e >= count);
      if (wrong !== undefined) return `expert ${wrong} is not one of ${count}`;
      const among = normalize ? [...chosen] : [...scores.keys()];
      const highest = Math.max(...among.map((e) => scores[e]!));
      const shares = among.map((e) => Math.exp(scores[e]! - highest));
      const total = shares.reduce((sum, share) => sum + share, 0);
      const own = dlogits!.data.subarray(m * count, (m + 1) * count);
      let mean = 0;
      chosen.forEach((e, a) => {
        const weight = Math.exp(scores[e]! - highest) / total;
        own[e]! += weight * dweights!.data[m * each + a]!;
        mean += weight * dweights!.data[m * each + a]!;
      });
      among.forEach((e, i) => {
        own[e]! -= (shares[i]! / total) * mean;
      });
    }
    return undefined;
  },
});

/**
 * The gradient of `route` by logits[M,E], given the experts[M,A] that it chose and the gradient of their weights. The choice itself has
 * none: experts that were not chosen have a gradient only where the softmax is over all of them (without `normalize`).
 */
export function routeBack(logits: Tensor, experts: Tensor, dweights: Tensor, normalize: number): Tensor {
  return routeBackOp.run([logits, experts, dweights], [normalize]);
}
