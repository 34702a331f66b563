// gated: act(gate) * up, the middle of a gated feed-forward (Shazeer 2020, "GLU variants improve transformer").

import { scope, type Tensor } from "../core/tensor.js";
import { ACT, type Act, activate, activationBack } from "./activation.js";
import { contiguous } from "./copy.js";
import { Op } from "./op.js";

export const gatedOp = new Op({
  signature: "gated: gate[..,K]:f32~ up[..,K]:f32~ ; act:i32 -> y[..,K]:f32",
  reference({ gate, up, y }, { act }) {
    for (let i = 0; i < gate!.data.length; i++) y!.data[i] = activate(act!, gate!.data[i]!) * up!.data[i]!;
    return undefined;
  },
  gradient({ inputs: [gate, up], attributes: [act = 0], dy: [dy], wanted }) {
    return [
      wanted[0] ? scope(() => activationBack(contiguous(gate!), multiply(dy!, up!), act)) : undefined,
      wanted[1] ? gatedOp.run([gate, dy], [act]) : undefined,
    ];
  },
  keeps: (wanted) => (wanted[0] ? ["gate", "up"] : ["gate"]),
  cheap: true,
});

/** `act(gate) * up`. */
export function gated(gate: Tensor, up: Tensor, act: Act): Tensor {
  return gatedOp.run([gate, up], [ACT[act]]);
}

/** `a * b`, elementwise: a gate without an activation. */
export function multiply(a: Tensor, b: Tensor): Tensor {
  return gatedOp.run([a, b], [ACT.none]);
}
