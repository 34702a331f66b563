// Gradient checkpointing (Chen et al. 2016): of a block only its input is kept, and the backward pass computes the rest again. What a
// block reads that needs gradients is found out while it runs the first time, with a tape that keeps nothing.

import { isFloat } from "../core/dtype.js";
import { scope, type Tensor } from "../core/tensor.js";
import { walk } from "../ops/backward.js";
import { filled } from "../ops/fill.js";
import { type GradientCall, Tape, type TapedCall, tapes, taping } from "../ops/tape.js";
import { get_rng_state, set_rng_state } from "./init.js";

/** Finds out which values of another tape a body depends on. */
class Probe extends Tape {
  readonly outside = new Set<object>();
  readonly #outer: Tape;

  constructor(outer: Tape) {
    super([]);
    this.#outer = outer;
  }

  override tracks(tensor: Tensor | undefined): boolean {
    return super.tracks(tensor) || this.#outer.tracks(tensor);
  }

  override checkWrite(op: string, operand: string, tensor: Tensor): void {
    this.#outer.checkWrite(op, operand, tensor);
  }

  override record({ inputs, outputs, wanted }: TapedCall): void {
    inputs.forEach((input, i) => {
      if (input && wanted[i] && !this.tracked.has(input.storage)) this.outside.add(input.storage);
    });
    for (const { storage, dtype } of outputs) if (isFloat(dtype)) this.tracked.add(storage);
  }
}

/**
 * Records `body(x)`. With an open tape only `x` and the parameters are kept, and `body` runs once more in the backward pass, with the same
 * random numbers. A body that depends on other values that need gradients is recorded as it is.
 * @param hold keeps what `body` reads beside them until the function that it gives is called
 */
export function checkpointed(x: Tensor, body: (x: Tensor) => Tensor, hold: () => () => void): Tensor {
  const outer = tapes.open;
  if (!outer) return body(x);
  const random = get_rng_state();
  const probe = new Probe(outer);
  const y = taping(probe, () => body(x));
  if (probe.outside.size === 0) return y;
  const leaves = outer.watched.filter(({ storage }) => storage !== x.storage && probe.outside.has(storage));
  const known = new Set([x, ...leaves].map(({ storage }) => storage));
  if ([...probe.outside].some((storage) => !known.has(storage))) {
    y.dispose();
    set_rng_state(random);
    return body(x);
  }
  const gradient = ({ inputs, wanted, dy: [dy] }: GradientCall): readonly (Tensor | undefined)[] =>
    scope(() => {
      using tape = new Tape(inputs.filter((_, i) => wanted[i]) as Tensor[]);
      const before = get_rng_state();
      set_rng_state(random);
      let again: Tensor;
      try {
        again = taping(tape, () => body(inputs[0]!));
      } finally {
        set_rng_state(before);
      }
      const found = [...walk(tape, again, dy)];
      return inputs.map((input, i) =>
        wanted[i] ? (found.shift() ?? filled(input!.device, input!.shape, 0)) : undefined,
      );
    }) as (Tensor | undefined)[];
  const inputs = [x, ...leaves];
  outer.record({
    op: "checkpoint",
    inputs,
    outputs: [y],
    attributes: [],
    wanted: [probe.outside.has(x.storage), ...leaves.map(() => true)],
    gradient,
    reads: (operand) => operand < inputs.length,
    release: hold(),
  });
  return y;
}
