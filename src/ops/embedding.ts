// embedding: rows of a table.

import type { Tensor } from "../core/tensor.js";
import { Op } from "./op.js";

export const embeddingOp = new Op({
  signature: "embedding: weight[V,K]:f32|f16|bf16@ ids[..]:i32 -> y[..,K]:f32",
  reference({ weight, ids, y }) {
    const [vocabulary = 0, columns = 0] = weight!.shape;
    for (let i = 0; i < ids!.data.length; i++) {
      const id = ids!.data[i]!;
      if (id < 0 || id >= vocabulary) return `token id ${id} is outside the vocabulary of ${vocabulary}`;
      for (let k = 0; k < columns; k++) y!.data[i * columns + k] = weight!.data[id * columns + k]!;
    }
    return undefined;
  },
});

/** `weight[ids]`, widened to f32. An id outside the table rejects reads of the result. */
export function embedding(weight: Tensor, ids: Tensor): Tensor {
  return embeddingOp.run([weight, ids], []);
}
