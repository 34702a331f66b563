// The gradient tape: while one is open, ops whose inputs depend on a watched tensor add an entry here with the values their
// gradient rule reads. backward.ts walks the entries. Values are identified by their allocation, so views need no entry: the
// gradient of a view is the same view of its allocation's gradient.

import { isFloat } from "../core/dtype.js";
import { GradientError } from "../core/errors.js";
import type { Tensor } from "../core/tensor.js";

/** The input of a gradient rule. */
export interface GradientCall {
  /** Operands in signature order. One omitted by the op's `keeps` has shape and dtype, but no memory. */
  readonly inputs: readonly (Tensor | undefined)[];
  /** Outputs, with the same restriction; for ops that write in place, the operands written. */
  readonly outputs: readonly Tensor[];
  readonly attributes: readonly number[];
  /**
   * f32 gradients of the outputs, contiguous. Missing: the result does not depend on that output. A rule may dispose them when it has read
   * them.
   */
  readonly dy: readonly (Tensor | undefined)[];
  /** Which inputs need gradients. */
  readonly wanted: readonly boolean[];
}

/** Records the gradients of the wanted inputs: f32, contiguous, each of its input's shape. A missing one is an error. */
export type GradientRule = (call: GradientCall) => readonly (Tensor | undefined)[];

/** A call as recorded on the tape. */
export interface TapedCall {
  readonly op: string;
  readonly inputs: readonly (Tensor | undefined)[];
  readonly outputs: readonly Tensor[];
  readonly attributes: readonly number[];
  readonly wanted: readonly boolean[];
  /** Absent: differentiating through the call is an error. */
  readonly gradient: GradientRule | undefined;
  /** Which of `[...inputs, ...outputs]` the rule reads. */
  readonly reads: (operand: number) => boolean;
  /**
   * Computes the outputs again, laid out as they are, from the inputs, which the entry keeps: whoever reads them for a gradient need not
   * keep them. Called while the tape is walked.
   */
  readonly again?: (inputs: readonly (Tensor | undefined)[]) => readonly Tensor[];
  /** Called when the entry is not needed any more. */
  readonly release?: () => void;
}

/** A call on the tape: `inputs` and `outputs` are handles of its own, without memory unless the rule reads them. */
export interface TapeEntry extends Omit<TapedCall, "reads"> {
  /** Path of the module that recorded it. */
  readonly path: string;
  /** Inputs that the rule reads and nobody keeps, by their place among the inputs: each is computed again, as a whole allocation. */
  readonly remade: ReadonlyMap<number, Remade>;
}

/** A value that is computed again. */
interface Remade {
  readonly make: () => Tensor;
  /** Calls in a row that it takes. */
  readonly depth: number;
}

/** Most calls in a row that a value may take: long chains, computed again for each of their links, would take long. */
const DEEPEST = 2;

export class Tape implements Disposable {
  readonly entries: TapeEntry[] = [];
  readonly #watched: readonly Tensor[];
  /** Allocations that depend on a watched tensor. */
  protected readonly tracked = new Set<object>();
  /** Allocations that rules will read. */
  protected readonly kept = new Set<object>();
  /** Allocations that can be computed again. */
  readonly #again = new Map<object, Remade>();
  /** Those of them that were written since: computed again they would be what they were. */
  readonly #overwritten = new WeakSet<object>();
  /** False for a tape that only hears of calls, and is not walked. */
  readonly keeps: boolean = true;
  /** True if calls wait until one of their outputs is used (later.ts). */
  readonly later: boolean;

  /** @param watched f32, f16 or bf16: the tensors to differentiate by */
  constructor(watched: readonly Tensor[], later = false) {
    this.#watched = watched;
    this.later = later;
    for (const tensor of watched) {
      if (!isFloat(tensor.dtype))
        throw new GradientError(`a gradient wants floats to differentiate by, not ${tensor.dtype}`);
      this.tracked.add(tensor.storage);
      this.kept.add(tensor.storage);
    }
  }

  get watched(): readonly Tensor[] {
    return this.#watched;
  }

  /** True if this tensor may have a gradient. */
  tracks(tensor: Tensor | undefined): boolean {
    return tensor !== undefined && this.tracked.has(tensor.storage) && isFloat(tensor.dtype);
  }

  /** @throws GradientError if `tensor` is watched, or a gradient rule still reads its old values */
  checkWrite(op: string, operand: string, tensor: Tensor): void {
    if (this.#again.delete(tensor.storage)) this.#overwritten.add(tensor.storage);
    if (!this.kept.has(tensor.storage)) return;
    throw new GradientError(
      `${op}: operand \`${operand}\` is written in place, and a gradient still needs its values`,
      {
        details: { op, operand },
        hint: "write to a copy, or write after the gradient was taken",
      },
    );
  }

  /** True if a call that only writes to `tensor` is not recorded. */
  mayOverwrite(_tensor: Tensor): boolean {
    return false;
  }

  /** Records a call with a tracked input: its float outputs are tracked from now on. */
  record({ reads, ...call }: TapedCall): void {
    const count = call.inputs.length;
    const remade = new Map<number, Remade>();
    const handle = (tensor: Tensor, operand: number): Tensor => {
      const own = tensor.alias().keep();
      const again = operand < count ? this.#again.get(own.storage) : undefined;
      if (!call.gradient || !reads(operand)) own.dispose();
      else if (again) {
        remade.set(operand, again);
        own.dispose();
      } else this.kept.add(own.storage);
      return own;
    };
    const inputs = call.inputs.map((tensor, i) => tensor && handle(tensor, i));
    const outputs = call.outputs.map((tensor, i) => handle(tensor, count + i));
    for (const tensor of outputs) if (isFloat(tensor.dtype)) this.tracked.add(tensor.storage);
    const entry = { ...call, inputs, outputs, remade, path: call.outputs[0]?.device.path ?? "" };
    this.entries.push(entry);
    this.remember(entry);
  }

  /** Notes which outputs of an entry can be computed again: those that are an allocation of their own. */
  protected remember(entry: TapeEntry): void {
    const { outputs, again, remade } = entry;
    const depth = 1 + Math.max(0, ...[...remade.values()].map((one) => one.depth));
    if (!again || depth > DEEPEST) return;
    for (const [i, { place, strides }] of outputs.entries()) {
      const whole = strides === null && outputs.every((other, at) => at === i || other.storage !== place.storage);
      const size = place.shape.reduce((n, length) => n * length, 1);
      if (!whole || size !== place.capacity || this.#overwritten.has(place.storage)) continue;
      this.#again.set(place.storage, { make: () => again(operandsOf(entry))[i]!, depth });
    }
  }

  /** Forgets what could be computed again. */
  protected forgetAgain(): void {
    this.#again.clear();
  }

  /** Removes the last entry; the caller disposes it. */
  pop(): TapeEntry | undefined {
    return this.entries.pop();
  }

  /** Receives an entry that the backward pass did not reach. */
  leave(entry: TapeEntry): void {
    disposeEntry(entry);
  }

  /** Receives the outputs of an entry that the backward pass has used. */
  use(_entry: TapeEntry): void {}

  /** @throws GradientError if a gradient flows to what can pass it on no more */
  checkFlow(_op: string, _storage: object): void {}

  dispose(): void {
    for (let entry = this.pop(); entry; entry = this.pop()) disposeEntry(entry);
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

/** The inputs of an entry with their memory: kept, or computed again now. */
export function operandsOf({ inputs, remade }: TapeEntry): readonly (Tensor | undefined)[] {
  return inputs.map((input, i) => (input && remade.get(i)?.make().part(input.place)) ?? input);
}

/** Frees what an entry keeps. */
export function disposeEntry({ inputs, outputs, release }: TapeEntry): void {
  for (const tensor of inputs) tensor?.dispose();
  for (const tensor of outputs) tensor.dispose();
  release?.();
}

/** What `taping` opened last, if it is at work: a tape, or none. */
let inner: { readonly tape: Tape | undefined } | undefined;

export const tapes = {
  /** The tape of tensors that require gradients (graph.ts), which ops record to outside of `taping`. */
  graph: undefined as Tape | undefined,

  /** The tape that ops record to, if one is open. */
  get open(): Tape | undefined {
    return inner ? inner.tape : this.graph;
  },
};

/** Runs `body` with `tape` open, or with none. */
export function taping<T>(tape: Tape | undefined, body: () => T): T {
  const before = inner;
  inner = { tape };
  try {
    return body();
  } finally {
    inner = before;
  }
}

/**
 * Records `body` as one call with a gradient rule of its own; the ops inside are not differentiated. `body` receives which of
 * `inputs` need gradients, and returns its outputs and, as `saved`, what the rule reads: these follow `inputs` in the rule's
 * call. The rule may read no other tensor.
 */
export function recordAs(
  op: string,
  inputs: readonly Tensor[],
  gradient: GradientRule,
  body: (wanted: readonly boolean[]) => { readonly outputs: readonly Tensor[]; readonly saved: readonly Tensor[] },
): readonly Tensor[] {
  const tape = tapes.open;
  const wanted = inputs.map((tensor) => tape?.tracks(tensor) ?? false);
  const { outputs, saved } = taping(undefined, () => body(wanted));
  if (tape && wanted.some(Boolean)) {
    const all = [...inputs, ...saved];
    tape.record({
      op,
      inputs: all,
      outputs,
      attributes: [],
      wanted: all.map((_, i) => wanted[i] ?? false),
      gradient,
      reads: (operand) => operand >= inputs.length && operand < all.length,
    });
  }
  return outputs;
}
