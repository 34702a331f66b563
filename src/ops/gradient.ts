// The value of a function and its gradients, recorded in one call.

import { scope, type Tensor } from "../core/tensor.js";
import { backward } from "./backward.js";
import { Tape, taping } from "./tape.js";

export interface ValueAndGradients {
  /** The function's result. */
  readonly value: Tensor;
  /** f32, one per tensor in `by`, with its shape. */
  readonly gradients: readonly Tensor[];
}

/**
 * Records `body`, which returns one number on the device, and its gradients by `by` (f32, f16 or bf16 tensors that outlive
 * it). Only values that depend on `by` are kept for the backward pass. Nothing waits; the results belong to the open scope.
 * In a nested call, the outer one sees value and gradients as constants.
 * @throws GradientError if the value does not depend on `by`, an op in between has no gradient, or values that are still
 * needed are written in place
 */
export function valueAndGradients(by: readonly Tensor[], body: () => Tensor): ValueAndGradients {
  return scope(() => {
    using tape = new Tape(by);
    const value = taping(tape, body);
    return { value, gradients: backward(tape, value) };
  });
}
