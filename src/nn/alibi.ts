// ALiBi (Press et al. 2022): a penalty on attention scores that grows with distance, one slope for each head.

/**
 * Slopes for any number of heads, as in MPT: 2^-(bias_max (i + 1) / n) for the next power of two n of `heads`, in f32; where
 * there are fewer heads, every second one first.
 */
export function mptAlibiSlopes(heads: number, bias_max: number): Float32Array {
  const n = 2 ** Math.ceil(Math.log2(heads));
  const step = Math.fround(bias_max / n);
  const slopes = Array.from({ length: n }, (_, i) => 1 / Math.fround(2 ** Math.fround((i + 1) * step)));
  if (n === heads) return Float32Array.from(slopes);
  const [odd, even] = [1, 0].map((rest) => slopes.filter((_, i) => i % 2 === rest));
  return Float32Array.from([...odd!, ...even!].slice(0, heads));
}

/** Slopes for any number of heads, as in BLOOM and Falcon. */
export function alibiSlopes(heads: number): Float32Array {
  const floor = 2 ** Math.floor(Math.log2(heads));
  const ladder = (n: number): number[] => {
    const base = 2 ** -(2 ** -(Math.log2(n) - 3));
    return Array.from({ length: n }, (_, i) => base ** (i + 1));
  };
  const slopes = ladder(floor);
  if (floor < heads) {
    const odd = ladder(2 * floor).filter((_, i) => i % 2 === 0);
    slopes.push(...odd.slice(0, heads - floor));
  }
  return Float32Array.from(slopes);
}
