// Fuses gate_proj and up_proj (same input) with the gated activation that consumes them. A workgroup multiplies the same
// columns of both matrices, and writes both products and the activation.

import type { CommandRecorder } from "../device/command-recorder.js";
import type { Kernel, Target } from "../kernel.js";
import type { Call, Operand } from "../schedule/call.js";
import type { Fusion } from "../schedule/fusion.js";
import { same } from "../schedule/horizontal-fusion.js";
import { gated } from "./elementwise.js";
import type { Gate } from "./product.js";

/** @param join records two products with their gate, if it can */
export function gatedProducts(
  first: Kernel,
  join: (calls: readonly Call[], recorder: CommandRecorder, target: Target, gate: Gate) => boolean,
): Fusion {
  return {
    first,
    next: gated,
    record(products, opened, recorder, target) {
      const { operands, attributes } = opened[0]!.call;
      const [gate, up, y] = operands;
      const calls = [gate!, up!].flatMap((one) => products.find(({ call }) => isWhole(one, call))?.call ?? []);
      if (opened.length !== 1 || products.length !== 2 || calls.length !== 2 || calls[0] === calls[1]) return false;
      return join(calls, recorder, target, { y: y!, act: attributes[0]! });
    },
  };
}

/** True if an operand is the whole result of a call. */
function isWhole(one: Operand, { operands }: Call): boolean {
  return one.contiguous && same(one, operands.at(-1)!);
}
