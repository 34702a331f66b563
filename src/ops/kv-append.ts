// kv_append: writes the keys or values of new tokens into a cache, at a cursor that lives on the device. A cache in i8
// holds codes by the rule of LLM.int8() for rows (llm-int8.ts), one row per token and head, and their absmax in f32.

import { ShapeError } from "../core/errors.js";
import type { Tensor } from "../core/tensor.js";
import { quantizeRow } from "./llm-int8.js";
import { Op } from "./op.js";

export const kvAppendOp = new Op({
  signature: "kv_append: x[B,T,G,D]:f32~ cursor[1]:i32 cache[B,G,S,D]:f32|f16|bf16|i8! scales[B,G,S]:f32?! ->",
  check([, , cache, scales]) {
    if ((cache!.dtype === "i8") === (scales !== undefined)) return;
    throw new ShapeError(`kv_append: ${scales ? "only a cache in i8 has" : "a cache in i8 needs"} scales`);
  },
  reference({ x, cursor, cache, scales }) {
    const [batch = 0, steps = 0, groups = 0, size = 0] = x!.shape;
    const capacity = cache!.shape[2]!;
    const start = cursor!.data[0]!;
    if (start < 0 || start + steps > capacity) return `${start} + ${steps} tokens do not fit a cache of ${capacity}`;
    for (let b = 0; b < batch; b++) {
      for (let t = 0; t < steps; t++) {
        for (let g = 0; g < groups; g++) {
          const from = ((b * steps + t) * groups + g) * size;
          const row = (b * groups + g) * capacity + start + t;
          const values = x!.data.subarray(from, from + size);
          const into = cache!.data.subarray(row * size, (row + 1) * size);
          if (scales) scales.data[row] = quantizeRow(values, 0, into as Int8Array);
          else into.set(values);
        }
      }
    }
    return undefined;
  },
});

/** `cache[:, :, cursor + t, :] = x[:, t, :, :]`; with `scales[B,G,S]` as codes, whose absmax goes there. */
export function kvAppend(x: Tensor, cursor: Tensor, cache: Tensor, scales?: Tensor): void {
  kvAppendOp.run([x, cursor, cache, scales], []);
}
