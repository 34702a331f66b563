// advance: adds a number to integers in place (positions and cache cursors live on the device).

import type { Tensor } from "../core/tensor.js";
import { Op } from "./op.js";

export const advanceOp = new Op({
  signature: "advance: x[..]:i32! ; by:i32 ->",
  reference({ x }, { by }) {
    for (let i = 0; i < x!.data.length; i++) x!.data[i] = x!.data[i]! + by!;
    return undefined;
  },
});

/** `x += by`, in place. */
export function advance(x: Tensor, by: number): void {
  advanceOp.run([x], [by]);
}
