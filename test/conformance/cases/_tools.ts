// Shapes, activations and error bounds that the case files share.

import fc from "fast-check";
import { ACT, type Act } from "../../../src/ops/activation.js";
import { type Bound, UNIT } from "../../support/conformance.js";

export const ACTS: readonly Act[] = Object.keys(ACT) as Act[];

/** Leading dims: none, one row, several, none at all in a dim, three dims. */
export const LEADS: readonly (readonly number[])[] = [[], [1], [3], [0], [2, 3], [2, 0], [1, 2, 2]];

export const seeds: fc.Arbitrary<number> = fc.integer({ min: 1, max: 1_000_000 });
export const leads: fc.Arbitrary<readonly number[]> = fc.oneof(
  fc.constant([]),
  fc.array(fc.integer({ min: 0, max: 9 }), { minLength: 1, maxLength: 3 }),
  fc.integer({ min: 1, max: 70 }).map((rows) => [rows]),
);
export const acts: fc.Arbitrary<Act> = fc.constantFrom(...ACTS);

/** Largest slope of any activation (gelu: 1.129). */
const STEEPEST = 1.13;

/**
 * Largest error of `act(v)` in f32 where v itself may be off by `before`: kernels compute 1 + erf to 2e-7 absolutely
 * and exponentials to a few roundings, which x then multiplies.
 */
export function actBound(act: Act, v: number, before: number): number {
  if (act === "none" || act === "relu") return before;
  return STEEPEST * before + 8 * UNIT * (Math.abs(v) + 1);
}

/**
 * Relative error of a sum of `n` products in f32 in any order: roundings wander like a random walk, whose length grows
 * with the root of n; four deviations, and a few roundings for what stands around the sum.
 */
export function sumUnits(n: number): number {
  return (4 * Math.sqrt(n) + 8) * UNIT;
}

/** What a matrix product can carry on its way out. */
export interface Way {
  readonly bias?: Float32Array;
  readonly residual?: Float32Array;
  readonly act: Act;
  /** What the sum of element `n` of row `m` may be off beside its units. */
  readonly rounding?: (m: number, n: number) => number;
}

/**
 * Bound of `act(x · wᵀ + bias) + residual`: the sum of the magnitudes of all products of an element, times `units`.
 * `w` holds rows of K numbers.
 */
export function productBound(
  x: ArrayLike<number>,
  w: ArrayLike<number>,
  K: number,
  N: number,
  units: number,
  way: Way,
) {
  return (want: ArrayLike<number>): Bound =>
    (i) => {
      const m = Math.floor(i / N);
      const n = i % N;
      let size = Math.abs(way.bias?.[n] ?? 0);
      for (let k = 0; k < K; k++) size += Math.abs(x[m * K + k]! * w[n * K + k]!);
      const residual = way.residual?.[i] ?? 0;
      const before = (size * units + (way.rounding?.(m, n) ?? 0)) * ROUNDED;
      return actBound(way.act, size, before) + UNIT * (Math.abs(want[i]!) + Math.abs(residual)) + 1e-30;
    };
}

/** Bounds are computed from numbers before they were rounded to f16 or bf16, which moves them by 2^-8 at most. */
const ROUNDED = 1.01;
