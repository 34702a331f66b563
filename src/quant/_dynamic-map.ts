// The 8-bit dynamic map (Dettmers 2016, "8-bit approximations for parallelism in deep learning"): 256 values whose
// exponent is coded in unary. Shared by double quantization and 8-bit blockwise quantization.

const fround = Math.fround;

/**
 * The map with 7 exponent bits, ascending, bit for bit as in bitsandbytes: each boundary is rounded to f32 once.
 * Signed maps have 0 at index 127, unsigned ones at index 0; both end in 1.
 */
export function dynamicMap(signed: boolean): Float32Array {
  const values: number[] = [];
  const tenth = fround(0.1);
  for (let i = 0; i < 7; i++) {
    const intervals = 2 ** (signed ? i : i + 1);
    const step = fround(fround(1 - tenth) / intervals);
    const boundary = (j: number): number =>
      j < Math.floor((intervals + 1) / 2) ? fround(tenth + step * j) : fround(1 - step * (intervals - j));
    for (let j = 0; j < intervals; j++) {
      const mean = fround(fround(boundary(j) + boundary(j + 1)) / 2);
      const value = fround(fround(10 ** (i - 6)) * mean);
      values.push(value);
      if (signed) values.push(-value);
    }
  }
  values.push(0, 1);
  return Float32Array.from(values.sort((a, b) => a - b));
}
