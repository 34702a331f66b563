// What the backward pass computes again instead of keeping it (gradient checkpointing, Chen et al. 2016): of a body only its input is
// kept, and what it reads besides that needs gradients. That is found out while it runs the first time, with a tape that keeps nothing.
// Computed again, ops wait until a gradient rule reads what they give (ops/later.ts).

import { isFloat } from "../core/dtype.js";
import { scope, Tensor } from "../core/tensor.js";
import { add } from "../ops/add.js";
import { walkFrom } from "../ops/backward.js";
import { contiguous, copyInto } from "../ops/copy.js";
import { filled } from "../ops/fill.js";
import { rowsOf } from "../ops/op.js";
import { type GradientCall, type GradientRule, Tape, type TapedCall, tapes, taping } from "../ops/tape.js";
import { get_rng_state, type RandomState, set_rng_state } from "./init.js";

type Tensors = readonly Tensor[];
type Inputs = readonly (Tensor | undefined)[];

/** Finds out which values of another tape a body depends on. */
class Probe extends Tape {
  override readonly keeps = false;
  readonly outside = new Set<object>();
  readonly #outer: Tape;

  constructor(outer: Tape) {
    super([], outer.later);
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

/** What a body depends on that has gradients: its input, and tensors that are watched. */
interface Sources {
  readonly inputs: Tensors;
  readonly wanted: readonly boolean[];
}

/** Undefined if there is something else, which cannot be told from the input. */
function sourcesOf(outer: Tape, outside: ReadonlySet<object>, x: Tensor): Sources | undefined {
  const leaves = outer.watched.filter(({ storage }) => storage !== x.storage && outside.has(storage));
  const known = new Set([x, ...leaves].map(({ storage }) => storage));
  for (const storage of outside) if (!known.has(storage)) return undefined;
  return { inputs: [x, ...leaves], wanted: [outside.has(x.storage), ...leaves.map(() => true)] };
}

/** Runs `body` with random numbers as they were, which go on afterwards as if it had not run. */
function withRandom<T>(state: RandomState, body: () => T): T {
  const before = get_rng_state();
  set_rng_state(state);
  try {
    return body();
  } finally {
    set_rng_state(before);
  }
}

const zeros = ({ device, shape }: Tensor): Tensor => filled(device, shape, 0);

/** A body that runs once more, under a tape of its own. */
class Rerun {
  readonly #body: (x: Tensor) => Tensors;
  readonly #random: RandomState;
  readonly #wanted: readonly boolean[];
  #made: { readonly tape: Tape; readonly outputs: Tensors } | undefined;

  constructor(body: (x: Tensor) => Tensors, random: RandomState, wanted: readonly boolean[]) {
    this.#body = body;
    this.#random = random;
    this.#wanted = wanted;
  }

  /** What the body gives, which nothing computes before it is used. It lives until `dispose`. */
  outputs(inputs: Inputs): Tensors {
    return this.#run(inputs).outputs;
  }

  #run(inputs: Inputs) {
    if (this.#made) return this.#made;
    const tape = new Tape(inputs.filter((_, i) => this.#wanted[i]) as Tensor[], true);
    try {
      const run = (): Tensors => taping(tape, () => this.#body(inputs[0]!));
      const outputs = withRandom(this.#random, () => scope(run as () => never)) as Tensors;
      for (const one of outputs) one.keep();
      this.#made = { tape, outputs };
      return this.#made;
    } catch (error) {
      tape.dispose();
      throw error;
    }
  }

  /** The gradients of the wanted inputs, by those of the outputs. */
  gradients({ inputs, dy }: Pick<GradientCall, "inputs" | "dy">): Inputs {
    const { tape, outputs } = this.#run(inputs);
    for (const one of outputs) one.dispose(); // where they lay is enough
    const found = [...walkFrom(tape, seeds(outputs, dy), true)];
    return inputs.map((input, i) => (this.#wanted[i] ? (found.shift() ?? zeros(input!)) : undefined));
  }

  dispose(): void {
    this.#made?.tape.dispose();
    for (const one of this.#made?.outputs ?? []) one.dispose();
    this.#made = undefined;
  }
}

/** Outputs with the gradients that they have. */
function seeds(outputs: Tensors, dy: Inputs): (readonly [Tensor, Tensor])[] {
  return outputs.flatMap((output, i) => (dy[i] ? [[output, dy[i]] as const] : []));
}

interface Again {
  /** Keeps what the body reads besides its input until the function that it gives is called. */
  readonly hold: () => () => void;
  /** Those who read the outputs for their gradients do not keep them: they are computed again. */
  readonly outputs?: boolean;
}

/**
 * Records `body(x)`. With an open tape only `x` and the parameters are kept, and `body` runs once more in the backward pass, with the same
 * random numbers. A body that depends on other values that need gradients is recorded as it is.
 */
export function recomputed(x: Tensor, body: (x: Tensor) => Tensors, { hold, outputs: remade = false }: Again): Tensors {
  const outer = tapes.open;
  if (!outer?.keeps) return body(x);
  const random = get_rng_state();
  const probe = new Probe(outer);
  const outputs = taping(probe, () => body(x));
  if (probe.outside.size === 0) return outputs;
  const sources = sourcesOf(outer, probe.outside, x);
  if (!sources) {
    for (const one of outputs) one.dispose();
    set_rng_state(random);
    return body(x);
  }
  const { inputs, wanted } = sources;
  const rerun = new Rerun(body, random, wanted);
  const release = hold();
  outer.record({
    op: "checkpoint",
    inputs,
    outputs,
    attributes: [],
    wanted,
    gradient: (call) => rerun.gradients(call),
    reads: (operand) => operand < inputs.length,
    ...(remade ? { again: (given: Inputs) => rerun.outputs(given) } : {}),
    release: () => {
      rerun.dispose();
      release();
    },
  });
  return outputs;
}

/** `recomputed` of a body with one output. */
export function checkpointed(x: Tensor, body: (x: Tensor) => Tensor, hold: () => () => void): Tensor {
  return recomputed(x, (h) => [body(h)], { hold })[0]!;
}

/** Most elements of one layer's activations in a piece of rows: 4 MB. */
const PIECE = 2 ** 20;

/**
 * Records `body(x)`, of which each row depends on that row of `x` alone: [..,K] -> [..,N]. With an open tape it is `recomputed`, and both
 * passes go through pieces of rows, so that no activation of all rows is in memory. Where `body` draws random numbers there is one piece.
 * @param width features of the widest activation inside
 */
export function recomputedByRows(
  x: Tensor,
  width: number,
  body: (x: Tensor) => Tensor,
  hold: () => () => void,
  most: number = PIECE,
): Tensor {
  const outer = tapes.open;
  const rows = rowsOf(x.shape);
  const pieces = Math.ceil((rows * width) / most);
  if (!outer || pieces < 2) return checkpointed(x, body, hold);
  const step = Math.ceil(rows / pieces);
  const random = get_rng_state();
  const probe = new Probe(outer);
  // While a block is computed again, what this gives may never be read, so it waits as a whole.
  const y = taping(outer.keeps ? probe : outer, () => (outer.later ? body(x) : joined(x, step, body)));
  const sources = sourcesOf(outer, probe.outside, x);
  const fits = sources && sources.inputs.slice(1).reduce((sum, { size }) => sum + size, 0) <= x.size;
  if (!y || !fits || get_rng_state().streams !== random.streams) {
    y?.dispose();
    set_rng_state(random);
    return checkpointed(x, body, hold);
  }
  if (probe.outside.size === 0) return y;
  const { inputs, wanted } = sources;
  outer.record({
    op: "checkpoint",
    inputs,
    outputs: [y],
    attributes: [],
    wanted,
    gradient: byRows(step, body, random, wanted),
    reads: (operand) => operand < inputs.length,
    release: hold(),
  });
  return y;
}

/** Rows as a tensor of their own, whose gradient is no larger than they are: [1,n,K]. */
function piece(x: Tensor, at: number, count: number): Tensor {
  const part = Tensor.empty(x.device, [1, count, x.shape.at(-1)!], x.dtype, "piece");
  copyInto(rowsAt(x, at, count), part);
  return part;
}

function rowsAt(x: Tensor, at: number, count: number): Tensor {
  return contiguous(x).view(1, -1, x.shape.at(-1)!).narrow(1, at, count);
}

/** `body` of each piece of rows, in one tensor; undefined if it draws random numbers. */
function joined(x: Tensor, step: number, body: (x: Tensor) => Tensor): Tensor | undefined {
  const rows = rowsOf(x.shape);
  const { streams } = get_rng_state();
  let all: Tensor | undefined;
  return scope(() => {
    for (let at = 0; at < rows; at += step) {
      const count = Math.min(step, rows - at);
      const out = scope(() => body(piece(x, at, count)));
      if (get_rng_state().streams !== streams) return undefined;
      all ??= Tensor.empty(x.device, [...x.shape.slice(0, -1), out.shape.at(-1)!], out.dtype, "pieces");
      copyInto(out, rowsAt(all, at, count));
      out.dispose();
    }
    return all;
  });
}

/** The rule of a body by pieces of rows; gradients of parameters are summed in the order of the pieces. */
function byRows(
  step: number,
  body: (x: Tensor) => Tensor,
  random: RandomState,
  wanted: readonly boolean[],
): GradientRule {
  return ({ inputs, dy: [dy] }) =>
    scope(() => {
      const x = inputs[0]!;
      const rows = rowsOf(x.shape);
      const dx = wanted[0] ? Tensor.empty(x.device, x.shape, "f32", "gradient") : undefined;
      let sums: Inputs = inputs.map(() => undefined);
      for (let at = 0; at < rows; at += step) {
        const count = Math.min(step, rows - at);
        const next = scope(() => {
          const part = piece(x, at, count);
          const rerun = new Rerun((h) => [body(h)], random, wanted);
          try {
            const found = rerun.gradients({ inputs: [part, ...inputs.slice(1)], dy: [rowsAt(dy!, at, count)] });
            if (dx) copyInto(found[0]!, rowsAt(dx, at, count));
            return found.slice(1).map((one, i) => {
              const sum = sums[i + 1];
              return one && sum ? add(sum, one) : one;
            }) as Tensor[];
          } finally {
            rerun.dispose();
          }
        });
        for (const sum of sums) sum?.dispose();
        sums = [undefined, ...next];
      }
      return [dx, ...sums.slice(1)] as Tensor[];
    });
}
