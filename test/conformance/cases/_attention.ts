// How operands of attention and kv_append are stored, and how far a result of attention may be off.

import { type Operand, operand, type ViewStep } from "../../support/conformance.js";
import { integers, normals, product } from "../../support/random.js";
import { sumUnits } from "./_tools.js";

export type HeadLayout = "rows" | "swapped" | "part";

/** A [a, b, c, d] operand as it is, stored with its middle dims swapped, or as a part of something wider. */
export function laidOut(layout: HeadLayout, shape: readonly number[], seed: number, size = 1, codes = false): Operand {
  const [a = 0, b = 0, c = 0, d = 0] = shape;
  const stored = layout === "swapped" ? [a, c, b, d] : layout === "part" ? [a, b + 1, c, d + 6] : [a, b, c, d];
  const view: Record<HeadLayout, ViewStep[]> = {
    rows: [],
    swapped: [["permute", 0, 2, 1, 3]],
    part: [
      ["narrow", 3, 2, d],
      ["narrow", 1, 1, b],
    ],
  };
  const count = product(stored);
  if (codes) return operand(stored, Int8Array.from(integers(seed, count, -127, 127)), "i8", { view: view[layout] });
  return operand(stored, normals(seed, count, size), "f32", { view: view[layout] });
}

/** Largest of the numbers that `normals` makes. */
const LARGEST = 3.5;

export interface Sizes {
  readonly D: number;
  /** Keys that a query sees at most. */
  readonly keys: number;
  readonly scale: number;
  /** Size of the queries. */
  readonly size?: number;
  /** Largest number that is added to a score. */
  readonly added?: number;
  /** Keys and values in codes. */
  readonly codes?: boolean;
  /** Queries and weights may be rounded to bf16. */
  readonly rounded?: boolean;
}

/**
 * Largest error of attention. A score is a sum over D and what is added; its error moves the weights by as much,
 * relatively. The result is a mean of values: its error is that of the weights plus that of a sum over the keys.
 */
export function attentionBound({ D, keys, scale, size = 1, added = 0, codes, rounded }: Sizes): number {
  const dot = LARGEST * LARGEST * size * scale * Math.min(D, 4 * Math.sqrt(D));
  // Kernels that multiply codes with codes hold weights in 65280 steps to the largest of a block of keys.
  const steps = codes ? Math.sqrt(keys) / 65280 : 0;
  // With bf16 queries and weights may be rounded to eight bits.
  const rounding = rounded ? 2 ** -8 : 0;
  return LARGEST * (2 * (dot + added) * (sumUnits(D) + rounding) + sumUnits(keys) + steps + rounding);
}

/** Slopes of ALiBi for any number of heads. */
export function slopesOf(heads: number): Float32Array {
  return Float32Array.from({ length: heads }, (_, h) => 2 ** (-8 * ((h + 1) / heads)));
}
