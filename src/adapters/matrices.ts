// What adapters do with a model's matrices: who uses one, whether it can be changed, floats in the place of what is stored, matrices side
// by side.

import { OctavoError } from "../core/errors.js";
import { scope, Tensor } from "../core/tensor.js";
import type { Architecture } from "../nn/architecture.js";
import type { Model } from "../nn/model.js";
import { Embedding, Matrix, type Module } from "../nn/module.js";
import { type Scheme, storeRows, type Weight } from "../nn/weight.js";
import { copyInto } from "../ops/copy.js";
import type { Role } from "./weight.js";

/** A module that uses a matrix, and for what. */
export interface User {
  readonly path: string;
  readonly role: Role;
}

export function roleOf(module: Module): Role {
  return module instanceof Embedding ? "lookup" : "product";
}

/** True for a matrix that files store as [inputs, outputs]. */
export function isTransposed({ names }: Architecture, name: string): boolean {
  return names.some((rule) => "transposed" in rule && rule.transposed.test(name));
}

/** The modules that use each matrix of a model. */
export function usersOf(model: Model): ReadonlyMap<Matrix, readonly User[]> {
  const users = new Map<Matrix, User[]>();
  for (const [path, module] of model.named_modules()) {
    const { weight } = module as { weight?: unknown };
    if (weight instanceof Matrix) users.set(weight, [...(users.get(weight) ?? []), { path, role: roleOf(module) }]);
  }
  return users;
}

/**
 * Checks that what is stored of matrices can become something else.
 * @param why a matrix that several modules use may not, such as "an adapter of one is not merged"
 * @param alike a matrix all of whose users change in the same way
 * @throws OctavoError for such a matrix, and for kinds of codes that nothing is quantized to
 */
export function checkChangeable(
  model: Model,
  matrices: Iterable<Matrix>,
  why: string,
  alike?: (matrix: Matrix) => boolean,
): void {
  const users = usersOf(model);
  for (const matrix of matrices) {
    const paths = (users.get(matrix) ?? []).map(({ path }) => path);
    if (paths.length > 1 && !alike?.(matrix))
      throw new OctavoError("ERR_UNSUPPORTED", `${paths.join(" and ")} share a matrix: ${why}`);
    if (matrix.inner!.alike) continue;
    throw new OctavoError(
      "ERR_UNSUPPORTED",
      `${paths[0]} is stored as ${matrix.inner!.scheme}, to which nothing is quantized`,
      { hint: "dequantize() turns it into floats, which adapters can change" },
    );
  }
}

/** `rows`, f32[N,K], stored as a weight is. @throws OutOfMemoryError */
export function storedAs(like: Weight, rows: Tensor, label: string): Weight {
  return storeRows(like.alike as Scheme, rows, label, like.experts);
}

/** Matrices f32 one beside the other along a dim. */
export function side(list: readonly Tensor[], dim: number): Tensor {
  return scope(() => {
    const [first] = list;
    const sizes = list.map(({ shape }) => shape[dim]!);
    const shape = first!.shape.with(
      dim,
      sizes.reduce((all, size) => all + size, 0),
    );
    const all = Tensor.empty(first!.device, shape, "f32", "adapter");
    let at = 0;
    for (const [i, one] of list.entries()) {
      copyInto(one, all.narrow(dim, at, sizes[i]!));
      at += sizes[i]!;
    }
    return all;
  });
}
