// The key-value cache of a decoder: one pair of [B, G, S, D] tensors per layer, and a cursor on the device that says
// how many tokens they hold. The host counts along, so that capacity is checked before anything is recorded.

import type { Device } from "../core/device.js";
import { ShapeError } from "../core/errors.js";
import { Tensor } from "../core/tensor.js";
import { advance } from "../ops/advance.js";
import { kvAppend } from "../ops/kv-append.js";
import type { FloatDType } from "./weight.js";

export interface CacheShape {
  readonly layers: number;
  readonly batch: number;
  /** Key-value heads. */
  readonly groups: number;
  readonly head_dim: number;
  /** Tokens it can hold. */
  readonly capacity: number;
  readonly dtype: FloatDType;
}

/** The dtype of the cache of a model whose weights are in `dtype`. */
export function cacheDType(dtype: FloatDType): FloatDType {
  return dtype === "f32" ? "f32" : "bf16";
}

export class KVCache implements Disposable {
  readonly shape: CacheShape;
  /** i32[1] on the device: tokens held before the ones that are being appended. */
  readonly cursor: Tensor;
  readonly #keys: Tensor[] = [];
  readonly #values: Tensor[] = [];
  #length = 0;

  /** @throws OutOfMemoryError, and frees what it took. */
  constructor(device: Device, shape: CacheShape) {
    this.shape = shape;
    const size = [shape.batch, shape.groups, shape.capacity, shape.head_dim];
    this.cursor = Tensor.from(device, Int32Array.of(0), [1], "i32", "cache cursor").keep();
    try {
      for (let layer = 0; layer < shape.layers; layer++) {
        this.#keys.push(Tensor.empty(device, size, shape.dtype, "key cache").keep());
        this.#values.push(Tensor.empty(device, size, shape.dtype, "value cache").keep());
      }
    } catch (error) {
      this.dispose();
      throw error;
    }
  }

  /** Tokens it holds. */
  get length(): number {
    return this.#length;
  }

  get nbytes(): number {
    return [...this.#keys, ...this.#values].reduce((sum, tensor) => sum + tensor.nbytes, 0);
  }

  /** Records the appending of `k[B,T,G,D]` and `v` at the cursor of one layer; gives the whole cache of that layer. */
  append(layer: number, k: Tensor, v: Tensor): { k: Tensor; v: Tensor } {
    const steps = k.shape[1]!;
    if (this.#length + steps > this.shape.capacity) {
      throw new ShapeError(
        `the cache holds ${this.#length} of ${this.shape.capacity} tokens; ${steps} more do not fit`,
      );
    }
    const keys = this.#keys[layer]!;
    const values = this.#values[layer]!;
    kvAppend(k, this.cursor, keys);
    kvAppend(v, this.cursor, values);
    return { k: keys, v: values };
  }

  /** Records that all layers have taken `steps` tokens. */
  advance(steps: number): void {
    advance(this.cursor, steps);
    this.#length += steps;
  }

  /** Counts along with a recording that appends `steps` tokens and advances the cursor by itself. */
  replayed(steps: number): void {
    this.#length += steps;
  }

  /** Records that the last `steps` tokens are forgotten. */
  rewind(steps: number): void {
    if (steps > 0) this.advance(-steps);
  }

  dispose(): void {
    for (const tensor of [...this.#keys, ...this.#values, this.cursor]) tensor.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}
