// scale: multiplication by a number, with an optional soft cap (Gemma 2: cap * tanh(x / cap)).

import type { Tensor } from "../core/tensor.js";
import { ACT, activationBack } from "./activation.js";
import { Op } from "./op.js";

export const scaleOp = new Op({
  signature: "scale: x[..]:f32 ; factor:f32 softcap:f32 -> y[..]:f32",
  reference({ x, y }, { factor, softcap }) {
    for (let i = 0; i < x!.data.length; i++) {
      const value = x!.data[i]! * factor!;
      y!.data[i] = softcap! > 0 ? softcap! * Math.tanh(value / softcap!) : value;
    }
    return undefined;
  },
  gradient({ inputs: [x], attributes: [factor = 1, softcap = 0], dy: [dy] }) {
    if (softcap <= 0) return [scale(dy!, factor)];
    return [activationBack(scale(x!, factor / softcap), scale(dy!, factor), ACT.tanh)];
  },
  keeps: (_, [, softcap]) => (softcap! > 0 ? ["x"] : []),
});

/** `x * factor`, then soft-capped if `softcap` is above zero. */
export function scale(x: Tensor, factor: number, softcap = 0): Tensor {
  return scaleOp.run([x], [factor, softcap]);
}
