// O4, Octavo's own 4-bit form: blocks of 32 elements, whose codes mean the 16 values of a table that is found for each matrix, times
// the scale of the block, which has a sign. So the table needs no symmetry: the end that reaches 1 serves whichever sign the
// largest element of a block has. Scales are chosen by the error of their blocks, the table by Lloyd's method ("Least squares quantization
// in PCM", 1982) on some rows of the matrix: each value becomes the one that is best for the elements that now have its code; but zero
// stays zero, because small elements of a column can matter more than their size tells, where activations are large. Values are whole
// multiples of 1/127, so products in 8-bit codes have them exactly. The codes are multiplied and decoded by four-bit.ts.

import type { Device } from "../core/device.js";
import { ShapeError } from "../core/errors.js";
import { scope, Tensor } from "../core/tensor.js";
import { codeAt, setCode } from "./four-bit.js";
import { type HostTensor, Op } from "./op.js";

const { fround } = Math;

/** Elements under one scale. */
export const O4_BLOCK = 32 as const;

/** One step of a table's values, in f32. */
export const O4_UNIT: number = fround(1 / 127);

/** The table that the search begins with, in steps: about the best for normally distributed elements. */
export const O4_FIRST_LEVELS: readonly number[] = [
  -110, -85, -66, -52, -38, -25, -13, 0, 10, 22, 35, 49, 64, 80, 101, 127,
];

/** The scales that are tried, as multiples of the absmax of a block; then the same below zero. */
const SIZES_TRIED = [0.88, 0.96, 1.03, 1.1];
export const O4_SCALES_TRIED: Float32Array = Float32Array.from([...SIZES_TRIED, ...SIZES_TRIED.map((size) => -size)]);

/** A block with an absmax below the first is zero; one with an absmax above the second holds no numbers. */
export const O4_RANGE = [1e-30, 1e30] as const;
/** Blocks with larger scales do not count for the table: their squares are too large. */
export const O4_LARGEST_COUNTED = 1e15;

/** The number of middles between neighbours in an ascending table that lie below a value. */
function nearest(value: number, middles: Float32Array): number {
  let code = 0;
  for (const middle of middles) if (value > middle) code++;
  return code;
}

function middlesOf(table: HostTensor["data"]): Float32Array {
  return Float32Array.from({ length: 15 }, (_, i) => fround(fround(table[i]! + table[i + 1]!) * 0.5));
}

/** The largest magnitude; NaN if there is one. */
function absmaxOf(block: Float32Array): number {
  return block.reduce((largest, x) => Math.max(largest, Math.abs(x)), 0);
}

/** Of the scales that are tried that with the least squared error. */
function searched(block: Float32Array, absmax: number, table: HostTensor["data"], middles: Float32Array): number {
  let [best, least] = [absmax, Number.POSITIVE_INFINITY];
  for (const factor of O4_SCALES_TRIED) {
    const scale = fround(absmax * factor);
    const inverse = fround(1 / scale);
    let error = 0;
    for (const x of block) {
      const value = fround(x * inverse);
      error += (value - table[nearest(value, middles)]!) ** 2;
    }
    error *= factor * factor;
    if (error < least) [best, least] = [scale, error];
  }
  return best;
}

export const o4QuantizeOp = new Op({
  signature: "o4_quantize: w[n,K]:f32|f16|bf16 table[16]:f32 codes[N,K]:u4! scales[A]:f32! ; row:i32 ->",
  check([, , codes, scales]) {
    const blocks = Math.ceil(codes!.size / O4_BLOCK);
    if (scales!.size < blocks) throw new ShapeError(`o4_quantize: scales want [${blocks}], got [${scales!.size}]`);
  },
  reference({ w, table, codes, scales }, { row }) {
    const inputs = w!.shape[1]!;
    const count = w!.data.length;
    const start = row! * inputs;
    if (start % O4_BLOCK !== 0) return `row ${row} of ${inputs} columns does not begin a block of ${O4_BLOCK}`;
    if (row! + w!.shape[0]! > codes!.shape[0]!) return `rows ${row} + ${w!.shape[0]} do not fit ${codes!.shape[0]}`;
    const middles = middlesOf(table!.data);
    for (let at = 0; at < count; at += O4_BLOCK) {
      const block = w!.data.subarray(at, Math.min(at + O4_BLOCK, count)) as Float32Array;
      const absmax = absmaxOf(block);
      const usable = absmax > O4_RANGE[0] && absmax < O4_RANGE[1];
      const inverse = usable ? fround(1 / searched(block, absmax, table!.data, middles)) : 0;
      let [products, squares] = [0, 0];
      for (const [i, x] of block.entries()) {
        const code = usable ? nearest(fround(x * inverse), middles) : 0;
        setCode(codes!.data, start + at + i, code);
        products += x * table!.data[code]!;
        squares += table!.data[code]! ** 2;
      }
      // With these codes no scale is better than this one.
      const best = squares > 0 ? products / squares : 0;
      scales!.data[(start + at) / O4_BLOCK] = usable ? best : absmax <= O4_RANGE[0] ? 0 : Number.NaN;
    }
    const end = start + count;
    if (end % 2 === 1 && end === codes!.shape[0]! * inputs) setCode(codes!.data, end, 0); // half a byte more
    return undefined;
  },
});

/**
 * Quantizes rows `w[n,K]` with a table[16] of ascending values into rows `row` .. `row + n` of `codes` and their blocks of `scales`.
 * Blocks without an element above 1e-30 are zero; the scale of one with an element of 1e30 or more, or none that is a number, is NaN.
 */
export function o4Quantize(w: Tensor, table: Tensor, codes: Tensor, scales: Tensor, row: number): void {
  o4QuantizeOp.run([w, table, codes, scales], [row]);
}

export const o4LevelsOp = new Op({
  signature: "o4_levels: w[n,K]:f32|f16|bf16 codes[n,K]:u4 scales[A]:f32 table[16]:f32 -> levels[16]:f32",
  check([, codes, scales]) {
    const blocks = Math.ceil(codes!.size / O4_BLOCK);
    if (scales!.size < blocks) throw new ShapeError(`o4_levels: scales want [${blocks}], got [${scales!.size}]`);
  },
  reference({ w, codes, scales, table, levels }) {
    const products = new Float64Array(16);
    const squares = new Float64Array(16);
    for (let i = 0; i < w!.data.length; i++) {
      const scale = scales!.data[Math.floor(i / O4_BLOCK)]!;
      if (!(Math.abs(scale) < O4_LARGEST_COUNTED)) continue;
      const code = codeAt(codes!.data, i);
      products[code]! += w!.data[i]! * scale;
      squares[code]! += scale * scale;
    }
    for (let code = 0; code < 16; code++) {
      const level = Math.min(127, Math.max(-127, (products[code]! / squares[code]!) * 127));
      const moves = squares[code]! > 0 && table!.data[code] !== 0;
      levels!.data[code] = moves ? fround(Math.floor(level + 0.5) * O4_UNIT) : table!.data[code]!;
    }
    return undefined;
  },
});

/** Elements of a matrix that its table is found for, and steps of the search. */
const SAMPLE = 1 << 14;
const STEPS = 10;

/** Rows of a matrix that its table is found for, if it has as many. */
export function o4SampleRows(inputs: number): number {
  return Math.ceil(SAMPLE / (inputs || 1));
}

/** The table that the search begins with. */
export function o4FirstTable(device: Device): Tensor {
  const levels = Float32Array.from(O4_FIRST_LEVELS, (level) => fround(level * O4_UNIT));
  return Tensor.from(device, levels, [16], "f32", "4-bit table");
}

/** The table[16] for a matrix, from its first rows `w[n,K]`: the `o4SampleRows` of them that count, or all. */
export function o4Table(w: Tensor): Tensor {
  return scope(() => {
    const { device } = w;
    const rows = w.narrow(0, 0, Math.min(w.shape[0]!, o4SampleRows(w.shape[1]!)));
    const codes = Tensor.empty(device, rows.shape, "u4", "sample codes");
    const scales = Tensor.empty(device, [Math.ceil(rows.size / O4_BLOCK)], "f32", "sample scales");
    let table = o4FirstTable(device);
    for (let step = 0; step < STEPS; step++) {
      o4Quantize(rows, table, codes, scales, 0);
      table = o4LevelsOp.run([rows, codes, scales, table], []);
    }
    return table;
  });
}
