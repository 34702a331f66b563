// Shared by the suites of golden models: the quantizations with results in the fixtures, and how results are compared.

import { expect } from "vitest";
import type { BitsAndBytesOptions } from "../../src/quant/config.js";
import { difference } from "./fixtures.js";

/** Names of quantizations in the fixtures, and their options. */
export const QUANTIZED: Readonly<Record<string, BitsAndBytesOptions>> = {
  int8_t6: { load_in_8bit: true },
  int8_t0: { load_in_8bit: true, llm_int8_threshold: 0 },
  nf4: { load_in_4bit: true, bnb_4bit_quant_type: "nf4" },
  nf4_dq: { load_in_4bit: true, bnb_4bit_quant_type: "nf4", bnb_4bit_use_double_quant: true },
  fp4: { load_in_4bit: true },
};

/** Largest difference of an 8-bit result from the stored one, and smallest from full precision. */
export interface Tolerance {
  max: number;
  mean: number;
  mean_to_fp32_range: [number, number];
}

/**
 * Compares a quantized result with the fixture's tolerances. Results in 4 bits have none: decoding is exact and products
 * are in f32, so the tolerance of full precision applies.
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
