// How far logits are from others: the divergence of the distributions that they mean, and their own error.

import type { Tensor } from "../core/tensor.js";

/** Over tokens. */
export interface LogitsGap {
  /** KL(p || p') of each token, in nats, and their sum. */
  readonly kls: readonly number[];
  readonly kl: number;
  /** Sums of squared differences of the logits, and squares of the exact ones. */
  readonly off: number;
  readonly norm: number;
  /** Tokens after which the most likely one is the same. */
  readonly same: number;
}

/** Rows on the host at once. */
const ROWS = 64;

/** Compares logits f32[T,vocab] with exact ones. */
export async function logitsGap(exact: Tensor, other: Tensor): Promise<LogitsGap> {
  const [tokens = 0, vocab = 0] = exact.shape;
  const sums = { kls: [] as number[], kl: 0, off: 0, norm: 0, same: 0 };
  for (let at = 0; at < tokens; at += ROWS) {
    const count = Math.min(ROWS, tokens - at);
    using a = exact.narrow(0, at, count);
    using b = other.narrow(0, at, count);
    const [p, q] = await Promise.all([a.readFloats(), b.readFloats()]);
    for (let t = 0; t < count; t++) {
      const [from, to] = [t * vocab, (t + 1) * vocab];
      const [x, y] = [summary(p, from, to), summary(q, from, to)];
      let kl = 0;
      for (let i = from; i < to; i++) {
        const logp = p[i]! - x.logsum;
        kl += Math.exp(logp) * (logp - (q[i]! - y.logsum));
        sums.off += (q[i]! - p[i]!) ** 2;
        sums.norm += p[i]! ** 2;
      }
      sums.kls.push(kl);
      sums.kl += kl;
      if (x.top === y.top) sums.same++;
    }
  }
  return sums;
}

/** The index of the largest of some logits, and the logarithm of the sum of their exponentials. */
function summary(values: Float32Array, from: number, to: number): { top: number; logsum: number } {
  let top = from;
  for (let i = from + 1; i < to; i++) if (values[i]! > values[top]!) top = i;
  let sum = 0;
  for (let i = from; i < to; i++) sum += Math.exp(values[i]! - values[top]!);
  return { top: top - from, logsum: values[top]! + Math.log(sum) };
}
