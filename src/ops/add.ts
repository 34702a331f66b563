// add: the sum of two tensors of one shape.

import type { Tensor } from "../core/tensor.js";
import { Op } from "./op.js";

export const addOp = new Op({
  signature: "add: a[..]:f32 b[..]:f32 -> y[..]:f32",
  reference({ a, b, y }) {
    for (let i = 0; i < a!.data.length; i++) y!.data[i] = a!.data[i]! + b!.data[i]!;
    return undefined;
  },
  gradient: ({ dy: [dy] }) => [dy, dy],
  keeps: () => [],
});

/** `a + b`, elementwise. */
export function add(a: Tensor, b: Tensor): Tensor {
  return addOp.run([a, b], []);
}
