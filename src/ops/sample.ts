// sample: one token per row from its logits, with per-row parameters on the device. The random numbers are Philox4x32-10
// (Salmon et al. 2011) on (seed, sequence, step): a request draws the same tokens in any row of any batch.

import type { HostArray } from "../core/dtype.js";
import type { Tensor } from "../core/tensor.js";
import { Op } from "./op.js";

/** First word of Philox4x32-10 for key (seed, "OCTV") and counter (step, sequence, 0, 0), as a number in [0, 1). */
export function philoxUniform(seed: number, step: number, sequence: number): number {
  let [c0, c1, c2, c3] = [step >>> 0, sequence >>> 0, 0, 0];
  let [k0, k1] = [seed >>> 0, 0x4f435456];
  for (let round = 0; round < 10; round++) {
    const p0 = BigInt(0xd2511f53) * BigInt(c0);
    const p1 = BigInt(0xcd9e8d57) * BigInt(c2);
    const next0 = (Number(p1 >> 32n) ^ c1 ^ k0) >>> 0;
    const next2 = (Number(p0 >> 32n) ^ c3 ^ k1) >>> 0;
    c1 = Number(p1 & 0xffffffffn);
    c3 = Number(p0 & 0xffffffffn);
    c0 = next0;
    c2 = next2;
    k0 = (k0 + 0x9e3779b9) >>> 0;
    k1 = (k1 + 0xbb67ae85) >>> 0;
  }
  return (c0 >>> 8) * 2 ** -24;
}

/** A row's tokens that remain after top-k, top-p and min-p, by id, each with e^(score - the highest). */
export function keptOf(scores: Float32Array, [, top_k = 0, top_p = 1, min_p = 0]: HostArray): [number, number][] {
  let kept = [...scores.keys()].filter((v) => scores[v]! > Number.NEGATIVE_INFINITY);
  const byScore = (a: number, c: number) => (scores[a] === scores[c] ? a - c : scores[c]! - scores[a]!);
  if (top_k > 0 && top_k < kept.length) {
    const limit = scores[[...kept].sort(byScore)[top_k - 1]!]!;
    kept = kept.filter((v) => scores[v]! >= limit);
  }
  const highest = kept.reduce((high, v) => Math.max(high, scores[v]!), Number.NEGATIVE_INFINITY);
  const weight = (v: number) => (scores[v] === highest ? 1 : Math.exp(scores[v]! - highest));
  if (top_p < 1) {
    const total = kept.reduce((sum, v) => sum + weight(v), 0);
    // Of equal scores the lowest id goes first.
    const ascending = [...kept].sort((a, c) => scores[a]! - scores[c]! || a - c);
    let cumulative = 0;
    const dropped = new Set<number>();
    for (const v of ascending.slice(0, -1)) {
      cumulative += weight(v) / total;
      if (cumulative <= 1 - top_p) dropped.add(v);
    }
    kept = kept.filter((v) => !dropped.has(v));
  }
  if (min_p > 0) kept = kept.filter((v) => weight(v) >= min_p);
  return kept.map((v) => [v, weight(v)]);
}

export const sampleOp = new Op({
  signature: "sample: logits[R,V]:f32 params[R,4]:f32 draws[R,3]:i32! -> ids[R]:i32",
  reference({ logits, params, draws, ids }) {
    const [rows = 0, vocabulary = 0] = logits!.shape;
    for (let r = 0; r < rows; r++) {
      const own = params!.data.subarray(4 * r, 4 * r + 4);
      const temperature = own[0]!;
      ids!.data[r] = 0;
      if (temperature < 0) continue;
      const row = logits!.data.subarray(r * vocabulary, (r + 1) * vocabulary);
      const scores = Float32Array.from(row, (s) => (temperature === 0 ? s : s / temperature));
      if (scores.some(Number.isNaN)) return "logits hold NaN";
      if (temperature === 0) {
        ids!.data[r] = scores.reduce((best, s, v) => (s > scores[best]! ? v : best), 0);
        continue;
      }
      const kept = keptOf(scores, own);
      if (kept.length === 0) return "all logits are -inf";
      const total = kept.reduce((sum, [, weight]) => sum + weight, 0);
      const [seed = 0, sequence = 0, step = 0] = draws!.data.subarray(3 * r, 3 * r + 3);
      const target = philoxUniform(seed, step, sequence) * total;
      let cumulative = 0;
      const drawn = kept.find(([, weight]) => {
        cumulative += weight;
        return cumulative > target;
      });
      ids!.data[r] = (drawn ?? kept.at(-1)!)[0];
      draws!.data[3 * r + 2] = step + 1;
    }
    return undefined;
  },
});

/**
 * One token per row: ids i32[R]. `params[r]` holds temperature, top_k (0 keeps all), top_p (1 keeps all) and min_p (0 keeps
 * all), applied in this order; temperature 0 takes the first of the likeliest tokens. Below 0 the row is unused: its logits
 * are not read and its id is 0. `draws[r]` holds seed, sequence and step; a row that draws increments its step.
 */
export function sample(logits: Tensor, params: Tensor, draws: Tensor): Tensor {
  return sampleOp.run([logits, params, draws], []);
}
