// cross_entropy: the loss of rows of logits against their targets, and the log-sum-exp for its gradient.

import type { Tensor } from "../core/tensor.js";
import { filled } from "./fill.js";
import { Op } from "./op.js";

const outside = (target: number, vocabulary: number): string =>
  `target ${target} is outside the vocabulary of ${vocabulary}`;

export const crossEntropyOp = new Op({
  signature: "cross_entropy: logits[R,V]:f32 targets[R]:i32 ; smoothing:f32 ignored:i32 -> loss[R]:f32 lse[R]:f32",
  reference({ logits, targets, loss, lse }, { smoothing, ignored }) {
    const [rows = 0, vocabulary = 0] = logits!.shape;
    for (let r = 0; r < rows; r++) {
      const target = targets!.data[r]!;
      loss!.data[r] = 0;
      lse!.data[r] = 0;
      if (target === ignored) continue;
      if (target < 0 || target >= vocabulary) return outside(target, vocabulary);
      let highest = Number.NEGATIVE_INFINITY;
      for (let v = 0; v < vocabulary; v++) highest = Math.max(highest, logits!.data[r * vocabulary + v]!);
      let mass = 0;
      let below = 0;
      for (let v = 0; v < vocabulary; v++) {
        mass += Math.exp(logits!.data[r * vocabulary + v]! - highest);
        below += highest - logits!.data[r * vocabulary + v]!;
      }
      const log = Math.log(mass);
      const hit = log + (highest - logits!.data[r * vocabulary + target]!);
      // Without smoothing a logit of minus infinity must not count.
      loss!.data[r] = smoothing! > 0 ? (1 - smoothing!) * hit + smoothing! * (log + below / vocabulary) : hit;
      lse!.data[r] = highest + log;
    }
    return undefined;
  },
  gradient({ inputs: [logits, targets], outputs: [, lse], attributes, dy: [dloss, dlse] }) {
    const dy = dloss ?? filled(logits!.device, targets!.shape, 0);
    return [crossEntropyBackOp.run([logits, targets, lse, dy, dlse], attributes), undefined];
  },
  keeps: () => ["logits", "targets", "lse"],
});

export const crossEntropyBackOp = new Op({
  signature:
    "cross_entropy_back: logits[R,V]:f32 targets[R]:i32 lse[R]:f32 dloss[R]:f32 dlse[R]:f32? ; smoothing:f32 ignored:i32 -> dlogits[R,V]:f32",
  reference({ logits, targets, lse, dloss, dlse, dlogits }, { smoothing, ignored }) {
    const [rows = 0, vocabulary = 0] = logits!.shape;
    for (let r = 0; r < rows; r++) {
      const target = targets!.data[r]!;
      const at = r * vocabulary;
      if (target !== ignored && (target < 0 || target >= vocabulary)) return outside(target, vocabulary);
      const even = (dloss!.data[r]! * smoothing!) / vocabulary;
      for (let v = 0; v < vocabulary; v++) {
        if (target === ignored) {
          dlogits!.data[at + v] = 0;
          continue;
        }
        const p = Math.exp(logits!.data[at + v]! - lse!.data[r]!);
        const hit = v === target ? 1 - smoothing! : 0;
        dlogits!.data[at + v] = dloss!.data[r]! * (p - hit) - even + (dlse ? dlse.data[r]! * p : 0);
      }
    }
    return undefined;
  },
});

/** Label of tokens without a loss, as in PyTorch and transformers. */
export const IGNORED = -100;

/**
 * Losses of `logits[R,V]` against `targets[R]` (i32), in nats: `(1 - s)(lse - z_target) + s mean(lse - z)` with label
 * smoothing s. If the target is `ignored`, loss, lse and gradient are 0. Any other target outside the vocabulary rejects
 * reads of the results.
 */
export function crossEntropy(
  logits: Tensor,
  targets: Tensor,
  smoothing = 0,
  ignored = IGNORED,
): { readonly loss: Tensor; readonly lse: Tensor } {
  const [loss, lse] = crossEntropyOp.runAll([logits, targets], [smoothing, ignored]);
  return { loss: loss!, lse: lse! };
}
