// The value of a function and its gradients, recorded in one go.

import { scope, type Tensor } from "../core/tensor.js";
import { backward } from "../ops/backward.js";
import { Tape, taping } from "../ops/tape.js";

export interface ValueAndGradients {
  /** What the function returned. */
  readonly value: Tensor;
  /** f32, one for each tensor that was asked for, of its shape. */
  readonly gradients: readonly Tensor[];
}

/**
 * Records `body`, which returns one number on the device, and its gradients by `by` (f32, f16 or bf16 tensors that outlive
 * it). Only what depends on `by` is kept for the way back. Nothing waits; what is returned belongs to the open scope.
 * Inside another call of this, the outer one sees value and gradients as constants.
 * @throws GradientError if the value does not depend on `by`, an op on the way has no gradient, or values that are still
 * needed are written in place
 */
export function valueAndGradients(by: readonly Tensor[], body: () => Tensor): ValueAndGradients {
  return scope(() => {
    using tape = new Tape(by);
    const value = taping(tape, body);
    return { value, gradients: backward(tape, value) };
  });
}
