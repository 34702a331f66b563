// penalize: lowers the scores of tokens that a row has already seen. Penalties and lengths are per-row data on the device, so
// one recording serves any mix of requests.

import type { Tensor } from "../core/tensor.js";
import { Op } from "./op.js";

export const penalizeOp = new Op({
  signature: "penalize: logits[R,V]:f32! history[R,L]:i32 lengths[R,2]:i32 penalties[R,3]:f32 ->",
  reference({ logits, history, lengths, penalties }) {
    const [rows = 0, vocabulary = 0] = logits!.shape;
    const room = history!.shape[1]!;
    for (let r = 0; r < rows; r++) {
      const [start = 0, end = 0] = lengths!.data.subarray(2 * r, 2 * r + 2);
      if (end < 0) continue;
      if (start < 0 || start > end || end > room) return `tokens ${start} to ${end} are outside a history of ${room}`;
      const [repetition = 1, presence = 0, frequency = 0] = penalties!.data.subarray(3 * r, 3 * r + 3);
      const counts = new Map<number, number>();
      for (let i = 0; i < end; i++) {
        const id = history!.data[r * room + i]!;
        if (id < 0) continue;
        if (id >= vocabulary) return `token id ${id} is outside the vocabulary of ${vocabulary}`;
        counts.set(id, (counts.get(id) ?? 0) + (i >= start ? 1 : 0));
      }
      for (const [id, count] of counts) {
        const at = r * vocabulary + id;
        const score = logits!.data[at]!;
        const repeated = Math.fround(score < 0 ? score * repetition : score / repetition);
        logits!.data[at] = count > 0 ? Math.fround(repeated - Math.fround(frequency * count)) - presence : repeated;
      }
    }
    return undefined;
  },
});

/**
 * Penalties in place. Row r has seen `history[r, 0 .. lengths[r][1]]`, of which it generated those from `lengths[r][0]` on;
 * rows whose end is -1 and negative ids are skipped. `penalties[r]` holds:
 * - the repetition penalty (Keskar et al. 2019): a seen id's score is divided by it, or multiplied if negative; 1 for none;
 * - the presence penalty: subtracted from the score of an id that the row generated; 0 for none;
 * - the frequency penalty: subtracted once for each time it generated the id; 0 for none.
 */
export function penalize(logits: Tensor, history: Tensor, lengths: Tensor, penalties: Tensor): void {
  penalizeOp.run([logits, history, lengths, penalties], []);
}
