// kv_append: writes the keys or values of new tokens into the pages of a cache, at the rows and positions in the device
// tensor `lanes`. An i8 cache holds codes by LLM.int8()'s rule for rows (llm-int8.ts), one row per token and head, and
// their absmax in f32.

import { ShapeError } from "../core/errors.js";
import type { Tensor } from "../core/tensor.js";
import { laneOf, laneProblem, pageOf, pageProblem } from "./_paged.js";
import { quantizeRow } from "./llm-int8.js";
import { Op } from "./op.js";

export const kvAppendOp = new Op({
  signature:
    "kv_append: x[B,T,G,D]:f32~ lanes[2,B,T]:i32 table[R,C]:i32 cache[P,G,S,D]:f32|f16|bf16|i8! scales[P,G,S]:f32?! ->",
  check([, , table, cache, scales]) {
    if (table!.shape[1]! < 2 || cache!.shape[2] === 0)
      throw new ShapeError("kv_append: a row of the table needs a page");
    if ((cache!.dtype === "i8") === (scales !== undefined)) return;
    throw new ShapeError(`kv_append: ${scales ? "only a cache in i8 has" : "a cache in i8 needs"} scales`);
  },
  reference({ x, lanes, table, cache, scales }) {
    const [batch = 0, steps = 0, groups = 0, size = 0] = x!.shape;
    const [pages = 0, , tokens = 0] = cache!.shape;
    for (let at = 0; at < batch * steps; at++) {
      const { row, position } = laneOf(lanes!, at);
      if (row < 0) continue;
      const problem = laneProblem(table!, row, position);
      if (problem) return problem;
      const page = pageOf(table!, row, position, tokens);
      const missing = pageProblem(page, pages);
      if (missing) return missing;
      for (let g = 0; g < groups; g++) {
        const from = (at * groups + g) * size;
        const to = (page * groups + g) * tokens + (position % tokens);
        const values = x!.data.subarray(from, from + size);
        const into = cache!.data.subarray(to * size, (to + 1) * size);
        if (scales) scales.data[to] = quantizeRow(values, 0, into as Int8Array);
        else into.set(values);
      }
    }
    return undefined;
  },
});

/**
 * Writes `x[b,t]` of `x[B,T,G,D]` to position `lanes[1,b,t]` of row `lanes[0,b,t]`, for `lanes[2,B,T]`: place
 * `position % S` of page `table[row][1 + floor(position / S) % (C - 1)]` of `cache[P,G,S,D]`. Lanes of row -1 write
 * nothing. With `scales[P,G,S]` it writes codes to the cache, and their absmax to `scales`. No two lanes may write to one
 * place.
 * @throws ShapeError. Readers of the cache reject with a KernelError if a lane's row, position or page is out of range.
 */
export function kvAppend(x: Tensor, lanes: Tensor, table: Tensor, cache: Tensor, scales?: Tensor): void {
  kvAppendOp.run([x, lanes, table, cache, scales], []);
}
