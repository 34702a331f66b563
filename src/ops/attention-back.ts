// attention_back: the gradients of attention by queries, keys and values (Dao et al. 2022, algorithm 4). Weights are
// recomputed from q and k block by block: neither the forward nor this keeps a T x S matrix.

import { OptionError, ShapeError } from "../core/errors.js";
import type { Tensor } from "../core/tensor.js";
import { Op } from "./op.js";

export const attentionBackOp = new Op({
  signature:
    "attention_back: q[B,T,H,D]:f32~ k[B,G,S,D]:f32~ v[B,G,S,E]:f32~ dy[B,T,H,E]:f32~ mask[B,S]:u8? segments[B,S]:i32? slopes[H]:f32? bias[B,H,T,S]:f32~? sinks[H]:f32? ; scale:f32 causal:i32 window:i32 softcap:f32 -> dq[B,T,H,D]:f32 dk[B,G,S,D]:f32 dv[B,G,S,E]:f32",
  check([q, k, v, dy, , segments, slopes, , sinks], [, causal]) {
    // As for attention, whose check has the reason.
    if (sinks && slopes) throw new OptionError("attention_back: sinks cannot be combined with slopes");
    const [heads = 0, groups = 0] = [q!.shape[2], k!.shape[1]];
    if (groups === 0 || heads % groups !== 0) {
      throw new ShapeError(`attention_back: ${heads} query heads cannot share ${groups} key heads`);
    }
    const [steps = 0, keys = 0] = [q!.shape[1], k!.shape[2]];
    if (steps > keys && (causal !== 0 || segments)) {
      throw new ShapeError(`attention_back: ${steps} queries cannot be the last of ${keys} keys`);
    }
    for (const operand of [q!, k!, v!, dy!]) {
      if (operand.strides && operand.shape.at(-1)! > 1 && operand.strides.at(-1) !== 1) {
        throw new ShapeError("attention_back: the last dim of q, k, v and dy must be contiguous");
      }
    }
  },
  reference({ q, k, v, dy, mask, segments, slopes, bias, sinks, dq, dk, dv }, { scale, causal, window, softcap }) {
    const [batch = 0, steps = 0, heads = 0, size = 0] = q!.shape;
    const [, groups = 0, keys = 0, width = 0] = v!.shape;
    const past = keys - steps;
    for (const one of [dq!, dk!, dv!]) one.data.fill(0);
    for (let b = 0; b < batch; b++) {
      for (let h = 0; h < heads; h++) {
        const g = Math.floor(h / (heads / groups));
        for (let t = 0; t < steps; t++) {
          const i = past + t;
          const query = ((b * steps + t) * heads + h) * size;
          const out = ((b * steps + t) * heads + h) * width;
          const capped = new Float64Array(keys);
          const scores = new Float64Array(keys).fill(Number.NEGATIVE_INFINITY);
          const products = new Float64Array(keys);
          const sink = sinks ? sinks.data[h]! : Number.NEGATIVE_INFINITY;
          let highest = sink;
          for (let j = 0; j < keys; j++) {
            if (causal && j > i) continue;
            if (window! > 0 && (j <= i - window! || j >= i + window!)) continue;
            if (mask && mask.data[b * keys + j] === 0) continue;
            if (segments && segments.data[b * keys + j] !== segments.data[b * keys + i]) continue;
            const row = (b * groups + g) * keys + j;
            let dot = 0;
            for (let d = 0; d < size; d++) dot += q!.data[query + d]! * k!.data[row * size + d]!;
            for (let e = 0; e < width; e++) products[j]! += dy!.data[out + e]! * v!.data[row * width + e]!;
            let score = dot * scale!;
            if (softcap! > 0) {
              capped[j] = Math.tanh(score / softcap!);
              score = softcap! * capped[j]!;
            }
            if (slopes) score += slopes.data[h]! * (j - i);
            if (bias) score += bias.data[((b * heads + h) * steps + t) * keys + j]!;
            scores[j] = score;
            if (score > highest) highest = score;
          }
          if (highest === Number.NEGATIVE_INFINITY) continue;
          let sum = Math.exp(sink - highest); // a key whose value is zero
          let mean = 0;
          for (let j = 0; j < keys; j++) {
            const p = Math.exp(scores[j]! - highest);
            sum += p;
            mean += p * products[j]!;
          }
          mean /= sum;
          for (let j = 0; j < keys; j++) {
            const p = Math.exp(scores[j]! - highest) / sum;
            if (p === 0) continue;
            const row = (b * groups + g) * keys + j;
            const ds = p * (products[j]! - mean) * (1 - capped[j]! ** 2) * scale!;
            for (let e = 0; e < width; e++) dv!.data[row * width + e]! += p * dy!.data[out + e]!;
            for (let d = 0; d < size; d++) {
              dq!.data[query + d]! += ds * k!.data[row * size + d]!;
              dk!.data[row * size + d]! += ds * q!.data[query + d]!;
            }
          }
        }
      }
    }
    return undefined;
  },
});

/** Masks and additions to the scores; as for `attention`. */
export interface AttentionBackOptions {
  readonly mask?: Tensor | undefined;
  readonly segments?: Tensor | undefined;
  readonly slopes?: Tensor | undefined;
  readonly bias?: Tensor | undefined;
  readonly sinks?: Tensor | undefined;
  readonly scale: number;
  readonly causal: boolean;
  readonly window: number;
  readonly softcap: number;
}

/**
 * Gradients of `attention(q, k, v)` without a cache: dq[B,T,H,D], dk[B,G,S,D] and dv[B,G,S,E]; those of a key head are summed
 * over its query heads. Queries are the last positions of the keys.
 */
export function attentionBack(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  dy: Tensor,
  options: AttentionBackOptions,
): readonly Tensor[] {
  const { mask, segments, slopes, bias, sinks, scale, causal, window, softcap } = options;
  const inputs = [q, k, v, dy, mask, segments, slopes, bias, sinks];
  return attentionBackOp.runAll(inputs, [scale, causal ? 1 : 0, window, softcap]);
}
