// Other 4-bit forms from their published layouts, quantized and decoded again: what llama.cpp calls Q4_0 and IQ4_NL (blocks of 32 with an
// f16 scale) and Q4_K (eight blocks of 32 with 6-bit scales and minima under two f16). The layouts are theirs; the searches for scales
// are plain ones over some candidates, at least as thorough as quantizers without calibration are.

import { fromF16, toF16 } from "../../src/core/dtype.js";

const half = (x: number): number => fromF16(toF16(x));

/** Each block of `size` numbers, replaced by what `decoded` makes of it. */
function byBlocks(
  values: Float32Array,
  size: number,
  decoded: (block: Float32Array) => ArrayLike<number>,
): Float32Array {
  const all = new Float32Array(values.length);
  for (let at = 0; at < values.length; at += size) all.set(decoded(values.subarray(at, at + size)), at);
  return all;
}

/** The element of the largest magnitude, with its sign. */
const largest = (block: Float32Array): number => block.reduce((top, x) => (Math.abs(x) > Math.abs(top) ? x : top), 0);

/** 4.5 bits: codes -8 to 7 times a scale that takes the largest element to -8. */
export function q40(values: Float32Array): Float32Array {
  return byBlocks(values, 32, (block) => {
    const exact = largest(block) / -8;
    const [scale, inverse] = [half(exact), exact === 0 ? 0 : 1 / exact];
    return block.map((x) => (Math.min(15, Math.floor(x * inverse + 8.5)) - 8) * scale);
  });
}

const IQ4 = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];
const nearest = (x: number): number =>
  IQ4.reduce((best, level) => (Math.abs(level - x) < Math.abs(best - x) ? level : best));

/** 4.5 bits: a table that is not uniform, the same for all, times a scale that is searched. */
export function iq4nl(values: Float32Array): Float32Array {
  return byBlocks(values, 32, (block) => {
    let [best, least]: [ArrayLike<number>, number] = [block.map(() => 0), Number.POSITIVE_INFINITY];
    for (let step = -7; step <= 7; step++) {
      const inverse = (IQ4[0]! + step) / largest(block);
      if (!Number.isFinite(inverse)) break;
      const levels = Array.from(block, (x) => nearest(x * inverse));
      const squares = levels.reduce((sum, level) => sum + level * level, 0);
      const scale = half(levels.reduce((sum, level, i) => sum + level * block[i]!, 0) / squares);
      const decoded = levels.map((level) => level * scale);
      const error = decoded.reduce((sum, value, i) => sum + (value - block[i]!) ** 2, 0);
      if (error < least) [best, least] = [decoded, error];
    }
    return best;
  });
}

/** Codes 0 to 15 of a block for a scale and a minimum that is taken off. */
const codesOf = (block: Float32Array, scale: number, min: number): number[] =>
  Array.from(block, (x) => (scale === 0 ? 0 : Math.max(0, Math.min(15, Math.round((x + min) / scale)))));

/** The scale and minimum of a block with the least squared error, of some that are tried and then fitted. */
function affine(block: Float32Array): { scale: number; min: number } {
  const low = Math.min(0, ...block);
  const high = Math.max(...block);
  let best = { scale: 0, min: -low };
  let least = Number.POSITIVE_INFINITY;
  for (let step = 0; step <= 20; step++) {
    const first = (high - low) / (15 - 1 + 0.1 * step);
    const codes = codesOf(block, first, -low);
    const n = block.length;
    const [sum, squares] = [codes.reduce((s, c) => s + c, 0), codes.reduce((s, c) => s + c * c, 0)];
    const [total, mixed] = [block.reduce((s, x) => s + x, 0), codes.reduce((s, c, i) => s + c * block[i]!, 0)];
    const divisor = n * squares - sum * sum;
    if (divisor <= 0) continue;
    let scale = (n * mixed - sum * total) / divisor;
    let min = (sum * mixed - squares * total) / divisor;
    if (min < 0) [scale, min] = [mixed / squares, 0];
    const error = codes.reduce((s, c, i) => s + (c * scale - min - block[i]!) ** 2, 0);
    if (error < least) [best, least] = [{ scale, min }, error];
  }
  return best;
}

/** 4.5 bits: codes 0 to 15 times the scale of a block less its minimum, both in 6 bits under an f16 for 256 elements. */
export function q4k(values: Float32Array): Float32Array {
  return byBlocks(values, 256, (all) => {
    const blocks = Array.from({ length: 8 }, (_, i) => all.subarray(32 * i, 32 * i + 32));
    const exact = blocks.map(affine);
    const [d, dmin] = [
      half(Math.max(...exact.map(({ scale }) => scale)) / 63),
      half(Math.max(...exact.map(({ min }) => min)) / 63),
    ];
    const six = (x: number, unit: number): number => (unit > 0 ? Math.min(63, Math.round(x / unit)) * unit : 0);
    return blocks.flatMap((block, i) => {
      const [scale, min] = [six(exact[i]!.scale, d), six(exact[i]!.min, dmin)];
      return codesOf(block, scale, min).map((code) => code * scale - min);
    });
  });
}
