// argmax: the likeliest token of each row of logits.

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
