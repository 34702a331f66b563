// token_logprobs: log softmax at one column per row; the whole softmax is never stored.

import type { Tensor } from "../core/tensor.js";
import { crossEntropy } from "./cross-entropy.js";
import { Op } from "./op.js";
import { scale } from "./scale.js";

/** Not a valid id: `cross_entropy` must ignore none. */
const NONE = -(2 ** 31);

export const tokenLogprobsOp = new Op({
  signature: "token_logprobs: logits[R,V]:f32 targets[R]:i32 -> y[R]:f32",
  reference({ logits, targets, y }) {
    const [rows = 0, vocabulary = 0] = logits!.shape;
    for (let r = 0; r < rows; r++) {
      const target = targets!.data[r]!;
      if (target < 0 || target >= vocabulary) return `target ${target} is outside the vocabulary of ${vocabulary}`;
      let highest = Number.NEGATIVE_INFINITY;
      for (let v = 0; v < vocabulary; v++) highest = Math.max(highest, logits!.data[r * vocabulary + v]!);
      let sum = 0;
      for (let v = 0; v < vocabulary; v++) sum += Math.exp(logits!.data[r * vocabulary + v]! - highest);
      y!.data[r] = logits!.data[r * vocabulary + target]! - highest - Math.log(sum);
    }
    return undefined;
  },
  compose: ([logits, targets]) => [scale(crossEntropy(logits!, targets!, 0, NONE).loss, -1)],
});

/** log softmax(logits[R,V])[targets[R]]: [R], in nats. */
export function tokenLogprobs(logits: Tensor, targets: Tensor): Tensor {
  return tokenLogprobsOp.run([logits, targets], []);
}
