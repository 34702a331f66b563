// A weight that stands in for another one while a model is looked at: everything but its products is the other's.

import type { Tensor } from "../core/tensor.js";
import type { FloatDType, Weight, WeightPart } from "../nn/weight.js";
import type { LinearOptions } from "../ops/linear.js";

/** What happens at a product: it gets the input, the weight that is stood in for, and the options of the call. */
export type Product = (x: Tensor, inner: Weight, options: LinearOptions | undefined) => Tensor;

export class StandIn implements Weight {
  readonly #inner: Weight;
  readonly #product: Product;

  constructor(inner: Weight, product: Product) {
    this.#inner = inner;
    this.#product = product;
  }

  get shape(): Weight["shape"] {
    return this.#inner.shape;
  }

  get experts(): number {
    return this.#inner.experts;
  }

  get scheme(): string {
    return this.#inner.scheme;
  }

  get tensors(): readonly Tensor[] {
    return this.#inner.tensors;
  }

  get trainable(): readonly Tensor[] {
    return this.#inner.trainable;
  }

  get nbytes(): number {
    return this.#inner.nbytes;
  }

  get footprint(): number {
    return this.#inner.footprint;
  }

  linear(x: Tensor, options?: LinearOptions): Tensor {
    return this.#product(x, this.#inner, options);
  }

  rows(ids: Tensor): Tensor {
    return this.#inner.rows(ids);
  }

  dense(dtype: FloatDType): Tensor {
    return this.#inner.dense(dtype);
  }

  async parts(name: string, at?: number, rows?: number, values?: FloatDType): Promise<readonly WeightPart[]> {
    return this.#inner.parts(name, at, rows, values);
  }

  /** The weight below stays. */
  dispose(): void {}

  [Symbol.dispose](): void {}
}
