// Attention by a plain rule in float64, and arrays for it.

import { expect } from "vitest";
import { fromBf16, fromF16, toBf16, toF16 } from "../../src/core/dtype.js";
import { product } from "./random.js";

export interface Values {
  shape: number[];
  data: Float64Array;
}

/** Numbers between -2 and 2, as `dtype` rounds them. */
export function made(random: () => number, shape: number[], dtype = "f32"): Values {
  const round =
    dtype === "f16"
      ? (x: number) => fromF16(toF16(x))
      : dtype === "bf16"
        ? (x: number) => fromBf16(toBf16(x))
        : Math.fround;
  return { shape, data: Float64Array.from({ length: product(shape) }, () => round(random() * 4 - 2)) };
}

/** An element of an array that broadcasts to the index. */
export function at({ shape, data }: Values, index: readonly number[]): number {
  let place = 0;
  for (const [d, size] of shape.entries()) {
    const own = index[index.length - shape.length + d]!;
    place = place * size + (size === 1 ? 0 : own);
  }
  return data[place]!;
}

export interface Rule {
  scale: number;
  softcap?: number;
  /** What is added to the score of query t and key s; -Infinity hides it. */
  bias(index: readonly number[], t: number, s: number): number;
}

/** softmax(q kᵀ) v in float64: q[..,H,T,D], k[..,G,S,D], v[..,G,S,E], and the shape of the result without its last dim. */
export function attended(
  q: Values,
  k: Values,
  v: Values,
  lead: readonly number[],
  heads: number,
  rule: Rule,
): Float64Array {
  const [steps, size] = q.shape.slice(-2) as [number, number];
  const [keys, width] = v.shape.slice(-2) as [number, number];
  const rows = product([...lead, heads]);
  const out = new Float64Array(rows * steps * width);
  for (let row = 0; row < rows; row++) {
    const index: number[] = [];
    for (let d = lead.length - 1, rest = Math.floor(row / heads); d >= 0; d--) {
      index.unshift(rest % lead[d]!);
      rest = Math.floor(rest / lead[d]!);
    }
    const h = row % heads;
    const group = (x: Values): number => Math.floor(h / (heads / Math.max(1, x.shape.at(-3) ?? 1)));
    for (let t = 0; t < steps; t++) {
      const scores = Array.from({ length: keys }, (_, s) => {
        let dot = 0;
        for (let d = 0; d < size; d++) dot += at(q, [...index, h, t, d]) * at(k, [...index, group(k), s, d]);
        const score = dot * rule.scale;
        const capped = rule.softcap ? rule.softcap * Math.tanh(score / rule.softcap) : score;
        return capped + rule.bias([...index, h], t, s);
      });
      const top = Math.max(...scores);
      if (top === Number.NEGATIVE_INFINITY) continue;
      const weights = scores.map((score) => Math.exp(score - top));
      const sum = weights.reduce((n, one) => n + one, 0);
      for (let e = 0; e < width; e++) {
        let value = 0;
        for (let s = 0; s < keys; s++) value += weights[s]! * at(v, [...index, group(v), s, e]);
        out[(row * steps + t) * width + e] = value / sum;
      }
    }
  }
  return out;
}

/** The largest difference. */
export function farthest(got: ArrayLike<number>, want: ArrayLike<number>): number {
  expect(got.length).toBe(want.length);
  let most = 0;
  for (let i = 0; i < want.length; i++) most = Math.max(most, Math.abs(got[i]! - want[i]!));
  return most;
}

/** Of values up to 2 in size: f32 sums of few terms; a result in 16 bits is rounded once more. */
export const TOLERANCE = { f32: 3e-6, f16: 1.1e-3, bf16: 8e-3 };
