// Where tensors find the recording of gradients (ops/graph.ts), which lies above them. ops/index.ts puts it here.

import { GradientError } from "./errors.js";

interface Engine {
  /** From now on, ops that depend on the tensor are recorded. @throws GradientError */
  watch(tensor: unknown): void;
  forget(tensor: unknown): void;
  /** True if something is recorded for the tensor. */
  tracks(tensor: unknown): boolean;
  /** Called before the host writes to a tensor. @throws GradientError if a gradient still needs its values */
  checkWrite(call: string, tensor: unknown): void;
  /** @throws GradientError */
  backward(result: unknown, gradient: unknown): void;
}

export const autograd: { engine: Engine | undefined } = { engine: undefined };

/** @throws GradientError while no ops are there that could be recorded */
export function theEngine(): Engine {
  if (autograd.engine) return autograd.engine;
  throw new GradientError("gradients need the ops, which are loaded with the first device", {
    hint: 'openDevice("cpu") loads them',
  });
}
