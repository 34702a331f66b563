// gated: act(gate) * up, the middle of a gated feed-forward (Shazeer 2020, "GLU variants improve transformer").

import type { Tensor } from "../core/tensor.js";
import { ACT, type Act, activate } from "./activation.js";
import { Op } from "./op.js";

export const gatedOp = new Op({
  signature: "gated: gate[..,K]:f32~ up[..,K]:f32~ ; act:i32 -> y[..,K]:f32",
  reference({ gate, up, y }, { act }) {
    for (let i = 0; i < gate!.data.length; i++) y!.data[i] = activate(act!, gate!.data[i]!) * up!.data[i]!;
    return undefined;
  },
});

/** `act(gate) * up`. */
export function gated(gate: Tensor, up: Tensor, act: Act): Tensor {
  return gatedOp.run([gate, up], [ACT[act]]);
}
