// The cache of self-attention. Layers of the same length share a table and a pool of pages: all layers without a window, and
// those of each window. One mechanism gives three layouts: contiguous has one page per row; paged has a pool of small pages;
// a layer with a window has a ring of small pages. The host counts lengths and writes tables between recordings; the recorded
// commands never change.

import type { Device } from "../../core/device.js";
import { ShapeError } from "../../core/errors.js";
import type { Tensor } from "../../core/tensor.js";
import { Pages, type PagesOptions } from "./pages.js";
import { Store } from "./store.js";
import { type Cache, type CacheDType, type CachedLayer, type LayerShape, layerBytesPerToken } from "./types.js";

/** Tokens of a page in a ring. */
const RING_PAGE = 16;
/** Default for the most tokens of a row in one pass: a chunk of a prompt. */
export const CHUNK = 512;

export interface CacheOptions {
  readonly layers: readonly LayerShape[];
  readonly rows: number;
  /** Tokens that a row can hold. */
  readonly capacity: number;
  readonly dtype: CacheDType;
  /** A pool of `count` pages of `size` tokens that rows share. Absent: contiguous, a page of `capacity` tokens per row. */
  readonly pages?: { readonly size: number; readonly count: number };
  /** Most tokens of a row in one pass; rings have room for them beside their window. Default 512. */
  readonly chunk?: number;
}

/** Pages of the layers that see `window` keys (undefined: all). */
function pagesOf(options: CacheOptions, window: number | undefined): PagesOptions {
  const { rows, capacity, pages, chunk = CHUNK } = options;
  const needed = window === undefined ? capacity : window + chunk - 1;
  if (needed < capacity) {
    const columns = Math.ceil(needed / RING_PAGE);
    return { rows, size: RING_PAGE, columns, count: rows * columns };
  }
  if (!pages) return { rows, size: Math.max(1, capacity), columns: 1, count: rows };
  return { rows, size: pages.size, columns: Math.max(1, Math.ceil(capacity / pages.size)), count: pages.count };
}

/** Bytes of a cache's pages, before it is made; tables are extra. */
export function cacheBytes(options: CacheOptions): number {
  let bytes = 0;
  for (const layer of options.layers) {
    const { count, size } = pagesOf(options, layer.window);
    bytes += count * size * layerBytesPerToken(layer, options.dtype);
  }
  return bytes;
}

/** Layers that share a table. */
interface Pool {
  readonly pages: Pages;
  readonly stores: Store[];
  /** Window of its layers, if their pages are a ring. */
  readonly window: number | undefined;
}

export class KVCache implements Cache {
  readonly options: CacheOptions;
  readonly #pools: Pool[] = [];
  readonly #layers: (readonly [store: Store, pages: Pages])[] = [];
  #lengths: number[];
  /** Highest position written in each row: a ring has lost what is further back than its room. */
  #reached: number[];

  /**
   * @param where the device, or the device of each layer
   * @throws OutOfMemoryError, and frees what it took; ShapeError for invalid sizes
   */
  constructor(where: Device | ((layer: number) => Device), options: CacheOptions) {
    const { rows, capacity, pages, chunk = CHUNK } = options;
    for (const [name, size] of Object.entries({ rows, capacity, chunk, ...(pages && { page: pages.size }) })) {
      if (!Number.isSafeInteger(size) || size < 1) throw new ShapeError(`a cache cannot have ${name} of ${size}`);
    }
    this.options = options;
    this.#lengths = new Array<number>(rows).fill(0);
    this.#reached = new Array<number>(rows).fill(0);
    const deviceOf = typeof where === "function" ? where : () => where;
    const pools = new Map<number | undefined, Pool>();
    /** The window of a layer whose pages are a ring. */
    const ringOf = ({ window }: LayerShape): number | undefined => {
      const { columns, size } = pagesOf(options, window);
      return columns * size < capacity ? window : undefined;
    };
    try {
      for (const [index, layer] of options.layers.entries()) {
        const device = deviceOf(index);
        const sizes = pagesOf(options, layer.window);
        const window = ringOf(layer);
        let pool = pools.get(window);
        if (!pool) {
          const devices = options.layers.flatMap((one, i) => (ringOf(one) === window ? [deviceOf(i)] : []));
          pool = { pages: new Pages(devices, sizes), stores: [], window };
          pools.set(window, pool);
          this.#pools.push(pool);
        }
        const store = new Store(device, layer, sizes.count, sizes.size, options.dtype);
        pool.stores.push(store);
        this.#layers.push([store, pool.pages]);
      }
    } catch (error) {
      this.dispose();
      throw error;
    }
  }

  get rows(): number {
    return this.options.rows;
  }

  get capacity(): number {
    return this.options.capacity;
  }

  get dtype(): CacheDType {
    return this.options.dtype;
  }

  get nbytes(): number {
    let bytes = 0;
    for (const { pages, stores } of this.#pools) {
      bytes += pages.nbytes;
      for (const store of stores) bytes += store.nbytes;
    }
    return bytes;
  }

  /** Pages of the pool that no row uses; in a contiguous cache, empty rows. */
  get free_pages(): number {
    return this.#pools.find(({ window }) => window === undefined)?.pages.available ?? 0;
  }

  length(row: number): number {
    this.#check(row);
    return this.#lengths[row]!;
  }

  extend(counts: readonly number[]): void {
    const { rows, capacity, chunk = CHUNK } = this.options;
    if (counts.length !== rows) throw new ShapeError(`extend: ${counts.length} counts for ${rows} rows`);
    const spans = counts.map((count, row) => {
      const held = this.#lengths[row]!;
      if (!Number.isSafeInteger(count) || count < 0) throw new ShapeError(`extend: row ${row} by ${count}`);
      if (held + count > capacity) {
        throw new ShapeError(`row ${row} of the cache holds ${held} of ${capacity} tokens; ${count} more do not fit`);
      }
      if (count > chunk && this.#pools.some(({ window }) => window !== undefined)) {
        throw new ShapeError(`a pass of ${count} tokens in a row; layers with a window have room for ${chunk}`, {
          hint: "make the cache with a larger `chunk`",
        });
      }
      return [row, held, held + count] as const;
    });
    const plans = this.#pools.map((pool) => [pool, pool.pages.plan(spans)] as const);
    for (const [{ pages, stores }, needs] of plans) {
      pages.carryOut(needs, (from, to) => {
        for (const store of stores) store.copy(from, to);
      });
      pages.publish();
    }
    for (const [row, , end] of spans) {
      this.#lengths[row] = end;
      this.#reached[row] = Math.max(this.#reached[row]!, end);
    }
  }

  append(layer: number, k: Tensor, v: Tensor, lanes: Tensor): CachedLayer {
    const [store, pages] = this.#layers[layer]!;
    return store.append(k, v, lanes, pages.table(k.device));
  }

  fork(from: number, to: number): void {
    this.#check(from);
    this.#check(to);
    for (const { pages } of this.#pools) pages.fork(from, to);
    this.#lengths[to] = this.#lengths[from]!;
    this.#reached[to] = this.#reached[from]!;
  }

  reorder(parents: readonly number[]): void {
    if (parents.length !== this.rows) throw new ShapeError(`reorder: ${parents.length} parents for ${this.rows} rows`);
    for (const parent of parents) this.#check(parent);
    for (const { pages } of this.#pools) {
      pages.reorder(parents);
      pages.publish();
    }
    this.#lengths = parents.map((parent) => this.#lengths[parent]!);
    this.#reached = parents.map((parent) => this.#reached[parent]!);
  }

  rewind(row: number, count: number): void {
    const held = this.length(row);
    if (!Number.isSafeInteger(count) || count < 0 || count > held) {
      throw new ShapeError(`rewind: ${count} of the ${held} tokens of row ${row}`);
    }
    const left = held - count;
    const lost = this.#lost(row, left);
    if (lost !== undefined) {
      throw new ShapeError(`rewind: ${count} tokens of row ${row} are further back than a window of ${lost} keeps`);
    }
    for (const { pages, window } of this.#pools) {
      // The pages of a ring stay: their order depends on the length.
      if (window === undefined || left === 0) pages.release(row, Math.ceil(left / pages.options.size));
      pages.publish();
    }
    this.#lengths[row] = left;
    if (left === 0) this.#reached[row] = 0;
  }

  /** True if a row can go on from its first `length` tokens: all layers still have what they see. */
  goesOnFrom(row: number, length: number): boolean {
    return length <= this.length(row) && this.#lost(row, length) === undefined;
  }

  /** The window of layers that have lost what they see from the first `left` tokens of a row on. */
  #lost(row: number, left: number): number | undefined {
    if (left === 0) return undefined;
    const from = (window: number): number => left - window + 1;
    const lost = this.#pools.find(
      ({ pages, window }) => window !== undefined && from(window) < this.#reached[row]! - pages.room,
    );
    return lost?.window;
  }

  free(row: number): void {
    this.rewind(row, this.length(row));
  }

  #check(row: number): void {
    if (Number.isSafeInteger(row) && row >= 0 && row < this.rows) return;
    throw new ShapeError(`the cache has rows 0 to ${this.rows - 1}, not ${row}`);
  }

  dispose(): void {
    for (const { pages, stores } of this.#pools) {
      pages.dispose();
      for (const store of stores) store.dispose();
    }
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}
