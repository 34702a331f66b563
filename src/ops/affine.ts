// Zero-point (affine) quantization to 8 bits, by blocks of a flattened tensor: code = round(x / scale) + zero_point. A tensor, its
// rows and its columns are blocks too.

import { OptionError, ShapeError } from "../core/errors.js";
import type { Tensor } from "../core/tensor.js";
import { roundHalfEven } from "./llm-int8.js";
import { Op } from "./op.js";

const fround = Math.fround;

/** Smallest normal number: a block of smaller ones has the codes of zeros, because some GPUs take them for zeros. */
const LEAST = 2 ** -126;
const clamp = (code: number): number => Math.min(127, Math.max(-128, code));

interface Scaled {
  readonly scale: number;
  readonly zero_point: number;
}

/** Scale and zero point of a range that holds zero; a range without extent has neither. */
function scaledTo(low: number, high: number, symmetric: boolean): Scaled {
  if (symmetric) return { scale: fround(Math.max(-low, high) / 127), zero_point: 0 };
  const scale = fround(fround(high - low) / 255);
  if (!(scale >= LEAST && scale < Number.POSITIVE_INFINITY)) return { scale, zero_point: 0 };
  return { scale, zero_point: clamp(roundHalfEven(fround(-128 - fround(low / scale)))) };
}

export const affineQuantizeOp = new Op({
  signature:
    "affine_quantize: x[n]:f32|f16|bf16 ; blocksize:i32 symmetric:i32 ranged:i32 low:f32 high:f32 -> codes[n]:i8 scale[B]:f32 zero_point[B]:i32",
  check(_, [blocksize, , ranged, low, high]) {
    if (!(Number.isInteger(blocksize) && blocksize! >= 1)) {
      throw new ShapeError(`affine_quantize: a block has at least one element, not ${blocksize}`);
    }
    if (ranged !== 0 && !(low! <= 0 && high! >= 0 && high! - low! < Number.POSITIVE_INFINITY)) {
      throw new OptionError(`affine_quantize: a range must hold zero, got ${low} to ${high}`);
    }
  },
  shape: ({ n = 0 }, { blocksize }) => {
    const blocks = Math.ceil(n / blocksize!);
    return [[n], [blocks], [blocks]];
  },
  reference({ x, codes, scale, zero_point }, { blocksize, symmetric, ranged, low, high }) {
    const count = x!.data.length;
    for (let at = 0; at < count; at += blocksize!) {
      const end = Math.min(at + blocksize!, count);
      let least = ranged ? low! : 0;
      let most = ranged ? high! : 0;
      let broken = false;
      for (let i = at; i < end; i++) {
        const value = x!.data[i]!;
        if (Number.isNaN(value)) broken = true;
        if (ranged) continue;
        if (value < least) least = value;
        if (value > most) most = value;
      }
      const block = at / blocksize!;
      const made = broken ? { scale: Number.NaN, zero_point: 0 } : scaledTo(least, most, symmetric !== 0);
      scale!.data[block] = made.scale;
      zero_point!.data[block] = made.zero_point;
      const usable = made.scale >= LEAST && made.scale < Number.POSITIVE_INFINITY;
      const lowest = symmetric ? -127 : -128;
      for (let i = at; i < end; i++) {
        const code = usable ? roundHalfEven(fround(x!.data[i]! / made.scale)) + made.zero_point : 0;
        codes!.data[i] = Math.max(lowest, clamp(code));
      }
    }
    return undefined;
  },
});

/** How a tensor is quantized by `affineQuantize`. */
export interface AffineOptions {
  readonly blocksize: number;
  /** Codes -127 to 127 about zero; otherwise -128 to 127 over the block's range. */
  readonly symmetric: boolean;
  /** A range to use instead of that of each block; values outside get the nearest code. */
  readonly range?: readonly [low: number, high: number] | undefined;
}

/**
 * Codes i8[n], scale f32[B] and zero point i32[B] of `x[n]`. The range of a block is extended to hold zero, which has an exact
 * code. A block of zeros has the scale 0; one that holds a NaN the scale NaN.
 */
export function affineQuantize(
  x: Tensor,
  { blocksize, symmetric, range }: AffineOptions,
): { codes: Tensor; scale: Tensor; zero_point: Tensor } {
  const [low, high] = range ?? [0, 0];
  const attributes = [blocksize, Number(symmetric), range ? 1 : 0, low, high];
  const [codes, scale, zero_point] = affineQuantizeOp.runAll([x], attributes);
  return { codes: codes!, scale: scale!, zero_point: zero_point! };
}

export const affineDequantizeOp = new Op({
  signature: "affine_dequantize: codes[n]:i8 scale[B]:f32 zero_point[B]:i32 ; blocksize:i32 -> y[n]:f32",
  check([codes, scale], [blocksize]) {
    const blocks = blocksize! >= 1 ? Math.ceil(codes!.size / blocksize!) : Number.POSITIVE_INFINITY;
    if (scale!.size >= blocks) return;
    throw new ShapeError(
      `affine_dequantize: ${codes!.size} codes in blocks of ${blocksize} want ${blocks} scales, got ${scale!.size}`,
    );
  },
  reference({ codes, scale, zero_point, y }, { blocksize }) {
    for (let i = 0; i < y!.data.length; i++) {
      const block = Math.floor(i / blocksize!);
      y!.data[i] = fround((codes!.data[i]! - zero_point!.data[block]!) * scale!.data[block]!);
    }
    return undefined;
  },
});

/** `(code - zero_point) * scale`, in f32. */
export function affineDequantize(codes: Tensor, scale: Tensor, zero_point: Tensor, blocksize: number): Tensor {
  return affineDequantizeOp.run([codes, scale, zero_point], [blocksize]);
}
