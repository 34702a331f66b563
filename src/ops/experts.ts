// Mixture of experts: routing of tokens to experts, products with the chosen matrices, and the weighted sum of the results
// (Shazeer et al. 2017; Jiang et al. 2024, "Mixtral of Experts"). The matrices of all experts are one stack [E,N,K]. The
// choice is data on the device, so shapes never depend on it.

import { ShapeError } from "../core/errors.js";
import { scope, Tensor } from "../core/tensor.js";
import { checkRows, checkStacked, eachRow, slice, statisticsOf } from "./_experts.js";
import { ACT, activationBack } from "./activation.js";
import { embeddingBack } from "./embedding.js";
import {
  expertLinearBackOp,
  expertOuter,
  fourBitExpertBackOp,
  llmInt8ExpertBackOp,
  routeBack,
} from "./experts-back.js";
import { filled } from "./fill.js";
import { checkRounding, checkStatistics, type FourBitOperands, fourBitLinearOp, fourBitProduct } from "./four-bit.js";
import { multiply } from "./gated.js";
import { COMPUTE, type Compute, checkCompute, type LinearOptions, linear, linearOp, productKeeps } from "./linear.js";
import { llmInt8LinearOp } from "./llm-int8.js";
import { Op } from "./op.js";

/** The gradient of rows that `each` experts of a token share, or have for themselves, of that of each product, dx[M,A,K]. */
function ofRows(x: Tensor, dx: Tensor): Tensor {
  const [tokens = 0, each = 0] = dx.shape;
  if (x.shape[1] === each) return dx;
  return mix(dx, filled(dx.device, [tokens, each], 1)).view(...x.shape);
}

/** The gradient of the experts' biases, f32[E,N]: each the sum of the rows of dy[M,A,N] that had its expert. */
function ofBias(experts: Tensor, dy: Tensor, bias: Tensor): Tensor {
  return embeddingBack(experts, dy, bias.shape[0]!);
}

export const expertLinearOp = new Op({
  signature:
    "expert_linear: x[M,X,K]:f32 weight[E,N,K]:f32|f16|bf16@ experts[M,A]:i32 bias[E,N]:f32|f16|bf16? ; act:i32 compute:i32 -> y[M,A,N]:f32",
  check(inputs, [, compute]) {
    checkRows(inputs[0]!, inputs[2]!);
    checkCompute("expert_linear", compute!, 2);
  },
  reference: (operands, attributes) =>
    eachRow(operands.x!, operands.experts!, operands.y!, operands.weight!.shape[0]!, (x, y, e) => {
      const { weight, bias } = operands;
      const one = { x, weight: slice(weight, e)!, ...(bias ? { bias: slice(bias, e)! } : {}), y };
      return linearOp.definition.reference(one, attributes);
    }),
  gradient({ inputs: [x, weight, experts, bias], attributes: [act = 0, compute = 0], dy: [dy], wanted }) {
    const before = (): Tensor => expertLinearOp.run([x, weight, experts, bias], [ACT.none, compute]);
    const g = act === ACT.none ? dy! : activationBack(before(), dy!, act);
    return [
      wanted[0] ? ofRows(x!, expertLinearBackOp.run([g, weight, experts], [compute])) : undefined,
      wanted[1] ? expertOuter(g, x!, experts!, weight!.shape[0]!) : undefined,
      undefined,
      wanted[3] ? ofBias(experts!, g, bias!) : undefined,
    ];
  },
  keeps: (wanted, attributes) => [...productKeeps(["weight"])(wanted, attributes), "experts"],
});

export const llmInt8ExpertLinearOp = new Op({
  signature:
    "llm_int8_expert_linear: x[M,X,K]:f32 codes[E,N,K]:i8@ scb[E,N]:f32 experts[M,A]:i32 bias[E,N]:f32|f16|bf16? seen[K]:u8?!+ ; threshold:f32 act:i32 backward:i32 -> y[M,A,N]:f32",
  check(inputs, [, , backward]) {
    checkRows(inputs[0]!, inputs[3]!);
    checkCompute("llm_int8_expert_linear", backward!, 2);
  },
  reference: (operands, attributes) =>
    eachRow(operands.x!, operands.experts!, operands.y!, operands.codes!.shape[0]!, (x, y, e) => {
      const { codes, scb, bias, seen } = operands;
      const own = { ...(bias ? { bias: slice(bias, e)! } : {}), ...(seen ? { seen } : {}) };
      return llmInt8LinearOp.definition.reference(
        { x, codes: slice(codes, e)!, scb: slice(scb, e)!, ...own, y },
        attributes,
      );
    }),
  // As without experts: the rounding of x counts as the identity.
  gradient({ inputs: [x, codes, scb, experts, bias], attributes, dy: [dy], wanted }) {
    const [threshold = 0, act = 0, backward = 0] = attributes;
    const before = (): Tensor =>
      llmInt8ExpertLinearOp.run([x, codes, scb, experts, bias], [threshold, ACT.none, backward]);
    const g = act === ACT.none ? dy! : activationBack(before(), dy!, act);
    return [
      wanted[0] ? ofRows(x!, llmInt8ExpertBackOp.run([g, codes, scb, experts], [backward])) : undefined,
      undefined,
      undefined,
      undefined,
      wanted[4] ? ofBias(experts!, g, bias!) : undefined,
    ];
  },
  keeps: ([x = false], [, act]) => [...productKeeps(["codes", "scb"])([x], [], act), "experts"],
});

export const fourBitExpertLinearOp = new Op({
  signature:
    "four_bit_expert_linear: x[M,X,K]:f32 codes[E,N,K]:u4@ absmax[E,B]:f32|u8|i8 nested[E,C]:f32? map[T]:f32? offset[E]:f32? experts[M,A]:i32 bias[E,N]:f32|f16|bf16? ; kind:i32 blocksize:i32 act:i32 compute:i32 rounding:i32 -> y[M,A,N]:f32",
  check(inputs, [kind, blocksize, , compute, rounding]) {
    checkRows(inputs[0]!, inputs[6]!);
    checkStacked(inputs[1]!);
    checkStatistics(inputs, 2, kind!, blocksize!, inputs[1]!.shape[0]!);
    checkCompute("four_bit_expert_linear", compute!, 3);
    checkRounding(rounding!, compute);
  },
  reference: (operands, attributes) =>
    eachRow(operands.x!, operands.experts!, operands.y!, operands.codes!.shape[0]!, (x, y, e) => {
      const { codes, bias } = operands;
      const own = { ...statisticsOf(operands, e), ...(bias ? { bias: slice(bias, e)! } : {}) };
      return fourBitLinearOp.definition.reference({ x, codes: slice(codes, e)!, ...own, y }, attributes);
    }),
  // The weights as decoded, whatever the forward computed in.
  gradient({ inputs, attributes: [kind = 0, blocksize = 0, act = 0, compute = 0, rounding = 0], dy: [dy], wanted }) {
    const [x, , , , , , experts, bias] = inputs;
    const stack = inputs.slice(1, 6);
    const before = (): Tensor => fourBitExpertLinearOp.run(inputs, [kind, blocksize, ACT.none, compute, rounding]);
    const g = act === ACT.none ? dy! : activationBack(before(), dy!, act);
    const back = (): Tensor => fourBitExpertBackOp.run([g, ...stack, experts], [kind, blocksize, rounding, compute]);
    return [
      wanted[0] ? ofRows(x!, back()) : undefined,
      ...stack.map(() => undefined),
      undefined,
      wanted[7] ? ofBias(experts!, g, bias!) : undefined,
    ];
  },
  keeps: ([x = false], [, , act]) => [
    ...productKeeps(["codes", "absmax", "nested", "map", "offset"])([x], [], act),
    "experts",
  ],
});

/** Fused epilogue of products with chosen matrices. */
type ExpertOptions = Pick<LinearOptions, "bias" | "act"> & { readonly experts: Tensor };

/**
 * Calls `run` with x as [M,X,K] and experts as [M,A], and gives its y[M,A,N] the leading dims of `experts`.
 * @throws ShapeError unless x is [..,K] or [..,A,K] for experts[..,A]
 */
function flattened(x: Tensor, experts: Tensor, run: (x: Tensor, experts: Tensor) => Tensor): Tensor {
  const lead = experts.shape.slice(0, -1);
  const each = experts.shape.at(-1);
  const one = x.shape.length === experts.shape.length;
  const expected = one ? lead : experts.shape;
  const rows = x.shape.slice(0, -1);
  if (each === undefined || rows.length !== expected.length || rows.some((size, d) => size !== expected[d])) {
    throw new ShapeError(
      `experts [${experts.shape.join(", ")}] want x [${lead.join(", ")}, K] or [${experts.shape.join(", ")}, K], got [${x.shape.join(", ")}]`,
    );
  }
  const tokens = lead.reduce((n, size) => n * size, 1);
  return scope(() => {
    const y = run(x.view(tokens, one ? 1 : each, x.shape.at(-1)!), experts.view(tokens, each));
    return y.view(...experts.shape, y.shape[2]!);
  });
}

/** `act(x · weight[e]ᵀ + bias[e])` for each expert e of a token: x[..,K] or [..,A,K], weight[E,N,K], experts[..,A] -> [..,A,N]. */
export function expertLinear(x: Tensor, weight: Tensor, options: ExpertOptions, compute: Compute = "f32"): Tensor {
  const attributes = [ACT[options.act ?? "none"], COMPUTE[compute]];
  return flattened(x, options.experts, (rows, experts) =>
    expertLinearOp.run([rows, weight, experts, options.bias], attributes),
  );
}

/** The same with codes[E,N,K] (i8) and scb[E,N]: each row equals `llmInt8Linear` with its expert's matrix. */
export function llmInt8ExpertLinear(
  x: Tensor,
  weight: {
    readonly codes: Tensor;
    readonly scb: Tensor;
    readonly seen?: Tensor;
    readonly threshold: number;
    readonly backward?: Compute;
  },
  options: ExpertOptions,
): Tensor {
  const { codes, scb, seen, threshold, backward = "f32" } = weight;
  const attributes = [threshold, ACT[options.act ?? "none"], COMPUTE[backward]];
  return flattened(x, options.experts, (rows, experts) =>
    llmInt8ExpertLinearOp.run([rows, codes, scb, experts, options.bias, seen], attributes),
  );
}

/** The same with 4-bit codes[E,N,K]; each expert starts new blocks, and new blocks of blocks: absmax[E,B]. */
export function fourBitExpertLinear(x: Tensor, w: FourBitOperands, options: ExpertOptions): Tensor {
  const attributes = fourBitProduct(w, options.act);
  return flattened(x, options.experts, (rows, experts) =>
    fourBitExpertLinearOp.run([rows, w.codes, w.absmax, w.nested, w.map, w.offset, experts, options.bias], attributes),
  );
}

export const routeOp = new Op({
  signature: "route: logits[M,E]:f32 experts[M,A]:i32!! weights[M,A]:f32!! ; normalize:i32 ->",
  check([logits, experts]) {
    const [, count = 0] = logits!.shape;
    const each = experts!.shape[1]!;
    if (each < 1 || each > count) throw new ShapeError(`route: ${each} experts cannot be chosen from ${count}`);
  },
  reference({ logits, experts, weights }, { normalize }) {
    const [tokens = 0, count = 0] = logits!.shape;
    const each = experts!.shape[1]!;
    for (let m = 0; m < tokens; m++) {
      const scores = logits!.data.subarray(m * count, (m + 1) * count);
      if (scores.some(Number.isNaN)) return "logits hold NaN";
      const order = [...scores.keys()].sort((a, b) => scores[b]! - scores[a]! || a - b).slice(0, each);
      const highest = scores[order[0]!]!;
      const among = normalize ? order : scores.keys();
      let total = 0;
      for (const e of among) total += Math.exp(scores[e]! - highest);
      order.forEach((e, a) => {
        experts!.data[m * each + a] = e;
        weights!.data[m * each + a] = Math.exp(scores[e]! - highest) / total;
      });
    }
    return undefined;
  },
  gradient({ inputs: [logits, experts], attributes: [normalize = 0], dy: [, dweights], wanted }) {
    return [wanted[0] ? routeBack(logits!, experts!, dweights!, normalize) : undefined, undefined, undefined];
  },
  keeps: () => ["logits", "experts"],
});

/**
 * Chooses experts for tokens: softmax over logits[..,E], the `count` largest in descending order (ties: the lowest index
 * first), and with `normalize` their probabilities divided by their sum. Gives experts (i32) and weights (f32), both
 * [..,count].
 * @throws ShapeError if there are fewer than `count` experts
 */
export function route(logits: Tensor, count: number, normalize: boolean): { experts: Tensor; weights: Tensor } {
  return scope(() => {
    const shape = [...logits.shape.slice(0, -1), count];
    const experts = Tensor.empty(logits.device, shape, "i32", "experts");
    const weights = Tensor.empty(logits.device, shape, "f32", "expert weights");
    const flat = [logits.view(-1, logits.shape.at(-1)!), experts.view(-1, count), weights.view(-1, count)];
    routeOp.run(flat, [normalize ? 1 : 0]);
    return { experts, weights };
  });
}

export const mixOp = new Op({
  signature: "mix: x[..,A,N]:f32 weights[..,A]:f32 residual[..,N]:f32? -> y[..,N]:f32",
  reference({ x, weights, residual, y }) {
    const [each = 0, outputs = 0] = x!.shape.slice(-2);
    for (let i = 0; i < y!.data.length; i++) {
      const token = Math.floor(i / outputs);
      let sum = 0;
      for (let a = 0; a < each; a++) {
        sum += weights!.data[token * each + a]! * x!.data[(token * each + a) * outputs + (i % outputs)]!;
      }
      y!.data[i] = sum + (residual ? residual.data[i]! : 0);
    }
    return undefined;
  },
  gradient({ inputs: [x, weights], dy: [dy], wanted }) {
    const lead = weights!.shape.slice(0, -1);
    const repeated = dy!.view(...lead, 1, x!.shape.at(-1)!).expand(...x!.shape);
    return [
      wanted[0] ? multiply(weights!.view(...weights!.shape, 1).expand(...x!.shape), repeated) : undefined,
      wanted[1] ? sumsOfRows(multiply(x!, repeated)) : undefined,
      dy,
    ];
  },
  keeps: (wanted) => [...(wanted[0] ? ["weights"] : []), ...(wanted[1] ? ["x"] : [])],
});

/** The sum of each row of x[..,N]: [..]. */
function sumsOfRows(x: Tensor): Tensor {
  const ones = filled(x.device, [1, x.shape.at(-1)!], 1);
  return linear(x, ones).view(...x.shape.slice(0, -1));
}

/** The weighted sum of x[..,A,N] over A, plus `residual[..,N]`: [..,N]. */
export function mix(x: Tensor, weights: Tensor, residual?: Tensor): Tensor {
  return mixOp.run([x, weights, residual], []);
}
