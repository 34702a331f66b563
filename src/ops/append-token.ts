// append_token: stores the chosen tokens, each row at its own cursor.

import type { Tensor } from "../core/tensor.js";
import { Op } from "./op.js";

export const appendTokenOp = new Op({
  signature: "append_token: ids[R]:i32 history[R,L]:i32! lengths[R,2]:i32! ->",
  reference({ ids, history, lengths }) {
    const room = history!.shape[1]!;
    const { data } = lengths!;
    for (let r = 0; r < ids!.data.length; r++) {
      const at = data[2 * r + 1]!;
      if (at >= room) return `position ${at} is outside a history of ${room}`;
    }
    for (let r = 0; r < ids!.data.length; r++) {
      const at = data[2 * r + 1]!;
      if (at < 0) continue;
      history!.data[r * room + at] = ids!.data[r]!;
      data[2 * r + 1] = at + 1;
    }
    return undefined;
  },
});

/** `history[r, lengths[r][1]++] = ids[r]`, in place; rows whose end is -1 are skipped. */
export function appendToken(ids: Tensor, history: Tensor, lengths: Tensor): void {
  appendTokenOp.run([ids, history, lengths], []);
}
