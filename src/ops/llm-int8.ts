// LLM.int8() (Dettmers et al. 2022): row-wise absmax codes for activations and weights, an integer product over all of K,
// and activations at or above the threshold multiplied separately in high precision. Outliers are chosen per row, so a row's
// result never depends on its batch mates. Sources: the paper's section 3, and bitsandbytes for the rounding.

import type { Tensor } from "../core/tensor.js";
import { ACT, activate, activationBack } from "./activation.js";
import { COMPUTE, type Compute, checkCompute, type LinearOptions, productKeeps } from "./linear.js";
import { Op, rowsOf } from "./op.js";
import { sumRows } from "./sum-rows.js";

const fround = Math.fround;

/** Rounds to the nearest integer, halves to even. */
export function roundHalfEven(x: number): number {
  const down = Math.floor(x);
  const rest = x - down;
  if (rest < 0.5) return down;
  if (rest > 0.5) return down + 1;
  return down % 2 === 0 ? down : down + 1;
}

/**
 * Codes and scale of one row: scale = max |x| below the threshold, code = rne(x * fl32(fl32(1/scale) * 127)). A NaN becomes
 * the scale. Where the factor is too large for f32, codes are -127 and 127.
 */
export function quantizeRow(
  row: ArrayLike<number>,
  threshold: number,
  codes: Int8Array,
  outliers?: (k: number, x: number) => void,
): number {
  let scale = 0;
  let broken = false;
  for (let k = 0; k < row.length; k++) {
    const size = Math.abs(row[k]!);
    if (Number.isNaN(size)) broken = true;
    else if (size > scale && (threshold === 0 || size < threshold)) scale = size;
  }
  if (broken) scale = Number.NaN;
  const inverse = scale === 0 ? 0 : fround(fround(1 / scale) * 127);
  for (let k = 0; k < row.length; k++) {
    const x = row[k]!;
    if (threshold > 0 && Math.abs(x) >= threshold) {
      codes[k] = 0;
      outliers?.(k, x);
    } else codes[k] = Math.max(-127, Math.min(127, roundHalfEven(fround(x * inverse))));
  }
  return scale;
}

// `backward` says how the gradient by x may round, as `compute` does; the product itself does not depend on it.
export const llmInt8LinearOp = new Op({
  signature:
    "llm_int8_linear: x[..,K]:f32 codes[N,K]:i8@ scb[N]:f32 bias[N]:f32|f16|bf16? residual[..,N]:f32? seen[K]:u8?!+ ; threshold:f32 act:i32 backward:i32 -> y[..,N]:f32",
  check: (_, [, , backward]) => checkCompute("llm_int8_linear", backward!, 2),
  reference({ x, codes, scb, bias, residual, seen, y }, { threshold, act }) {
    const [outputs = 0, inputs = 0] = codes!.shape;
    const rowCodes = new Int8Array(inputs);
    for (let m = 0; m < rowsOf(x!.shape); m++) {
      const row = x!.data.subarray(m * inputs, (m + 1) * inputs);
      const outliers: [k: number, x: number][] = [];
      const scale = quantizeRow(row, threshold!, rowCodes, (k, value) => {
        outliers.push([k, value]);
        if (seen) seen.data[k] = 1;
      });
      for (let n = 0; n < outputs; n++) {
        let product = 0;
        for (let k = 0; k < inputs; k++) product += rowCodes[k]! * codes!.data[n * inputs + k]!;
        let value = (product * scale * scb!.data[n]!) / 16129;
        for (const [k, outlier] of outliers) value += (outlier * codes!.data[n * inputs + k]! * scb!.data[n]!) / 127;
        if (bias) value += bias.data[n]!;
        y!.data[m * outputs + n] = activate(act!, value) + (residual ? residual.data[m * outputs + n]! : 0);
      }
    }
    return undefined;
  },
  // The rounding of x counts as the identity, as in bitsandbytes; the outliers used the same weights.
  gradient({ inputs: [x, codes, scb, bias], attributes: [threshold = 0, act = 0, backward = 0], dy: [dy], wanted }) {
    const before = (): Tensor => llmInt8LinearOp.run([x, codes, scb, bias], [threshold, ACT.none, backward]);
    const g = act === ACT.none ? dy! : activationBack(before(), dy!, act);
    return [
      wanted[0] ? llmInt8Back(g, { codes: codes!, scb: scb! }, backward) : undefined,
      undefined,
      undefined,
      wanted[3] ? sumRows(g) : undefined,
      dy,
    ];
  },
  keeps: ([x = false], [, act]) => productKeeps(["codes", "scb"])([x], [], act),
});

export const llmInt8BackOp = new Op({
  signature: "llm_int8_back: dy[..,N]:f32 codes[N,K]:i8@ scb[N]:f32 ; compute:i32 -> dx[..,K]:f32",
  check: (_, [compute]) => checkCompute("llm_int8_back", compute!, 2),
  reference({ dy, codes, scb, dx }) {
    const [outputs = 0, inputs = 0] = codes!.shape;
    for (let m = 0; m < rowsOf(dy!.shape); m++) {
      for (let k = 0; k < inputs; k++) {
        let sum = 0;
        for (let n = 0; n < outputs; n++) {
          sum += (dy!.data[m * outputs + n]! * codes!.data[n * inputs + k]! * scb!.data[n]!) / 127;
        }
        dx!.data[m * inputs + k] = sum;
      }
    }
    return undefined;
  },
});

/**
 * `dy · (codes * scb / 127)` for `dy[..,N]`: [..,K], without a dequantized matrix. Sums in f32; products are exact, unless
 * `compute` lets a kernel round both operands to bf16.
 */
export function llmInt8Back(
  dy: Tensor,
  weight: { readonly codes: Tensor; readonly scb: Tensor },
  compute: number = COMPUTE.f32,
): Tensor {
  return llmInt8BackOp.run([dy, weight.codes, weight.scb], [compute]);
}

/**
 * `act(x · (codes * scb / 127)ᵀ + bias) + residual` with x quantized per row to 8 bits except its outliers. `seen[K]` (u8) is
 * set for columns that held an outlier. With `backward` "bf16" the gradient by x may be computed from operands rounded to
 * bf16, as in a bf16 model in Python.
 */
export function llmInt8Linear(
  x: Tensor,
  weight: {
    readonly codes: Tensor;
    readonly scb: Tensor;
    readonly seen?: Tensor;
    readonly threshold: number;
    readonly backward?: Compute;
  },
  options: LinearOptions = {},
): Tensor {
  return llmInt8LinearOp.run(
    [x, weight.codes, weight.scb, options.bias, options.residual, weight.seen],
    [weight.threshold, ACT[options.act ?? "none"], COMPUTE[weight.backward ?? "f32"]],
  );
}

export const llmInt8QuantizeOp = new Op({
  signature: "llm_int8_quantize: w[n,K]:f32|f16|bf16 codes[N,K]:i8@! scb[N]:f32! ; row:i32 ->",
  reference({ w, codes, scb }, { row }) {
    const [rows = 0, inputs = 0] = w!.shape;
    const out = codes!.data as Int8Array;
    if (row! + rows > codes!.shape[0]!) return `rows ${row} + ${rows} do not fit ${codes!.shape[0]}`;
    for (let r = 0; r < rows; r++) {
      const at = (row! + r) * inputs;
      scb!.data[row! + r] = quantizeRow(
        w!.data.subarray(r * inputs, (r + 1) * inputs),
        0,
        out.subarray(at, at + inputs),
      );
    }
    return undefined;
  },
});

/** Quantizes rows `w[n,K]` into rows `row` .. `row + n` of `codes` and `scb`. */
export function llmInt8Quantize(w: Tensor, codes: Tensor, scb: Tensor, row: number): void {
  llmInt8QuantizeOp.run([w, codes, scb], [row]);
}

export const llmInt8DequantizeOp = new Op({
  signature: "llm_int8_dequantize: codes[N,K]:i8@ scb[N]:f32 -> w[N,K]:f32",
  reference({ codes, scb, w }) {
    const [outputs = 0, inputs = 0] = codes!.shape;
    const unit = fround(1 / 127);
    for (let n = 0; n < outputs; n++) {
      for (let k = 0; k < inputs; k++) {
        w!.data[n * inputs + k] = fround(fround(codes!.data[n * inputs + k]! * scb!.data[n]!) * unit);
      }
    }
    return undefined;
  },
});

/** `codes * scb / 127` in f32. */
export function llmInt8Dequantize(codes: Tensor, scb: Tensor): Tensor {
  return llmInt8DequantizeOp.run([codes, scb], []);
}

export const llmInt8EmbeddingOp = new Op({
  signature: "llm_int8_embedding: codes[V,K]:i8@ scb[V]:f32 ids[..]:i32 -> y[..,K]:f32",
  reference({ codes, scb, ids, y }) {
    const [vocabulary = 0, columns = 0] = codes!.shape;
    const unit = fround(1 / 127);
    for (let i = 0; i < ids!.data.length; i++) {
      const id = ids!.data[i]!;
      if (id < 0 || id >= vocabulary) return `token id ${id} is outside the vocabulary of ${vocabulary}`;
      for (let k = 0; k < columns; k++) {
        y!.data[i * columns + k] = fround(fround(codes!.data[id * columns + k]! * scb!.data[id]!) * unit);
      }
    }
    return undefined;
  },
});

/** Rows `ids` of `codes * scb / 127`, in f32. An id outside the table rejects reads of the result. */
export function llmInt8Embedding(codes: Tensor, scb: Tensor, ids: Tensor): Tensor {
  return llmInt8EmbeddingOp.run([codes, scb, ids], []);
}
