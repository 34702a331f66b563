// Repeatable numbers for tests: every array is a function of a seed, so that a failing case can be reproduced.

/** Uniform numbers in [0, 1) from a seed (a 32-bit integer hash of a counter). */
export function uniforms(seed: number): () => number {
  let state = Math.imul(seed | 0, 0x9e3779b1) ^ 0x5bd1e995;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

/** Roughly normal numbers (a sum of uniforms), times `scale`. */
export function normals(seed: number, count: number, scale = 1): Float32Array {
  const next = uniforms(seed);
  return Float32Array.from({ length: count }, () => (next() + next() + next() + next() - 2) * 1.7320508 * scale);
}

/** Whole numbers from `low` to `high`, both included. */
export function integers(seed: number, count: number, low: number, high: number): Int32Array {
  const next = uniforms(seed);
  return Int32Array.from({ length: count }, () => low + Math.floor(next() * (high - low + 1)));
}

export function bytes(seed: number, count: number, low = 0, high = 255): Uint8Array {
  return Uint8Array.from(integers(seed, count, low, high));
}

export function product(shape: readonly number[]): number {
  return shape.reduce((n, size) => n * size, 1);
}
