// kv_append: writes the keys or values of new tokens into a cache, at a cursor that lives on the device.

import type { Tensor } from "../core/tensor.js";
import { Op } from "./op.js";

export const kvAppendOp = new Op({
  signature: "kv_append: x[B,T,G,D]:f32~ cursor[1]:i32 cache[B,G,S,D]:f32|f16|bf16! ->",
  reference({ x, cursor, cache }) {
    const [batch = 0, steps = 0, groups = 0, size = 0] = x!.shape;
    const capacity = cache!.shape[2]!;
    const start = cursor!.data[0]!;
    if (start < 0 || start + steps > capacity) return `${start} + ${steps} tokens do not fit a cache of ${capacity}`;
    for (let b = 0; b < batch; b++) {
      for (let t = 0; t < steps; t++) {
        for (let g = 0; g < groups; g++) {
          for (let d = 0; d < size; d++) {
            cache!.data[((b * groups + g) * capacity + start + t) * size + d] =
              x!.data[((b * steps + t) * groups + g) * size + d]!;
          }
        }
      }
    }
    return undefined;
  },
});

/** `cache[:, :, cursor + t, :] = x[:, t, :, :]`. */
export function kvAppend(x: Tensor, cursor: Tensor, cache: Tensor): void {
  kvAppendOp.run([x, cursor, cache], []);
}
