// Gradients as Python takes them: tensors ask for one (`requires_grad_`), ops that depend on them are recorded on one tape that
// stays open, and `backward` of a result uses up what was recorded for it. What was recorded for results that nobody holds any
// more is dropped, so passes without `backward` leave no memory behind.

import { isFunction } from "../core/checks.js";
import { GradientError, OptionError } from "../core/errors.js";
import { refusePromise } from "../core/recording.js";
import { shapeText, show } from "../core/show.js";
import type { Storage } from "../core/storage.js";
import { scope, Tensor } from "../core/tensor.js";
import { add } from "./add.js";
import { walk } from "./backward.js";
import { contiguous, copyInto } from "./copy.js";
import { beforeWrite } from "./later.js";
import { disposeEntry, Tape, type TapedCall, type TapeEntry, tapes, taping } from "./tape.js";

/** Entries between two searches for those that nobody needs, at least. */
const SOME = 64;

class Graph extends Tape {
  readonly #leaves: Tensor[] = [];
  /** Allocations whose entries an earlier `backward` has used up. */
  readonly #used = new WeakSet<object>();
  #using: object[] = [];
  #left: TapeEntry[] = [];
  #search = SOME;

  constructor() {
    super([]);
  }

  override get watched(): readonly Tensor[] {
    return this.#leaves;
  }

  watch(tensor: Tensor): void {
    if (this.tracked.has(tensor.storage) && !this.#isLeaf(tensor.storage)) {
      throw new GradientError("requires_grad_: the tensor was computed from others that require gradients", {
        hint: "ask for the gradients of those, or make it within no_grad()",
      });
    }
    this.#leaves.push(tensor);
    this.tracked.add(tensor.storage);
  }

  forget(tensor: Tensor): void {
    const at = this.#leaves.indexOf(tensor);
    if (at >= 0) this.#leaves.splice(at, 1);
    this.#prune();
  }

  /** Results that are used up count: what is computed from them must not pass as a constant. */
  override tracks(tensor: Tensor | undefined): boolean {
    return super.tracks(tensor) || (tensor !== undefined && this.#used.has(tensor.storage));
  }

  override checkWrite(op: string, operand: string, tensor: Tensor): void {
    if (this.kept.has(tensor.storage)) this.#prune(); // who needed it may be gone
    super.checkWrite(op, operand, tensor);
  }

  /** Updates of parameters are no part of the graph. */
  override mayOverwrite(tensor: Tensor): boolean {
    return this.#isLeaf(tensor.storage);
  }

  #isLeaf(storage: object): boolean {
    return this.#leaves.some((leaf) => leaf.storage === storage);
  }

  override record(call: TapedCall): void {
    super.record(call);
    if (this.entries.length >= this.#search) this.#prune();
  }

  override leave(entry: TapeEntry): void {
    this.#left.push(entry);
  }

  override use({ outputs }: TapeEntry): void {
    for (const { storage } of outputs) if (!this.#isLeaf(storage)) this.#using.push(storage);
  }

  override checkFlow(op: string, storage: object): void {
    if (!this.#used.has(storage)) return;
    throw new GradientError(`${op}: an earlier backward() has used up what was recorded for a value`, {
      hint: "add the results, and call backward() once",
    });
  }

  backward(result: Tensor, gradient: Tensor | undefined): void {
    if (gradient && shapeText(gradient.shape) !== shapeText(result.shape)) {
      throw new GradientError(
        `backward: the gradient of ${shapeText(result.shape)} has that shape, not ${shapeText(gradient.shape)}`,
      );
    }
    if (!gradient && result.size !== 1) {
      throw new GradientError(`backward: a result of shape ${shapeText(result.shape)} needs a gradient of that shape`);
    }
    if (!this.tracks(result))
      throw new GradientError("backward: the result depends on no tensor that requires a gradient");
    try {
      taping(undefined, () =>
        scope(() => {
          for (const [i, found] of walk(this, result, gradient).entries()) {
            const leaf = this.#leaves[i]!;
            if (found) leaf.grad = leaf.grad ? add(leaf.grad, found) : copyOf(found);
          }
        }),
      );
    } finally {
      this.entries.push(...this.#left.reverse());
      for (const storage of this.#using) this.#used.add(storage);
      this.#left = [];
      this.#using = [];
      this.#settle();
    }
  }

  drop(): void {
    this.#prune();
  }

  /** Drops entries whose outputs nobody holds, and that no later entry needs. */
  #prune(): void {
    const own = new Map<object, number>();
    for (const { inputs, outputs } of this.entries) {
      for (const tensor of [...inputs, ...outputs]) {
        if (tensor?.alive) own.set(tensor.storage, (own.get(tensor.storage) ?? 0) + 1);
      }
    }
    const held = (storage: object): boolean => (storage as Storage).references > (own.get(storage) ?? 0);
    const needed = new Set<object>();
    const live: TapeEntry[] = [];
    const dead: TapeEntry[] = [];
    for (const entry of this.entries.splice(0).reverse()) {
      const needs = entry.outputs.some(({ storage }) => needed.has(storage) || held(storage));
      (needs ? live : dead).push(entry);
      if (needs) entry.inputs.forEach((input, i) => void (input && entry.wanted[i] && needed.add(input.storage)));
    }
    this.entries.push(...live.reverse());
    for (const entry of dead) disposeEntry(entry);
    this.#settle();
  }

  /** What is tracked and kept, of the entries that are there. */
  #settle(): void {
    this.#search = Math.max(SOME, 2 * this.entries.length);
    this.tracked.clear();
    this.kept.clear();
    this.forgetAgain();
    for (const { storage } of this.#leaves) this.tracked.add(storage);
    for (const entry of this.entries) {
      const { inputs, outputs } = entry;
      this.remember(entry);
      for (const { storage } of outputs) this.tracked.add(storage);
      for (const tensor of [...inputs, ...outputs]) if (tensor?.alive) this.kept.add(tensor.storage);
    }
    if (this.#leaves.length === 0 && this.entries.length === 0) tapes.graph = undefined;
  }
}

function copyOf(x: Tensor): Tensor {
  const y = contiguous(x);
  if (y !== x) return y;
  const own = Tensor.empty(x.device, x.shape, x.dtype, "gradient");
  copyInto(x, own);
  return own;
}

const graph = new Graph();

/** What `requires_grad_` and `backward` of tensors do. */
export const GRAPH = {
  watch(tensor: unknown): void {
    graph.watch(tensor as Tensor);
    tapes.graph = graph;
  },
  forget: (tensor: unknown): void => graph.forget(tensor as Tensor),
  tracks: (tensor: unknown): boolean => graph.tracks(tensor as Tensor),
  checkWrite: (call: string, tensor: unknown): void => {
    tapes.open?.checkWrite(call, "this", tensor as Tensor);
    beforeWrite(tensor as Tensor);
  },
  backward: (result: unknown, gradient: unknown): void =>
    graph.backward(result as Tensor, gradient as Tensor | undefined),
};

/** Drops what was recorded for results that nobody holds, such as those of a pass that failed. It happens now and then by itself. */
export function dropUnheld(): void {
  graph.drop();
}

/**
 * Runs `body`; nothing in it is recorded for gradients.
 * @throws OptionError for a body that is no function or asynchronous
 */
export function no_grad<T>(body: () => T extends Promise<unknown> ? never : T): T {
  if (!isFunction(body)) throw new OptionError(`no_grad: body must be a function, got ${show(body)}`);
  const result: T = taping(undefined, body);
  refusePromise("no_grad", result);
  return result;
}
