// argmax, penalize, sample, append_token: from logits to the next token without leaving the device. The random numbers
// are Philox4x32-10 (Salmon et al. 2011) on (seed, step, row), so that a seed gives the same tokens every time.

import type { Tensor } from "../core/tensor.js";
import { Op } from "./op.js";

export const argmaxOp = new Op({
  signature: "argmax: logits[B,V]:f32 -> ids[B]:i32",
  reference({ logits, ids }) {
    const [batch = 0, vocabulary = 0] = logits!.shape;
    for (let b = 0; b < batch; b++) {
      let best = 0;
      for (let v = 0; v < vocabulary; v++) {
        const score = logits!.data[b * vocabulary + v]!;
        if (Number.isNaN(score)) return "logits hold NaN";
        if (score > logits!.data[b * vocabulary + best]!) best = v;
      }
      ids!.data[b] = best;
    }
    return undefined;
  },
});

/** Index of the (first) largest logit of each row. */
export function argmax(logits: Tensor): Tensor {
  return argmaxOp.run([logits], []);
}

export const penalizeOp = new Op({
  signature: "penalize: logits[B,V]:f32! history[B,L]:i32 ; penalty:f32 ->",
  reference({ logits, history }, { penalty }) {
    const [batch = 0, vocabulary = 0] = logits!.shape;
    const length = history!.shape[1]!;
    for (let b = 0; b < batch; b++) {
      for (const id of new Set(history!.data.subarray(b * length, (b + 1) * length))) {
        if (id < 0) continue;
        if (id >= vocabulary) return `token id ${id} is outside the vocabulary of ${vocabulary}`;
        const score = logits!.data[b * vocabulary + id]!;
        logits!.data[b * vocabulary + id] = score < 0 ? score * penalty! : score / penalty!;
      }
    }
    return undefined;
  },
});

/** Repetition penalty (Keskar et al. 2019) in place: seen ids lose score; negative entries of history are skipped. */
export function penalize(logits: Tensor, history: Tensor, penalty: number): void {
  penalizeOp.run([logits, history], [penalty]);
}

/** First word of Philox4x32-10 for key (seed, "OCTV") and counter (step, row, 0, 0), as a number in [0, 1). */
export function philoxUniform(seed: number, step: number, row: number): number {
  let [c0, c1, c2, c3] = [step >>> 0, row >>> 0, 0, 0];
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

export const sampleOp = new Op({
  signature:
    "sample: logits[B,V]:f32 counter[1]:i32! ; temperature:f32 top_k:i32 top_p:f32 min_p:f32 seed:i32 -> ids[B]:i32",
  reference({ logits, counter, ids }, { temperature, top_k, top_p, min_p, seed }) {
    const [batch = 0, vocabulary = 0] = logits!.shape;
    for (let b = 0; b < batch; b++) {
      const scores = Float32Array.from(
        logits!.data.subarray(b * vocabulary, (b + 1) * vocabulary),
        (s) => s / temperature!,
      );
      if (scores.some(Number.isNaN)) return "logits hold NaN";
      let kept = [...scores.keys()].filter((v) => scores[v]! > Number.NEGATIVE_INFINITY);
      if (vocabulary > 0 && kept.length === 0) return "all logits are -inf";
      const byScore = (a: number, c: number) => (scores[a] === scores[c] ? a - c : scores[c]! - scores[a]!);
      if (top_k! > 0 && top_k! < kept.length) {
        const limit = scores[[...kept].sort(byScore)[top_k! - 1]!]!;
        kept = kept.filter((v) => scores[v]! >= limit);
      }
      const highest = kept.reduce((high, v) => Math.max(high, scores[v]!), Number.NEGATIVE_INFINITY);
      const weight = (v: number) => (scores[v] === highest ? 1 : Math.exp(scores[v]! - highest));
      if (top_p! < 1) {
        const total = kept.reduce((sum, v) => sum + weight(v), 0);
        const ascending = [...kept].sort((a, c) => byScore(c, a));
        let cumulative = 0;
        const dropped = new Set<number>();
        for (const v of ascending.slice(0, -1)) {
          cumulative += weight(v) / total;
          if (cumulative <= 1 - top_p!) dropped.add(v);
        }
        kept = kept.filter((v) => !dropped.has(v));
      }
      if (min_p! > 0) kept = kept.filter((v) => weight(v) >= min_p!);
      const total = kept.reduce((sum, v) => sum + weight(v), 0);
      const target = philoxUniform(seed!, counter!.data[0]!, b) * total;
      let cumulative = 0;
      let chosen = kept.at(-1)!;
      for (const v of kept) {
        cumulative += weight(v);
        if (cumulative > target) {
          chosen = v;
          break;
        }
      }
      ids!.data[b] = chosen;
    }
    counter!.data[0] = counter!.data[0]! + 1;
    return undefined;
  },
});

export interface SampleOptions {
  temperature: number;
  /** 0 keeps all. */
  top_k: number;
  /** 1 keeps all. */
  top_p: number;
  /** 0 keeps all. */
  min_p: number;
  seed: number;
}

/** One token per row, drawn from the logits after temperature, top-k, top-p and min-p; `counter` (i32[1]) moves on by one. */
export function sample(logits: Tensor, counter: Tensor, options: SampleOptions): Tensor {
  return sampleOp.run(
    [logits, counter],
    [options.temperature, options.top_k, options.top_p, options.min_p, options.seed],
  );
}

export const appendTokenOp = new Op({
  signature: "append_token: ids[B]:i32 history[B,L]:i32! cursor[1]:i32 ->",
  reference({ ids, history, cursor }) {
    const length = history!.shape[1]!;
    const at = cursor!.data[0]!;
    if (at < 0 || at >= length) return `position ${at} is outside a history of ${length}`;
    for (let b = 0; b < ids!.data.length; b++) history!.data[b * length + at] = ids!.data[b]!;
    return undefined;
  },
});

/** `history[:, cursor] = ids`, in place. */
export function appendToken(ids: Tensor, history: Tensor, cursor: Tensor): void {
  appendTokenOp.run([ids, history, cursor], []);
}
