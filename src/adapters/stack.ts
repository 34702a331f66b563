// Adapters over stacks of experts (`target_parameters` of PEFT): a pair of thin matrices for each expert. Files hold those of all experts
// in one A[E*r,K] and one B[N,r*E], the ranks of B in the outer order. A stack that files of transformers fuse with another one (gates and
// ups) shares A with it, and has its own rows of B.

import { ShapeError } from "../core/errors.js";
import { scope, Tensor } from "../core/tensor.js";
import type { Parameter } from "../nn/parameter.js";
import {
  chosenExperts,
  type FloatDType,
  type MatrixShape,
  type Scheme,
  type Weight,
  type WeightPart,
} from "../nn/weight.js";
import { activation } from "../ops/activation.js";
import { add } from "../ops/add.js";
import { contiguous, copyInto } from "../ops/copy.js";
import { expertLinear } from "../ops/experts.js";
import { type LinearOptions, linearBack } from "../ops/linear.js";
import { scale } from "../ops/scale.js";
import type { Choice } from "./choice.js";

/** Products of two thin matrices over the matrices of a stack W[E,N,K]. */
export interface StackLayer {
  readonly kind: "stack";
  /** f32[E*r,K] */
  readonly a: Parameter;
  /** f32[.., r*E]: the rows of this stack are `at` to `at + N`. */
  readonly b: Parameter;
  readonly at: number;
  readonly experts: number;
  readonly scale: number;
}

/** A as [E,r,K], and the rows of B that are the stack's as [E,N,r]; call it in a scope. */
function factors({ a, b, at, experts }: StackLayer, outputs: number): readonly [a: Tensor, b: Tensor] {
  const rank = a.shape[0]! / experts;
  const all = b.value.view(b.shape[0]!, rank, experts);
  return [a.value.view(experts, rank, a.shape[1]!), contiguous(all.narrow(0, at, outputs).permute(2, 0, 1))];
}

/** A stack with adapters over it. */
export class AdaptedStack implements Weight {
  readonly shape: MatrixShape;
  readonly experts: number;
  #base: Weight;
  readonly #choice: Choice;
  readonly #layers = new Map<string, StackLayer>();

  constructor(base: Weight, choice: Choice) {
    this.shape = base.shape;
    this.experts = base.experts;
    this.#base = base;
    this.#choice = choice;
  }

  /** Adds a layer, which the caller owns. @throws ShapeError if it does not fit */
  set(name: string, layer: StackLayer): void {
    const [rows, columns] = this.shape;
    const [ranks = 0, inputs = 0] = layer.a.shape;
    const fits = inputs === columns && ranks % this.experts === 0 && layer.b.shape[1] === ranks;
    if (!fits || layer.at + rows / this.experts > layer.b.shape[0]!) {
      throw new ShapeError(
        `an adapter [${layer.b.shape.join(", ")}] times [${layer.a.shape.join(", ")}] does not fit ${this.experts} experts of [${rows / this.experts}, ${columns}]`,
      );
    }
    this.#layers.set(name, layer);
  }

  /** Takes the layer of an adapter away. @returns whether any other is left */
  remove(name: string): boolean {
    this.#layers.delete(name);
    return this.#layers.size > 0;
  }

  get base(): Weight {
    return this.#base;
  }

  rebase(base: Weight): void {
    this.#base = base;
  }

  get scheme(): string {
    return this.#base.scheme;
  }

  get compute(): Weight["compute"] {
    return this.#base.compute;
  }

  get alike(): Scheme | undefined {
    return this.#base.alike;
  }

  /** The base's, as all that a checkpoint of the model holds: adapters are files of their own. */
  get tensors(): readonly Tensor[] {
    return this.#base.tensors;
  }

  get trainable(): readonly Tensor[] {
    return this.#working().flatMap(({ a, b }) => [a.value, b.value]);
  }

  get nbytes(): number {
    return this.#base.nbytes;
  }

  get footprint(): number {
    return this.#base.footprint;
  }

  async statistics(): Promise<Readonly<Record<string, number>>> {
    return (await this.#base.statistics?.()) ?? {};
  }

  linear(x: Tensor, options?: LinearOptions): Tensor {
    const working = this.#working();
    if (working.length === 0) return this.#base.linear(x, options);
    const { experts, bias, act = "none" } = chosenExperts(options);
    return scope(() => {
      let sum = this.#base.linear(x, { experts, ...(bias && { bias }) });
      for (const layer of working) {
        const [a, b] = factors(layer, this.shape[0] / this.experts);
        const thin = scale(expertLinear(x, a, { experts }), layer.scale);
        sum = add(sum, expertLinear(thin, b, { experts }));
      }
      return act === "none" ? sum : activation(sum, act);
    });
  }

  rows(ids: Tensor): Tensor {
    return this.#base.rows(ids);
  }

  dense(dtype: FloatDType): Tensor {
    const working = this.#working();
    if (working.length === 0) return this.#base.dense(dtype);
    return scope(() => {
      let rows = this.#base.dense("f32");
      for (const layer of working) rows = add(rows, stackDelta(layer, this.shape));
      return contiguous(rows, dtype);
    });
  }

  parts(name: string, at?: number, rows?: number, values?: FloatDType): Promise<readonly WeightPart[]> {
    return this.#base.parts(name, at, rows, values);
  }

  /** Its layers and its base belong to others. */
  dispose(): void {}

  [Symbol.dispose](): void {}

  /** The layers at work. Rows with adapters of their own have none of these (`Adapters.perRow`). */
  #working(): StackLayer[] {
    const { active, enabled, merged, rows } = this.#choice;
    if (!enabled || rows) return [];
    return active.flatMap((name) => {
      const layer = this.#layers.get(name);
      return layer && !merged.has(name) ? [layer] : [];
    });
  }
}

/** s B A of each expert, f32[E*N,K]. */
export function stackDelta(layer: StackLayer, [rows, columns]: MatrixShape): Tensor {
  const { experts } = layer;
  return scope(() => {
    const each = rows / experts;
    const [a, b] = factors(layer, each);
    const all = Tensor.empty(a.device, [rows, columns], "f32", "adapter");
    for (let e = 0; e < experts; e++) {
      scope(() => {
        const delta = linearBack(scale(b.select(0, e), layer.scale), a.select(0, e));
        copyInto(delta, all.narrow(0, e * each, each));
      });
    }
    return all;
  });
}
