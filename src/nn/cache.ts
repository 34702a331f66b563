// The key-value cache of a decoder: one pair of [B, G, S, D] tensors per layer, and a cursor on the device that says
// how many tokens they hold. In i8 a pair comes with scales[2, B, G, S], one f32 per token and head: 4 bytes on top of
// D, and unlike a narrower scale no second source of error. The host counts along, so that capacity is checked before
// anything is recorded.

import type { Device } from "../core/device.js";
import { bitsOf, torchName } from "../core/dtype.js";
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
  readonly dtype: CacheDType;
}

/** Numbers, or codes per token and head. */
export type CacheDType = FloatDType | "i8";

/** The dtype of the cache of a model whose weights are in `dtype`, where nothing else is asked for. */
export function cacheDType(dtype: FloatDType): FloatDType {
  return dtype === "f32" ? "f32" : "bf16";
}

/** The name of a cache's dtype as options and reports have it. */
export function cacheName(dtype: CacheDType): "float32" | "bfloat16" | "float16" | "int8" {
  return dtype === "i8" ? "int8" : torchName(dtype);
}

/** Bytes that keys and values of one token take in all layers, scales included. */
export function cacheBytesPerToken(
  { layers, groups, head_dim }: Pick<CacheShape, "layers" | "groups" | "head_dim">,
  dtype: CacheDType,
): number {
  return 2 * layers * groups * ((head_dim * bitsOf(dtype)) / 8 + (dtype === "i8" ? 4 : 0));
}

/** Bytes of a whole cache on the device, without its cursor. */
export function cacheBytes(shape: CacheShape): number {
  return shape.batch * shape.capacity * cacheBytesPerToken(shape, shape.dtype);
}

/** What attention reads of one layer. */
export interface CachedLayer {
  readonly k: Tensor;
  readonly v: Tensor;
  /** Of codes, for keys and values. */
  readonly scales: Tensor | undefined;
}

export class KVCache implements Disposable {
  readonly shape: CacheShape;
  /** i32[1] on each device: tokens held before the ones that are being appended. */
  readonly #cursors = new Map<Device, Tensor>();
  readonly #keys: Tensor[] = [];
  readonly #values: Tensor[] = [];
  /** [2,B,G,S] of each layer, and its two halves as kv_append takes them; empty but for i8. */
  readonly #scales: (readonly [all: Tensor, keys: Tensor, values: Tensor])[] = [];
  #length = 0;

  /**
   * @param where the device, or that of each layer
   * @throws OutOfMemoryError, and frees what it took.
   */
  constructor(where: Device | ((layer: number) => Device), shape: CacheShape) {
    this.shape = shape;
    const size = [shape.batch, shape.groups, shape.capacity, shape.head_dim];
    try {
      for (let layer = 0; layer < shape.layers; layer++) {
        const device = typeof where === "function" ? where(layer) : where;
        if (!this.#cursors.has(device)) {
          this.#cursors.set(device, Tensor.from(device, Int32Array.of(0), [1], "i32", "cache cursor").keep());
        }
        this.#keys.push(Tensor.empty(device, size, shape.dtype, "key cache").keep());
        this.#values.push(Tensor.empty(device, size, shape.dtype, "value cache").keep());
        if (shape.dtype !== "i8") continue;
        const all = Tensor.empty(device, [2, ...size.slice(0, 3)], "f32", "cache scales").keep();
        this.#scales.push([all, all.select(0, 0).keep(), all.select(0, 1).keep()]);
      }
    } catch (error) {
      this.dispose();
      throw error;
    }
  }

  /** The cursor on the device of the first layer. */
  get cursor(): Tensor {
    return [...this.#cursors.values()][0]!;
  }

  /** The cursor on the device of some layer. */
  cursorOn(device: Device): Tensor {
    return this.#cursors.get(device)!;
  }

  /** Tokens it holds. */
  get length(): number {
    return this.#length;
  }

  get nbytes(): number {
    return cacheBytes(this.shape);
  }

  /** Records the appending of `k[B,T,G,D]` and `v` at the cursor of one layer; gives the whole cache of that layer. */
  append(layer: number, k: Tensor, v: Tensor): CachedLayer {
    const steps = k.shape[1]!;
    if (this.#length + steps > this.shape.capacity) {
      throw new ShapeError(
        `the cache holds ${this.#length} of ${this.shape.capacity} tokens; ${steps} more do not fit`,
      );
    }
    const keys = this.#keys[layer]!;
    const values = this.#values[layer]!;
    const [scales, keyScales, valueScales] = this.#scales[layer] ?? [];
    const cursor = this.cursorOn(keys.device);
    kvAppend(k, cursor, keys, keyScales);
    kvAppend(v, cursor, values, valueScales);
    return { k: keys, v: values, scales };
  }

  /** Records that all layers have taken `steps` tokens. */
  advance(steps: number): void {
    for (const cursor of this.#cursors.values()) advance(cursor, steps);
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
    for (const tensor of [...this.#keys, ...this.#values, ...this.#scales.flat(), ...this.#cursors.values()])
      tensor.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}
