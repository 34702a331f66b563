// The backward pass over a tape: gradients flow from the result to the watched tensors. There is one gradient per
// allocation, f32 and laid out like it; a view reads and adds to the same view of it.

import type { Device } from "../core/device.js";
import { isFloat } from "../core/dtype.js";
import { GradientError } from "../core/errors.js";
import { type Place, rowStrides, scope, Tensor } from "../core/tensor.js";
import { add } from "./add.js";
import { contiguous, copyInto } from "./copy.js";
import { filled, fillInto } from "./fill.js";
import { sumRows } from "./sum-rows.js";
import { disposeEntry, operandsOf, type Tape, type TapeEntry, taping } from "./tape.js";

/** The gradient of an allocation so far. */
interface Held {
  /** f32 [capacity] */
  readonly flat: Tensor;
  /** False while its memory may belong to another gradient too. */
  readonly own: boolean;
}

/** Gradients lie on the devices of what they belong to. */
class Gradients implements Disposable {
  readonly #held = new Map<object, Held>();

  /** The gradient at a place, contiguous and never changed by later additions; undefined if nothing has reached it. */
  of(place: Place): Tensor | undefined {
    const held = this.#held.get(place.storage);
    if (!held) return undefined;
    if (orderOf(place) === "as stored") return held.flat.view(...place.shape);
    const copy = emptyLike(held.flat, place.shape);
    copyInto(held.flat.part(place), copy);
    return copy;
  }

  /** Adds `d`, f32 and contiguous, to the gradient at a place. */
  add(at: Place, d: Tensor): void {
    const [place, sum] = withoutRepeats(at, d);
    const { storage, capacity } = place;
    const order = orderOf(place);
    if (order === undefined) {
      const split = overlapping(place);
      if (split !== undefined) {
        for (const [slice, part] of slices(place, sum, split)) this.add(slice, part);
        return;
      }
      const region = this.#own(place, d.device).part(place);
      copyInto(add(contiguous(region), sum), region);
      return;
    }
    const flat = (order === "as stored" ? sum : contiguous(sum.permute(...order))).view(capacity);
    const held = this.#held.get(storage);
    if (held) this.#replace(storage, add(held.flat, flat), true);
    else this.#replace(storage, flat, false);
  }

  /** Clears the gradient at a place whose values were produced by the call just processed. */
  clear(place: Place): void {
    const held = this.#held.get(place.storage);
    if (!held) return;
    if (orderOf(place) === undefined) {
      fillInto(this.#own(place, held.flat.device).part(place), 0);
      return;
    }
    held.flat.dispose();
    this.#held.delete(place.storage);
  }

  /** The gradient of an allocation in writable memory. */
  #own({ storage, capacity }: Place, device: Device): Tensor {
    const held = this.#held.get(storage);
    if (held?.own) return held.flat;
    if (!held) return this.#replace(storage, filled(device, [capacity], 0), true);
    const copy = emptyLike(held.flat, [capacity]);
    copyInto(held.flat, copy);
    return this.#replace(storage, copy, true);
  }

  #replace(storage: object, flat: Tensor, own: boolean): Tensor {
    const kept = flat.alias().keep();
    this.#held.get(storage)?.flat.dispose();
    this.#held.set(storage, { flat: kept, own });
    return kept;
  }

  [Symbol.dispose](): void {
    for (const { flat } of this.#held.values()) flat.dispose();
    this.#held.clear();
  }
}

function emptyLike({ device }: Tensor, shape: readonly number[]): Tensor {
  return Tensor.empty(device, shape, "f32", "gradient");
}

/**
 * The permutation of a place's dims that gives its whole allocation in order; "as stored" if none is needed, undefined if
 * the place is only a part of the allocation.
 */
function orderOf({ shape, strides, first, capacity }: Place): readonly number[] | "as stored" | undefined {
  const size = shape.reduce((n, length) => n * length, 1);
  if (first !== 0 || size !== capacity) return undefined;
  if (!strides) return "as stored";
  const order = shape.map((_, d) => d).sort((a, b) => strides[b]! - strides[a]! || shape[b]! - shape[a]!);
  const stored = rowStrides(order.map((d) => shape[d]!));
  return order.every((d, i) => shape[d] === 1 || strides[d] === stored[i]) ? order : undefined;
}

/**
 * The dim along which a place is cut if some of its elements lie in the same memory (windows that overlap); undefined if none
 * do. It is the shortest of those that overlap.
 */
function overlapping({ shape, strides }: Place): number | undefined {
  if (!strides) return undefined;
  const dims = shape.map((_, dim) => dim).filter((dim) => shape[dim]! > 1);
  dims.sort((a, b) => strides[a]! - strides[b]!);
  let extent = 1;
  for (const [i, dim] of dims.entries()) {
    if (strides[dim]! < extent) return dims.slice(0, i + 1).sort((a, b) => shape[a]! - shape[b]!)[0];
    extent += (shape[dim]! - 1) * strides[dim]!;
  }
  return undefined;
}

/** The elements of a place along a dim, each with its gradient. */
function* slices(place: Place, d: Tensor, dim: number): Iterable<[Place, Tensor]> {
  const { shape, strides, first } = place;
  for (let i = 0; i < shape[dim]!; i++) {
    const slice = { ...place, shape: shape.with(dim, 1), first: first + i * strides![dim]! };
    yield [slice, contiguous(d.narrow(dim, i, 1))];
  }
}

/** A place without its stride-zero dims, and the gradient summed over them. */
function withoutRepeats(at: Place, d: Tensor): readonly [place: Place, sum: Tensor] {
  const { strides, shape } = at;
  const repeats = shape.map((size, dim) => size > 1 && strides !== null && strides[dim] === 0);
  if (!repeats.includes(true)) return [at, d];
  const once = shape.map((size, dim) => (repeats[dim] ? 1 : size));
  const dims = shape.map((_, dim) => dim);
  const order = [...dims.filter((dim) => repeats[dim]), ...dims.filter((dim) => !repeats[dim])];
  const rest = once.reduce((n, size) => n * size, 1);
  return [{ ...at, shape: once }, sumRows(contiguous(d.permute(...order)).view(-1, rest)).view(...once)];
}

/** False if no gradient reaches the entry. */
function step(tape: Tape, entry: TapeEntry, gradients: Gradients, watched: ReadonlySet<object>): boolean {
  const { op, inputs, outputs, attributes, wanted, gradient, path } = entry;
  const dy = outputs.map((output) => (isFloat(output.dtype) ? gradients.of(output.place) : undefined));
  if (dy.every((one) => one === undefined)) return false;
  const where = path ? ` in ${path}` : "";
  if (!gradient) {
    throw new GradientError(`${op}${where}: this op has no gradient`, { details: { op, module: path } });
  }
  inputs.forEach((input, i) => void (input && wanted[i] && tape.checkFlow(op, input.storage)));
  for (const output of outputs) if (!watched.has(output.storage)) gradients.clear(output.place);
  const found = gradient({ inputs: operandsOf(entry), outputs, attributes, dy, wanted });
  inputs.forEach((input, i) => {
    if (!input || !wanted[i]) return;
    const d = found[i];
    if (!d) {
      throw new GradientError(`${op}${where}: this op has no gradient by operand ${i + 1}`, {
        details: { op, module: path, operand: i },
      });
    }
    gradients.add(input.place, d);
  });
  return true;
}

/** Sets the module path of the recorded gradients, for errors and leak reports. */
function at<T>(device: Device, path: string, body: () => T): T {
  const before = device.enter(path);
  try {
    return body();
  } finally {
    device.enter(before);
  }
}

/**
 * Records the gradients of `result` by the tensors that `tape` watches: f32, of their shapes. Takes the entries off the tape, and
 * frees what they kept on the way.
 * @param seed the gradient by the result; 1 if it is left out, for a result of one number
 * @returns undefined for a tensor on which the result does not depend
 * @throws GradientError if the result depends on no watched tensor, or an op in between has no rule
 */
export function walk(tape: Tape, result: Tensor, seed?: Tensor): readonly (Tensor | undefined)[] {
  if (seed === undefined && result.size !== 1) {
    throw new GradientError(`a gradient needs a result of one number, got shape [${result.shape.join(", ")}]`);
  }
  if (!tape.tracks(result)) throw new GradientError("the result does not depend on the tensors to differentiate by");
  return walkFrom(tape, [[result, seed]]);
}

/**
 * `walk` from several results at once, each with its gradient; those that depend on no watched tensor do not count.
 * @param spent the seeds are disposed as soon as they are used
 */
export function walkFrom(
  tape: Tape,
  results: readonly (readonly [result: Tensor, seed: Tensor | undefined])[],
  spent = false,
): readonly (Tensor | undefined)[] {
  const watched = new Set(tape.watched.map(({ storage }) => storage));
  return taping(undefined, () =>
    scope(() => {
      using gradients = new Gradients();
      for (const [result, seed] of results) {
        if (!tape.tracks(result)) continue;
        tape.checkFlow("backward", result.storage);
        scope(() =>
          gradients.add(result.place, seed ? contiguous(seed, "f32") : filled(result.device, result.shape, 1)),
        );
        if (spent) seed?.dispose();
      }
      for (let entry = tape.pop(); entry; entry = tape.pop()) {
        const taken = entry;
        let reached = true;
        try {
          const own = taken.outputs[0]!.device;
          at(own, taken.path, () => scope(() => void (reached = step(tape, taken, gradients, watched))));
        } finally {
          // One that failed is used up as well: what it gave must not pass as a constant.
          if (reached) {
            tape.use(taken);
            disposeEntry(taken);
          } else tape.leave(taken);
        }
      }
      return tape.watched.map((leaf) => gradients.of(leaf.place));
    }),
  );
}

/** `walk` from a result of one number, with zeros for what it does not depend on. @throws as `walk` */
export function backward(tape: Tape, result: Tensor): readonly Tensor[] {
  return scope(() =>
    walk(tape, result).map((found, i) => {
      const { device, shape } = tape.watched[i]!;
      return found ?? filled(device, shape, 0);
    }),
  );
}
