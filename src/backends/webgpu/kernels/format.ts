// How the shaders of products read a stored matrix: dense, or codes with scales.

import type { BindingSpec } from "../shader.js";

/** How a stored matrix is read. `fast` needs rows that begin at whole chunks. */
export interface Format {
  readonly bindings: readonly BindingSpec[];
  readonly params: readonly string[];
  /** Elements that one vec4<u32> of codes holds. */
  readonly chunk: number;
  /**
   * Fast: `raw(n, c)` -> vec4<u32> is chunk c of row n, `part(raw, i)` -> vec4<f32> its elements 4i to 4i+3, `weight(n, c)`
   * -> f32 a factor on the chunk, or, where `rounds`, `rounded_part(raw, i, weight)` -> vec4<f32> with the factor in it; for
   * blocks of f16, unless `exponents` are known, also `share_of_largest(n, i, count)` ->
   * f32, the largest magnitude in one of `count` shares of row n. Slow: `one(n, k)` -> f32.
   */
  readonly declarations: readonly string[];
  /** Half of `exponents[n]` is the power of two that row n is scaled down by for blocks of f16; odd if not all is finite. */
  readonly exponents?: boolean;
  /** Elements are rounded once they have their factor. Not for blocks of f16. */
  readonly rounds?: boolean;
  /** Runs in every invocation before anything else; ends behind a barrier if it fills workgroup memory. */
  readonly prologue?: string;
}
