// The pages of one layer on the device: keys, values, and the scales of 8-bit codes.

import type { Device } from "../../core/device.js";
import { scope, Tensor } from "../../core/tensor.js";
import { copyInto } from "../../ops/copy.js";
import { kvAppend } from "../../ops/kv-append.js";
import type { CacheDType, CachedLayer, LayerShape } from "./types.js";

const [KEYS, VALUES, SCALES] = ["key cache", "value cache", "cache scales"] as const;

/** The contents of caches, as reports of memory name them. */
export const CACHE_LABELS: readonly string[] = [KEYS, VALUES, SCALES, "cache table"];

export class Store implements Disposable {
  readonly #k: Tensor;
  readonly #v: Tensor;
  /** f32[2,P,G,S], and its halves as kv_append takes them; only for i8. */
  readonly #scales: readonly [all: Tensor, keys: Tensor, values: Tensor] | undefined;

  /** @throws OutOfMemoryError, and frees what it took */
  constructor(device: Device, shape: LayerShape, pages: number, size: number, dtype: CacheDType) {
    const { groups, k_dim, v_dim } = shape;
    const made: Tensor[] = [];
    const empty = (dims: number[], type: CacheDType, label: string): Tensor => {
      const tensor = Tensor.empty(device, dims, type, label).keep();
      made.push(tensor);
      return tensor;
    };
    try {
      this.#k = empty([pages, groups, size, k_dim], dtype, KEYS);
      this.#v = empty([pages, groups, size, v_dim], dtype, VALUES);
      if (dtype === "i8") {
        const all = empty([2, pages, groups, size], "f32", SCALES);
        this.#scales = [all, all.select(0, 0).keep(), all.select(0, 1).keep()];
      }
    } catch (error) {
      for (const tensor of made) tensor.dispose();
      throw error;
    }
  }

  get nbytes(): number {
    return this.#k.nbytes + this.#v.nbytes + (this.#scales?.[0].nbytes ?? 0);
  }

  read(table: Tensor): CachedLayer {
    return { k: this.#k, v: this.#v, scales: this.#scales?.[0], table };
  }

  append(k: Tensor, v: Tensor, lanes: Tensor, table: Tensor): CachedLayer {
    kvAppend(k, lanes, table, this.#k, this.#scales?.[1]);
    kvAppend(v, lanes, table, this.#v, this.#scales?.[2]);
    return this.read(table);
  }

  /** Records the copy of one page to another. */
  copy(from: number, to: number): void {
    scope(() => {
      for (const tensor of [this.#k, this.#v]) copyInto(tensor.narrow(0, from, 1), tensor.narrow(0, to, 1));
      const scales = this.#scales?.[0];
      if (scales) copyInto(scales.narrow(1, from, 1), scales.narrow(1, to, 1));
    });
  }

  dispose(): void {
    for (const tensor of [this.#k, this.#v, ...(this.#scales ?? [])]) tensor.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}
