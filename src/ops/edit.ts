// edit: changes the scores of a few tokens of each row, which the host names: words that are forbidden, favoured or forced. What they
// are is data on the device, so one recording serves all steps.

import type { Tensor } from "../core/tensor.js";
import { Op } from "./op.js";

export const editOp = new Op({
  signature: "edit: logits[R,V]:f32! ids[R,N]:i32 edits[R,N,3]:f32 only[R]:i32 ->",
  reference({ logits, ids, edits, only }) {
    const [rows = 0, vocabulary = 0] = logits!.shape;
    const count = ids!.shape[1]!;
    for (let r = 0; r < rows; r++) {
      const row = logits!.data.subarray(r * vocabulary, (r + 1) * vocabulary);
      const forced = only!.data[r] !== 0;
      if (forced) row.fill(Number.NEGATIVE_INFINITY);
      for (let n = r * count; n < (r + 1) * count; n++) {
        const id = ids!.data[n]!;
        if (id < 0) continue;
        if (id >= vocabulary) return `token id ${id} is outside the vocabulary of ${vocabulary}`;
        const [add = 0, penalty = 1, growth = 0] = edits!.data.subarray(3 * n, 3 * n + 3);
        if (forced) row[id] = add;
        else {
          const moved = Math.fround(row[id]! + add);
          const score = Math.fround(moved < 0 ? moved * penalty : moved / penalty);
          // Minus infinity and its magnitude would give NaN.
          const grows = growth !== 0 && score !== Number.NEGATIVE_INFINITY;
          row[id] = grows ? score + Math.fround(Math.abs(score) * growth) : score;
        }
      }
    }
    return undefined;
  },
});

/**
 * Edits in place. `edits[r,n]` belongs to the token `ids[r,n]`, of which a row has none twice; negative ids are skipped. It holds:
 * - what is added to the score, -Infinity for a token that must not come;
 * - a penalty: the score is then divided by it, or multiplied if negative; 1 for none;
 * - a growth: the magnitude of the score times this is then added; 0 for none.
 *
 * Of a row whose `only` is not 0, the tokens get their first numbers as scores, and all others -Infinity.
 */
export function edit(logits: Tensor, ids: Tensor, edits: Tensor, only: Tensor): void {
  editOp.run([logits, ids, edits, only], []);
}
