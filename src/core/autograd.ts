// Where tensors find the recording of gradients (ops/graph.ts), which lies above them. ops/index.ts puts it here.

interface Engine {
  /** From now on, ops that depend on the tensor are recorded. @throws GradientError */
  watch(tensor: unknown): void;
  forget(tensor: unknown): void;
  /** True if something is recorded for the tensor. */
  tracks(tensor: unknown): boolean;
  /** @throws GradientError */
  backward(result: unknown, gradient: unknown): void;
}

export const autograd: { engine: Engine | undefined } = { engine: undefined };
