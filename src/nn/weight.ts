// A Weight is a stored matrix that can be multiplied with: the one thing quantization schemes differ in. A Scheme makes
// weights from rows that arrive a few at a time, so that nobody ever holds a matrix twice.

import type { Device } from "../core/device.js";
import { scope, Tensor } from "../core/tensor.js";
import { contiguous, copyInto } from "../ops/copy.js";
import { embedding } from "../ops/embedding.js";
import { type Compute, type LinearOptions, linear, linearBack } from "../ops/linear.js";
import { pack, unpack } from "../ops/pack.js";

/** Shape of a matrix: outputs (N) by inputs (K). */
export type MatrixShape = readonly [outputs: number, inputs: number];
export type FloatDType = "f32" | "f16" | "bf16";

export interface Weight extends Disposable {
  readonly shape: MatrixShape;
  /** Name of the scheme that made it: "dense", "llm_int8", "nf4", "fp4". */
  readonly scheme: string;
  /** What it holds on the device: the matrix, and what belongs to it. */
  readonly tensors: readonly Tensor[];
  /** What of it a gradient can be asked of: floats. Empty for codes, which stay frozen. */
  readonly trainable: readonly Tensor[];
  /** Bytes it takes on the device, statistics and padding included. */
  readonly nbytes: number;
  /** Bytes as `get_memory_footprint` of transformers counts them: the codes alone. */
  readonly footprint: number;
  /** Records `act(x · Wᵀ + bias) + residual`. */
  linear(x: Tensor, options?: LinearOptions): Tensor;
  /** Records `dy · W`, the gradient of `x · Wᵀ` by x: [..,N] -> [..,K]. No decoded matrix in between. */
  back(dy: Tensor): Tensor;
  /** Records a look-up of rows. */
  rows(ids: Tensor): Tensor;
  /** Records the matrix as contiguous rows in `dtype`. */
  dense(dtype: FloatDType): Tensor;
  dispose(): void;
}

/** A weight under construction: rows come in order, `finish` gives the weight. */
export interface WeightBuilder extends Disposable {
  /** Rows per `put` must be a multiple of this (the last one may be short). */
  readonly granularity: number;
  /** Records taking in `rows[n,K]` (any float dtype) as rows `at` .. `at + n`. */
  put(rows: Tensor, at: number): void;
  finish(): Weight;
}

/** How a matrix is to be stored. */
export interface Scheme {
  readonly name: string;
  /** Bytes that a matrix takes, for plans. */
  bytes(shape: MatrixShape): number;
  begin(device: Device, shape: MatrixShape, label: string): WeightBuilder;
}

class DenseWeight implements Weight {
  readonly shape: MatrixShape;
  readonly scheme = "dense";
  readonly #data: Tensor;
  readonly #compute: Compute;

  constructor(data: Tensor, compute: Compute) {
    this.#data = data.keep();
    this.#compute = compute;
    this.shape = data.shape as MatrixShape;
  }

  get tensors(): readonly Tensor[] {
    return [this.#data];
  }

  get trainable(): readonly Tensor[] {
    return [this.#data];
  }

  get nbytes(): number {
    return this.#data.nbytes;
  }

  get footprint(): number {
    return this.shape[0] * this.shape[1] * (this.#data.dtype === "f32" ? 4 : 2);
  }

  linear(x: Tensor, options?: LinearOptions): Tensor {
    return linear(x, this.#data, options, this.#compute);
  }

  back(dy: Tensor): Tensor {
    return linearBack(dy, this.#data);
  }

  rows(ids: Tensor): Tensor {
    return embedding(this.#data, ids);
  }

  dense(dtype: FloatDType): Tensor {
    return scope(() => {
      const rows = contiguous(unpack(this.#data), dtype);
      return rows === this.#data ? rows.alias() : rows;
    });
  }

  dispose(): void {
    this.#data.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

/** What products with dense matrices in `dtype` are computed in unless told otherwise. */
export function computeFor(dtype: FloatDType): Compute {
  return dtype === "bf16" ? "bf16" : "f32";
}

/**
 * Plain floats in `dtype`. `product` says that the matrix is multiplied with (and not only looked up): it is then kept
 * in the device's panel layout. `compute` "bf16" allows bf16 products with a bf16 matrix, and is what such a matrix gets
 * unless told otherwise: so a bf16 model is multiplied in Python. Sums stay f32.
 */
export function denseScheme(dtype: FloatDType, product = true, compute = computeFor(dtype)): Scheme {
  return {
    name: "dense",
    bytes: ([out, inputs]) => out * inputs * (dtype === "f32" ? 4 : 2),
    begin(device, shape, label) {
      const [out, inputs] = shape;
      const data = product
        ? Tensor.panels(device, out, inputs, dtype, label).keep()
        : Tensor.empty(device, shape, dtype, label).keep();
      return {
        granularity: data.panels ? PANEL_ROWS : 1,
        put(rows, at) {
          if (!data.panels) {
            using part = data.narrow(0, at, rows.shape[0]!);
            copyInto(rows, part);
            return;
          }
          if (rows.dtype === dtype) {
            pack(rows, data, at);
            return;
          }
          using converted = contiguous(rows, dtype);
          pack(converted, data, at);
        },
        finish: () => new DenseWeight(data, compute),
        [Symbol.dispose]: () => data.dispose(),
      };
    },
  };
}

/** Rows that a device may bundle in its panels: chunks that begin at multiples of this never split a panel. */
export const PANEL_ROWS = 16;
