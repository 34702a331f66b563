// What an optimizer changes: a tensor, or an object that holds one and its gradient.

import { isList, listOf } from "../../core/checks.js";
import { Tensor } from "../../core/tensor.js";

export { Parameter } from "../../nn/module.js";

/** An object with a tensor, and beside it the gradient for the next step. */
export interface Trainable {
  readonly value?: Tensor;
  readonly data?: Tensor;
  /** In the shape of the tensor, in any float dtype; without one the parameter stays as it is. */
  grad?: Tensor | null | undefined;
}

/** What an optimizer takes: such an object, or the tensor itself, whose gradients are then given to `step`. */
export type Trained = Tensor | Trainable;

/** The tensor of a parameter; undefined for what is none. */
export function tensorOf(trained: unknown): Tensor | undefined {
  if (Tensor.is(trained)) return trained;
  if (typeof trained !== "object" || trained === null) return undefined;
  try {
    const { value, data } = trained as Trainable;
    return Tensor.is(value) ? value : Tensor.is(data) ? data : undefined;
  } catch {
    return undefined; // a proxy, or a parameter that is only declared
  }
}

/** A copy of a list of so many gradients, any of which may be missing; undefined for anything else. */
export function gradientsOf(given: unknown, count: number): (Tensor | null | undefined)[] | undefined {
  try {
    // The length first: a list may claim any.
    if (!isList(given) || given.length !== count) return undefined;
  } catch {
    return undefined; // a proxy
  }
  return listOf(given, (one): one is Tensor | null | undefined => one === undefined || one === null || Tensor.is(one));
}

/** The gradient that a parameter holds, unchecked. */
export function gradOf(param: Trained): unknown {
  try {
    return (param as Trainable).grad;
  } catch {
    return undefined; // a proxy
  }
}

/** Parameters that an optimizer takes at most: a generator may have no end. */
const MOST = 1 << 20;

/** Lists as they are, and what else can be walked (a Set of parameters, a generator) as one. */
export function listFrom(params: unknown): unknown {
  try {
    if (params instanceof Map) return [...params.values()];
    if (isList(params) || typeof params !== "object" || params === null || !(Symbol.iterator in params)) return params;
    const all: unknown[] = [];
    for (const one of params as Iterable<unknown>) {
      if (all.push(one) > MOST) return params;
    }
    return all;
  } catch {
    return params; // a proxy: refused as no list
  }
}
