// advance, advance_lanes: add a number to integers in place. Positions and counters live on the device, so a recorded step
// advances them without the host.

import type { Tensor } from "../core/tensor.js";
import { laneOf } from "./_paged.js";
import { Op } from "./op.js";

export const advanceOp = new Op({
  signature: "advance: x[..]:i32! ; by:i32 ->",
  reference({ x }, { by }) {
    for (let i = 0; i < x!.data.length; i++) x!.data[i] = x!.data[i]! + by!;
    return undefined;
  },
});

export const advanceLanesOp = new Op({
  signature: "advance_lanes: lanes[2,B,T]:i32! ; by:i32 ->",
  reference({ lanes }, { by }) {
    const count = lanes!.data.length / 2;
    for (let at = 0; at < count; at++) {
      const { row, position } = laneOf(lanes!, at);
      if (row >= 0) lanes!.data[count + at] = position + by!;
    }
    return undefined;
  },
});

/** `x += by`, in place. */
export function advance(x: Tensor, by: number): void {
  advanceOp.run([x], [by]);
}

/** Advances the positions `lanes[1]` of `lanes[2,B,T]` by `by`, in place; unused lanes (row -1) stay as they are. */
export function advanceLanes(lanes: Tensor, by: number): void {
  advanceLanesOp.run([lanes], [by]);
}
