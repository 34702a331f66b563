// The search for the scale of a block of 4-bit codes: clipping the largest weights, or leaving room above them, can cost less than it
// saves the others.

const { fround } = Math;

/** The scales that are tried, as multiples of the absmax. */
export const SCALES_TRIED: Float32Array = Float32Array.from({ length: 16 }, (_, i) => (80 + 2 * i) / 100);

/**
 * Of 16 scales about the absmax of a block that with the least squared error; the absmax itself unless another one is better.
 * @param nearest the value of the code that a number in units of the scale gets
 */
export function searchedScale(block: Float32Array, absmax: number, nearest: (value: number) => number): number {
  if (!(absmax > 1e-30 && absmax < 1e30)) return absmax; // squares must be numbers
  const errorOf = (scale: number): number => {
    const inverse = fround(1 / scale);
    let sum = 0;
    for (const x of block) {
      const value = fround(x * inverse);
      sum += (value - nearest(value)) ** 2;
    }
    return sum * scale * scale;
  };
  let [best, least] = [absmax, errorOf(absmax)];
  for (const factor of SCALES_TRIED) {
    const scale = fround(absmax * factor);
    const error = errorOf(scale);
    if (error < least) [best, least] = [scale, error];
  }
  return best;
}
