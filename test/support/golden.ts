// What the suites of golden models share: the quantizations that the fixtures have results of, and how results are judged.

import { expect } from "vitest";
import type { BitsAndBytesOptions } from "../../src/quant/config.js";
import { difference } from "./fixtures.js";

/** The fixtures' names of quantizations, and how to ask for them. */
export const QUANTIZED: Readonly<Record<string, BitsAndBytesOptions>> = {
  int8_t6: { load_in_8bit: true },
  int8_t0: { load_in_8bit: true, llm_int8_threshold: 0 },
  nf4: { load_in_4bit: true, bnb_4bit_quant_type: "nf4" },
  nf4_dq: { load_in_4bit: true, bnb_4bit_quant_type: "nf4", bnb_4bit_use_double_quant: true },
  fp4: { load_in_4bit: true },
};

/** How far a result in 8 bits may be from the stored one, and how far it must be from full precision. */
export interface Tolerance {
  max: number;
  mean: number;
  mean_to_fp32_range: [number, number];
}

/**
 * Judges a quantized result by the fixture's own tolerances; results in 4 bits have none, because decoding is exact and
 * products are in f32, so they must be as near as full precision is.
 */
export function expectQuantized(
  got: ArrayLike<number>,
  stored: ArrayLike<number>,
  full: ArrayLike<number>,
  tolerance: Tolerance | undefined,
  exact: number,
): void {
  const { max, mean } = difference(got, stored);
  if (!tolerance) {
    expect(max).toBeLessThan(exact);
    return;
  }
  expect(max).toBeLessThan(tolerance.max);
  expect(mean).toBeLessThan(tolerance.mean);
  const toFull = difference(got, full).mean;
  expect(toFull).toBeGreaterThan(tolerance.mean_to_fp32_range[0]);
  expect(toFull).toBeLessThan(tolerance.mean_to_fp32_range[1]);
}
