// ALiBi (Press et al. 2022): a penalty on attention scores that grows with distance, one slope for each head.

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
