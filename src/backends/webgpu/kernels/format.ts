// How the shaders of products read a stored matrix: dense, or codes with scales.

import type { BindingSpec } from "../shader.js";

/** How a stored matrix is read. `fast` needs rows that begin at chunk boundaries. */
export interface Format {
  readonly bindings: readonly BindingSpec[];
  readonly params: readonly string[];
  /** Elements that one vec4<u32> of codes holds. */
  readonly chunk: number;
  /**
   * Fast: `raw(n, c)` -> vec4<u32> is chunk c of row n; `part(raw, i)` -> vec4<f32> its elements 4i to 4i+3; `weight(n, c)`
   * -> f32 the factor of the chunk. With `rounds`, `rounded_part(raw, i, weight)` -> vec4<f32> applies the factor. For
   * blocks of f16 without `exponents`, also `share_of_largest(n, i, count)` -> f32, the largest magnitude in one of `count`
   * shares of row n. Slow: `one(n, k)` -> f32.
   */
  readonly declarations: readonly string[];
  /**
   * `exponents[n] / 2` is the exponent that row n is scaled down by for blocks of f16; odd if the row is not all finite.
   */
  readonly exponents?: boolean;
  /** Elements are rounded after their factor is applied. Not for blocks of f16. */
  readonly rounds?: boolean;
  /** Runs in every invocation before anything else; ends with a barrier if it fills workgroup memory. */
  readonly prologue?: string;
}
