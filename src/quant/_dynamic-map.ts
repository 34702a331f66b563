// The 8-bit dynamic map (Dettmers 2016, "8-bit approximations for parallelism in deep learning"): 256 values whose
// exponent is coded in unary. Shared by double quantization and 8-bit blockwise quantization.

const fround = Math.fround;

/** `count` numbers from `first` to `last` as torch.linspace gives them in f32, each rounded once. */
export function linspace(first: number, last: number, count: number): Float32Array {
  const step = fround(fround(last - first) / (count - 1));
  return Float32Array.from({ length: count }, (_, i) =>
    i < Math.floor(count / 2) ? first + step * i : last - step * (count - 1 - i),
  );
}

/**
 * The map with 7 exponent bits, ascending, bit for bit as in bitsandbytes: each boundary is rounded to f32 once. Signed maps have
 * 0 at index 127, unsigned ones at index 0; both end in 1.
 * @param exponents exponent bits at most
 * @param bits of a code; fewer than 8 give a map that is filled up with zeros
 */
export function dynamicMap(signed: boolean, exponents = 7, bits = 8): Float32Array {
  const values: number[] = [0, 1];
  const means = (count: number, decade: number): void => {
    const boundaries = linspace(fround(0.1), 1, count + 1);
    for (let j = 0; j < count; j++) {
      const mean = fround(fround(boundaries[j]! + boundaries[j + 1]!) / 2);
      const value = fround(fround(10 ** (decade + 1 - exponents)) * mean);
      values.push(value);
      if (signed) values.push(-value);
    }
  };
  const fraction = bits - 1 - exponents;
  for (let i = 0; i < exponents; i++) means(2 ** (i + fraction + (signed ? 0 : 1)), i);
  const more = 2 ** fraction - 1;
  if (more > 0) means(more, exponents - 1);
  while (values.length < 256) values.push(0);
  return Float32Array.from(values.sort((a, b) => a - b));
}
