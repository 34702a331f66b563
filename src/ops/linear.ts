// linear: y = act(x Wᵀ + bias) + residual, for float weights. Accumulates in f32 or better.

import { OptionError } from "../core/errors.js";
import type { Tensor } from "../core/tensor.js";
import { ACT, type Act, activate, activationBack } from "./activation.js";
import { contiguous } from "./copy.js";
import { Op, rowsOf } from "./op.js";
import { sumRows } from "./sum-rows.js";

/**
 * Codes of the `compute` attribute: exact f32 products; operands rounded to bf16 where that is faster; 4-bit weights and
 * activations in 8-bit codes (see four-bit.ts).
 */
export const COMPUTE = { f32: 0, bf16: 1, int8: 2 } as const;
/** Compute types of a dense product. */
export type Compute = "f32" | "bf16";

/** @throws OptionError for a code beyond the first `count` of COMPUTE */
export function checkCompute(op: string, code: number, count: number): void {
  if (Number.isInteger(code) && code >= 0 && code < count) return;
  const known = Object.keys(COMPUTE).slice(0, count).join(", ");
  throw new OptionError(`${op}: the attribute compute stands for one of ${known}, not ${code}`);
}

export const linearOp = new Op({
  signature:
    "linear: x[..,K]:f32 weight[N,K]:f32|f16|bf16@ bias[N]:f32|f16|bf16? residual[..,N]:f32? ; act:i32 compute:i32 -> y[..,N]:f32",
  check: (_, [, compute]) => checkCompute("linear", compute!, 2),
  reference({ x, weight, bias, residual, y }, { act }) {
    const [outputs = 0, inputs = 0] = weight!.shape;
    const [a, b] = [x!.data, weight!.data];
    for (let m = 0; m < rowsOf(x!.shape); m++) {
      for (let n = 0; n < outputs; n++) {
        let sum = bias ? bias.data[n]! : 0;
        for (let k = 0; k < inputs; k++) sum += a[m * inputs + k]! * b[n * inputs + k]!;
        y!.data[m * outputs + n] = activate(act!, sum) + (residual ? residual.data[m * outputs + n]! : 0);
      }
    }
    return undefined;
  },
  gradient({ inputs: [x, weight, bias], attributes: [act = 0, compute = 0], dy: [dy], wanted }) {
    const before = (): Tensor => linearOp.run([x, weight, bias], [ACT.none, compute]);
    const g = act === ACT.none ? dy! : activationBack(before(), dy!, act);
    return [
      wanted[0] ? linearBack(g, weight!, compute) : undefined,
      wanted[1] ? outerProduct(g, x!) : undefined,
      wanted[2] ? sumRows(g) : undefined,
      dy,
    ];
  },
  keeps: productKeeps(["weight"]),
});

/**
 * Operands kept for the gradients of matrix products: `matrix` for the gradient of x, x for that of the weight, and all of
 * them for an activation, whose input is recomputed.
 */
export function productKeeps(matrix: readonly string[]) {
  return (wanted: readonly boolean[], attributes: readonly number[], act = attributes[0]): readonly string[] => {
    if (act !== ACT.none) return ["x", "bias", ...matrix];
    return [...(wanted[0] ? matrix : []), ...(wanted[1] ? ["x"] : [])];
  };
}

/** gᵀ x for `g[..,N]`, `x[..,K]`: [N,K], the sum over rows. */
export function outerProduct(g: Tensor, x: Tensor): Tensor {
  const rows = rowsOf(x.shape);
  return linearBack(contiguous(g.view(rows, g.shape.at(-1)!).permute(1, 0)), x.view(rows, x.shape.at(-1)!));
}

export const linearBackOp = new Op({
  signature: "linear_back: dy[..,N]:f32 weight[N,K]:f32|f16|bf16@ ; compute:i32 -> dx[..,K]:f32",
  check: (_, [compute]) => checkCompute("linear_back", compute!, 2),
  reference({ dy, weight, dx }) {
    const [outputs = 0, inputs = 0] = weight!.shape;
    for (let m = 0; m < rowsOf(dy!.shape); m++) {
      for (let k = 0; k < inputs; k++) {
        let sum = 0;
        for (let n = 0; n < outputs; n++) sum += dy!.data[m * outputs + n]! * weight!.data[n * inputs + k]!;
        dx!.data[m * inputs + k] = sum;
      }
    }
    return undefined;
  },
  gradient({ inputs: [dy, weight], dy: [ddx], wanted }) {
    return [wanted[0] ? linear(ddx!, weight!) : undefined, wanted[1] ? outerProduct(dy!, ddx!) : undefined];
  },
  keeps: (wanted) => [...(wanted[0] ? ["weight"] : []), ...(wanted[1] ? ["dy"] : [])],
});

/**
 * `dy · weight` for `dy[..,N]`, `weight[N,K]`: [..,K]; the gradient of `x · weightᵀ` by x. Sums in f32; products are exact,
 * unless `compute` lets a kernel round dy to bf16 before it multiplies with a bf16 weight.
 */
export function linearBack(dy: Tensor, weight: Tensor, compute: number = COMPUTE.f32): Tensor {
  return linearBackOp.run([dy, weight], [compute]);
}

/** Fused epilogue of every matrix product. */
export interface LinearOptions {
  bias?: Tensor;
  /** Added after the activation; same shape as the result. */
  residual?: Tensor;
  act?: Act;
  /** i32[..,A]: which matrices of a stack each token is multiplied with (see experts.ts); no residual then. */
  experts?: Tensor;
}

/**
 * `act(x · weightᵀ + bias) + residual` for `x[..,K]`, `weight[N,K]`: [..,N]. With `compute` "bf16" a kernel may round x to
 * bf16 before it multiplies with a bf16 weight, as a bf16 model does in Python; sums stay f32.
 */
export function linear(x: Tensor, weight: Tensor, options: LinearOptions = {}, compute: Compute = "f32"): Tensor {
  return linearOp.run([x, weight, options.bias, options.residual], [ACT[options.act ?? "none"], COMPUTE[compute]]);
}
