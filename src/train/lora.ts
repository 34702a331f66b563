// LoRA (Hu et al. 2021): a frozen weight plus a trainable product of two thin matrices, as a weight of its own.

import { ShapeError } from "../core/errors.js";
import { scope, type Tensor } from "../core/tensor.js";
import type { FloatDType, MatrixShape, Weight, WeightPart } from "../nn/weight.js";
import { activation } from "../ops/activation.js";
import { add } from "../ops/add.js";
import { contiguous } from "../ops/copy.js";
import { embedding } from "../ops/embedding.js";
import { type LinearOptions, linear, linearBack } from "../ops/linear.js";
import { scale } from "../ops/scale.js";

/** W + scale B A. It owns A and B, but not the base. */
export class LoraWeight implements Weight {
  readonly shape: MatrixShape;
  readonly experts = 1;
  readonly scheme: string;
  readonly base: Weight;
  /** f32[r,K] */
  readonly a: Tensor;
  /** f32[N,r] */
  readonly b: Tensor;
  readonly scale: number;

  /**
   * @param scale alpha / r
   * @throws ShapeError for a stack of experts, or if a[r,K] and b[N,r] do not fit the base
   */
  constructor(base: Weight, a: Tensor, b: Tensor, scale: number) {
    if (base.experts !== 1) throw new ShapeError(`lora: a stack of ${base.experts} experts has no adapter`);
    const [outputs, inputs] = base.shape;
    if (a.shape.length !== 2 || b.shape.length !== 2 || a.shape[1] !== inputs || b.shape[0] !== outputs) {
      throw new ShapeError(
        `lora: [${b.shape.join(", ")}] times [${a.shape.join(", ")}] is not a matrix of [${outputs}, ${inputs}]`,
      );
    }
    if (a.shape[0] !== b.shape[1]) {
      throw new ShapeError(`lora: A has rank ${a.shape[0]}, B has rank ${b.shape[1]}`);
    }
    this.shape = base.shape;
    this.scheme = `${base.scheme} lora`;
    this.base = base;
    this.a = a.keep();
    this.b = b.keep();
    this.scale = scale;
  }

  get trainable(): readonly Tensor[] {
    return [this.a, this.b];
  }

  get tensors(): readonly Tensor[] {
    return [...this.base.tensors, this.a, this.b];
  }

  get nbytes(): number {
    return this.base.nbytes + this.a.nbytes + this.b.nbytes;
  }

  get footprint(): number {
    return this.base.footprint + this.a.nbytes + this.b.nbytes;
  }

  linear(x: Tensor, { bias, residual, act = "none" }: LinearOptions = {}): Tensor {
    return scope(() => {
      const thin = scale(linear(x, this.a), this.scale);
      const plain = act === "none" ? residual : undefined;
      const base = this.base.linear(x, { ...(bias && { bias }), ...(plain && { residual: plain }) });
      const sum = linear(thin, this.b, { residual: base });
      if (act === "none") return sum;
      const y = activation(sum, act);
      return residual ? add(y, residual) : y;
    });
  }

  back(dy: Tensor): Tensor {
    return scope(() => add(this.base.back(dy), linearBack(scale(linearBack(dy, this.b), this.scale), this.a)));
  }

  rows(ids: Tensor): Tensor {
    return scope(() => add(this.base.rows(ids), linearBack(scale(embedding(this.b, ids), this.scale), this.a)));
  }

  dense(dtype: FloatDType): Tensor {
    return scope(() => contiguous(add(this.base.dense("f32"), linearBack(scale(this.b, this.scale), this.a)), dtype));
  }

  /** The base's: adapters are files of their own. */
  parts(name: string, at?: number, rows?: number, values?: FloatDType): Promise<readonly WeightPart[]> {
    return this.base.parts(name, at, rows, values);
  }

  /** Frees A and B. */
  dispose(): void {
    this.a.dispose();
    this.b.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}
