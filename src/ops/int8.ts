// LLM.int8() in its parts, for those who look at codes: rows to codes with the columns that hold outliers taken out, and the
// product of codes in whole numbers. Models use the fused product of llm-int8.ts, whose outliers are chosen row by row.

import { ShapeError } from "../core/errors.js";
import type { Tensor } from "../core/tensor.js";
import { quantizeRow } from "./llm-int8.js";
import { Op, rowsOf } from "./op.js";

export const int8QuantizeOp = new Op({
  signature: "int8_quantize: x[M,K]:f32|f16|bf16 ; threshold:f32 -> codes[M,K]:i8 absmax[M]:f32 outliers[K]:u8",
  reference({ x, codes, absmax, outliers }, { threshold }) {
    const [rows = 0, columns = 0] = x!.shape;
    const out = codes!.data as Int8Array;
    outliers!.data.fill(0);
    for (let m = 0; m < rows; m++) {
      const row = x!.data.subarray(m * columns, (m + 1) * columns);
      const into = out.subarray(m * columns, (m + 1) * columns);
      absmax!.data[m] = quantizeRow(row, threshold!, into, (k) => {
        outliers!.data[k] = 1;
      });
    }
    for (let i = 0; i < out.length; i++) if (outliers!.data[i % columns] !== 0) out[i] = 0;
    return undefined;
  },
});

/**
 * Codes i8[M,K] and absmax f32[M] of the rows of `x[M,K]`, by the rule of `quantizeRow`. With a threshold above 0, columns that
 * hold an element of at least that magnitude in any row are marked in `outliers` (u8[K]) and have codes of zero in all rows.
 */
export function int8Quantize(x: Tensor, threshold: number): { codes: Tensor; absmax: Tensor; outliers: Tensor } {
  const [codes, absmax, outliers] = int8QuantizeOp.runAll([x], [threshold]);
  return { codes: codes!, absmax: absmax!, outliers: outliers! };
}

/** Longest sum of products of two 8-bit codes that is sure to fit in 32 bits. */
const LONGEST = 131_071;

export const int8MatmulOp = new Op({
  signature: "int8_matmul: a[..,K]:i8 b[N,K]:i8 -> y[..,N]:i32",
  check([, b]) {
    const columns = b!.shape[1]!;
    if (columns <= LONGEST) return;
    throw new ShapeError(`int8_matmul: sums of ${columns} products may not fit in 32 bits; at most ${LONGEST} do`);
  },
  reference({ a, b, y }) {
    const [outputs = 0, inputs = 0] = b!.shape;
    for (let m = 0; m < rowsOf(a!.shape); m++) {
      for (let n = 0; n < outputs; n++) {
        let sum = 0;
        for (let k = 0; k < inputs; k++) sum += a!.data[m * inputs + k]! * b!.data[n * inputs + k]!;
        y!.data[m * outputs + n] = sum;
      }
    }
    return undefined;
  },
});

/** `a · bᵀ` for codes `a[..,K]` and `b[N,K]`, exact: i32[..,N]. */
export function int8Matmul(a: Tensor, b: Tensor): Tensor {
  return int8MatmulOp.run([a, b], []);
}
