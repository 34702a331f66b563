// 8-bit blockwise quantization (Dettmers et al. 2022, "8-bit optimizers via block-wise quantization"): blocks over the flattened
// tensor, one absmax each, and for every element the nearest entry of a map of 256 values. Nearest is exact: bitsandbytes' CPU
// code looks up a table of 65,536 bins, where a zero does not become zero.

import { ShapeError } from "../core/errors.js";
import type { Tensor } from "../core/tensor.js";
import { Op } from "./op.js";

const fround = Math.fround;

/** Smallest normal number: a block of smaller ones has the codes of zeros, because some GPUs take them for zeros. */
const LEAST = 2 ** -126;

/** @throws ShapeError unless blocks have at least one element */
function checkBlocksize(op: string, blocksize: number): void {
  if (Number.isInteger(blocksize) && blocksize >= 1) return;
  throw new ShapeError(`${op}: a block has at least one element, not ${blocksize}`);
}

/** The largest magnitude of elements `at` to `end`; NaN if one is NaN. */
function largestOf(data: ArrayLike<number>, at: number, end: number): number {
  let largest = 0;
  for (let i = at; i < end; i++) {
    const size = Math.abs(data[i]!);
    if (!(size <= largest)) largest = size;
    if (Number.isNaN(largest)) return largest;
  }
  return largest;
}

/** Midpoints between neighbours of a map, in f32. */
function midpointsOf(map: ArrayLike<number>): Float32Array {
  return Float32Array.from({ length: 255 }, (_, i) => fround(fround(map[i]! + map[i + 1]!) / 2));
}

export const blockwiseQuantizeOp = new Op({
  signature: "blockwise_quantize: x[n]:f32|f16|bf16 map[256]:f32 ; blocksize:i32 -> codes[n]:u8 absmax[B]:f32",
  check: (_, [blocksize]) => checkBlocksize("blockwise_quantize", blocksize!),
  shape: ({ n = 0 }, { blocksize }) => [[n], [Math.ceil(n / blocksize!)]],
  reference({ x, map, codes, absmax }, { blocksize }) {
    const midpoints = midpointsOf(map!.data);
    const count = x!.data.length;
    for (let at = 0; at < count; at += blocksize!) {
      const end = Math.min(at + blocksize!, count);
      const largest = largestOf(x!.data, at, end);
      absmax!.data[at / blocksize!] = largest;
      const inverse = largest < LEAST ? 0 : fround(1 / largest);
      for (let i = at; i < end; i++) {
        const value = Math.min(1, Math.max(-1, fround(x!.data[i]! * inverse)));
        let code = 0;
        while (code < 255 && value > midpoints[code]!) code++;
        codes!.data[i] = code;
      }
    }
    return undefined;
  },
});

/**
 * Codes u8[n] and absmax f32[ceil(n/blocksize)] of `x[n]`. `map[256]` ascends; ties go to the lower entry. A block that holds a
 * NaN has the absmax NaN.
 */
export function blockwiseQuantize(x: Tensor, map: Tensor, blocksize: number): { codes: Tensor; absmax: Tensor } {
  const [codes, absmax] = blockwiseQuantizeOp.runAll([x, map], [blocksize]);
  return { codes: codes!, absmax: absmax! };
}

export const blockwiseDequantizeOp = new Op({
  signature: "blockwise_dequantize: codes[n]:u8 absmax[B]:f32 map[256]:f32 ; blocksize:i32 -> y[n]:f32",
  check([codes, absmax], [blocksize]) {
    checkBlocksize("blockwise_dequantize", blocksize!);
    const blocks = Math.ceil(codes!.size / blocksize!);
    if (absmax!.size >= blocks) return;
    throw new ShapeError(
      `blockwise_dequantize: absmax wants [${blocks}] for ${codes!.size} codes, got [${absmax!.size}]`,
    );
  },
  reference({ codes, absmax, map, y }, { blocksize }) {
    for (let i = 0; i < y!.data.length; i++) {
      y!.data[i] = fround(map!.data[codes!.data[i]!]! * absmax!.data[Math.floor(i / blocksize!)]!);
    }
    return undefined;
  },
});

/** `map[code] * absmax` of its block, in f32. */
export function blockwiseDequantize(codes: Tensor, absmax: Tensor, map: Tensor, blocksize: number): Tensor {
  return blockwiseDequantizeOp.run([codes, absmax, map], [blocksize]);
}
