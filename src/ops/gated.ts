// gated: act(gate) * up, the middle of a gated feed-forward (Shazeer 2020, "GLU variants improve transformer"); clamped_gated: with
// limits on both.

import { OptionError } from "../core/errors.js";
import { scope, type Tensor } from "../core/tensor.js";
import { ACT, type Act, activate, activateBack, activationBack } from "./activation.js";
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

export const clampedGatedOp = new Op({
  signature: "clamped_gated: gate[..,K]:f32~ up[..,K]:f32~ ; limit:f32 -> y[..,K]:f32",
  check: (_, [limit]) => checkLimit("clamped_gated", limit!),
  reference({ gate, up, y }, { limit }) {
    for (let i = 0; i < gate!.data.length; i++) {
      const open = activate(ACT.quick_gelu, Math.min(gate!.data[i]!, limit!));
      y!.data[i] = open * (Math.max(-limit!, Math.min(up!.data[i]!, limit!)) + 1);
    }
    return undefined;
  },
  gradient: ({ inputs: [gate, up], attributes, dy: [dy] }) => clampedGatedBackOp.runAll([gate, up, dy], attributes),
  cheap: true,
});

export const clampedGatedBackOp = new Op({
  signature:
    "clamped_gated_back: gate[..,K]:f32~ up[..,K]:f32~ dy[..,K]:f32 ; limit:f32 -> dgate[..,K]:f32 dup[..,K]:f32",
  check: (_, [limit]) => checkLimit("clamped_gated_back", limit!),
  reference({ gate, up, dy, dgate, dup }, { limit }) {
    for (let i = 0; i < dy!.data.length; i++) {
      const [g, u, d] = [gate!.data[i]!, up!.data[i]!, dy!.data[i]!];
      const held = Math.min(g, limit!);
      const factor = Math.max(-limit!, Math.min(u, limit!)) + 1;
      // At a limit itself the gradient passes, as that of torch.clamp does.
      dgate!.data[i] = g <= limit! ? activateBack(ACT.quick_gelu, held) * factor * d : 0;
      dup!.data[i] = u >= -limit! && u <= limit! ? activate(ACT.quick_gelu, held) * d : 0;
    }
    return undefined;
  },
});

/** @throws OptionError */
function checkLimit(op: string, limit: number): void {
  if (!(limit > 0)) throw new OptionError(`${op}: limit must be above zero, got ${limit}`);
}

/** `quick_gelu(min(gate, limit)) * (up, clamped to ±limit, + 1)`: the experts of gpt-oss (OpenAI 2025, model card, section 2.2). */
export function clampedGated(gate: Tensor, up: Tensor, limit: number): Tensor {
  return clampedGatedOp.run([gate, up], [limit]);
}

/** `a * b`, elementwise: a gate without an activation. */
export function multiply(a: Tensor, b: Tensor): Tensor {
  return gatedOp.run([a, b], [ACT.none]);
}
