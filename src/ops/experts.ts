// Mixture of experts: routing of tokens to experts, products with the chosen matrices, and the weighted sum of the results
// (Shazeer et al. 2017; Jiang et al. 2024, "Mixtral of Experts"). The matrices of all experts are one stack [E,N,K]. The
// choice is data on the device, so shapes never depend on it.

import { ShapeError } from "../core/errors.js";
import { scope, Tensor } from "../core/tensor.js";
import { ACT } from "./activation.js";
import { checkRounding, checkStatistics, type FourBitOperands, fourBitLinearOp, fourBitProduct } from "./four-bit.js";
import { COMPUTE, type Compute, checkCompute, type LinearOptions, linearOp } from "./linear.js";
import { llmInt8LinearOp } from "./llm-int8.js";
import { type HostTensor, Op, type ReferenceOperands } from "./op.js";

/** Elements `at` to `at + shape` of an operand, as an operand of its own. */
function part(whole: HostTensor, at: number, shape: readonly number[]): HostTensor {
  const count = shape.reduce((n, size) => n * size, 1);
  const [begin, end] = whole.dtype === "u4" ? [at / 2, (at + count) / 2] : [at, at + count];
  return { shape, dtype: whole.dtype, data: whole.data.subarray(begin, end) };
}

/** Slice `index` of the first dim of an operand. */
function slice(whole: HostTensor | undefined, index: number): HostTensor | undefined {
  if (!whole) return undefined;
  const shape = whole.shape.slice(1);
  return part(whole, index * shape.reduce((n, size) => n * size, 1), shape);
}

/** Runs `product` for every row of y, with its row of x and the number of its expert. */
function eachRow(
  { x, experts, y }: ReferenceOperands,
  count: number,
  product: (x: HostTensor, y: HostTensor, expert: number) => string | undefined,
): string | undefined {
  const [tokens = 0, shared = 1, inputs = 0] = x!.shape;
  const each = experts!.shape[1]!;
  const outputs = y!.shape[2]!;
  for (let row = 0; row < tokens * each; row++) {
    const expert = experts!.data[row]!;
    if (expert < 0 || expert >= count) return `expert ${expert} is not one of ${count}`;
    const from = shared === 1 ? Math.floor(row / each) : row;
    const problem = product(part(x!, from * inputs, [1, inputs]), part(y!, row * outputs, [1, outputs]), expert);
    if (problem) return problem;
  }
  return undefined;
}

/** @throws ShapeError unless a token has one row of x, or one for each of its experts */
function checkRows([x]: readonly (Tensor | undefined)[], experts: Tensor): void {
  const [, rows = 0] = x!.shape;
  const each = experts.shape[1]!;
  if (rows !== 1 && rows !== each) {
    throw new ShapeError(`a token of ${each} experts has 1 or ${each} rows of x, not ${rows}`);
  }
}

export const expertLinearOp = new Op({
  signature:
    "expert_linear: x[M,X,K]:f32 weight[E,N,K]:f32|f16|bf16@ experts[M,A]:i32 bias[E,N]:f32|f16|bf16? ; act:i32 compute:i32 -> y[M,A,N]:f32",
  check(inputs, [, compute]) {
    checkRows(inputs, inputs[2]!);
    checkCompute("expert_linear", compute!, 2);
  },
  reference: (operands, attributes) =>
    eachRow(operands, operands.weight!.shape[0]!, (x, y, e) => {
      const { weight, bias } = operands;
      const one = { x, weight: slice(weight, e)!, ...(bias ? { bias: slice(bias, e)! } : {}), y };
      return linearOp.definition.reference(one, attributes);
    }),
});

export const llmInt8ExpertLinearOp = new Op({
  signature:
    "llm_int8_expert_linear: x[M,X,K]:f32 codes[E,N,K]:i8@ scb[E,N]:f32 experts[M,A]:i32 bias[E,N]:f32|f16|bf16? seen[K]:u8?!+ ; threshold:f32 act:i32 -> y[M,A,N]:f32",
  check: (inputs) => checkRows(inputs, inputs[3]!),
  reference: (operands, attributes) =>
    eachRow(operands, operands.codes!.shape[0]!, (x, y, e) => {
      const { codes, scb, bias, seen } = operands;
      const own = { ...(bias ? { bias: slice(bias, e)! } : {}), ...(seen ? { seen } : {}) };
      return llmInt8LinearOp.definition.reference(
        { x, codes: slice(codes, e)!, scb: slice(scb, e)!, ...own, y },
        attributes,
      );
    }),
});

/** @throws ShapeError unless every expert starts on a byte */
function checkStacked(codes: Tensor): void {
  const [, outputs = 0, columns = 0] = codes.shape;
  if ((outputs * columns) % 2 === 0) return;
  throw new ShapeError(`experts of 4-bit codes need an even number of elements, not ${outputs} x ${columns}`);
}

export const fourBitExpertLinearOp = new Op({
  signature:
    "four_bit_expert_linear: x[M,X,K]:f32 codes[E,N,K]:u4@ absmax[E,B]:f32|u8|i8 nested[E,C]:f32? map[T]:f32? offset[E]:f32? experts[M,A]:i32 bias[E,N]:f32|f16|bf16? ; kind:i32 blocksize:i32 act:i32 compute:i32 rounding:i32 -> y[M,A,N]:f32",
  check(inputs, [kind, blocksize, , compute, rounding]) {
    checkRows(inputs, inputs[6]!);
    checkStacked(inputs[1]!);
    checkStatistics(inputs, 2, kind!, blocksize!, inputs[1]!.shape[0]!);
    checkCompute("four_bit_expert_linear", compute!, 3);
    checkRounding(rounding!, compute);
  },
  reference: (operands, attributes) =>
    eachRow(operands, operands.codes!.shape[0]!, (x, y, e) => {
      const { codes, absmax, nested, map, offset, bias } = operands;
      const twice: Record<string, HostTensor> = nested
        ? { nested: slice(nested, e)!, map: map!, ...(offset ? { offset: part(offset, e, [1]) } : {}) }
        : {};
      const own = { absmax: slice(absmax, e)!, ...twice, ...(bias ? { bias: slice(bias, e)! } : {}) };
      return fourBitLinearOp.definition.reference({ x, codes: slice(codes, e)!, ...own, y }, attributes);
    }),
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
  weight: { readonly codes: Tensor; readonly scb: Tensor; readonly seen?: Tensor; readonly threshold: number },
  options: ExpertOptions,
): Tensor {
  const { codes, scb, seen, threshold } = weight;
  return flattened(x, options.experts, (rows, experts) =>
    llmInt8ExpertLinearOp.run([rows, codes, scb, experts, options.bias, seen], [threshold, ACT[options.act ?? "none"]]),
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
});

/** The weighted sum of x[..,A,N] over A, plus `residual[..,N]`: [..,N]. */
export function mix(x: Tensor, weights: Tensor, residual?: Tensor): Tensor {
  return mixOp.run([x, weights, residual], []);
}
