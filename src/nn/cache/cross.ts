// The cache of cross-attention: keys and values of an encoder's output, written once per text and read by all tokens of
// the decoder. Rows that decode the same text (beams) share its page.

import type { Device } from "../../core/device.js";
import { ShapeError } from "../../core/errors.js";
import { Tensor } from "../../core/tensor.js";
import { Pages } from "./pages.js";
import { Store } from "./store.js";
import type { CacheDType, CachedLayer, LayerShape } from "./types.js";

export interface CrossCacheOptions {
  readonly layers: readonly LayerShape[];
  readonly rows: number;
  /** Most encoder tokens of a text. */
  readonly capacity: number;
  readonly dtype: CacheDType;
}

export class CrossCache implements Disposable {
  readonly options: CrossCacheOptions;
  readonly #pages: Pages;
  readonly #layers: (readonly [store: Store, device: Device])[] = [];
  #lengths: number[];
  /** Lanes of the texts begun last, on each device that has layers. */
  readonly #lanes = new Map<Device, Tensor>();

  /**
   * @param where the device, or the device of each layer
   * @throws OutOfMemoryError, and frees what it took
   */
  constructor(where: Device | ((layer: number) => Device), options: CrossCacheOptions) {
    const { layers, rows, capacity, dtype } = options;
    this.options = options;
    this.#lengths = new Array<number>(rows).fill(0);
    const devices = layers.map((_, layer) => (typeof where === "function" ? where(layer) : where));
    this.#pages = new Pages(devices, { rows, size: capacity, columns: 1, count: rows });
    try {
      for (const [layer, shape] of layers.entries()) {
        const device = devices[layer]!;
        this.#layers.push([new Store(device, shape, rows, capacity, dtype), device]);
      }
    } catch (error) {
      this.dispose();
      throw error;
    }
  }

  get nbytes(): number {
    return this.#layers.reduce((bytes, [store]) => bytes + store.nbytes, this.#pages.nbytes);
  }

  /** Encoder tokens of a row's text. */
  length(row: number): number {
    this.#check(row);
    return this.#lengths[row]!;
  }

  /**
   * Starts texts of `lengths[b]` tokens in `rows[b]`, replacing what these rows held. `write` then takes keys and values of
   * `steps` encoder tokens for each of them, of which the first `lengths[b]` count.
   * @throws ShapeError, OutOfMemoryError
   */
  begin(rows: readonly number[], lengths: readonly number[], steps: number): void {
    const { capacity } = this.options;
    if (rows.length !== lengths.length || new Set(rows).size !== rows.length) {
      throw new ShapeError(`begin: ${lengths.length} lengths for ${rows.length} rows, each of which must occur once`);
    }
    rows.forEach((row, b) => {
      this.#check(row);
      const length = lengths[b]!;
      if (!Number.isSafeInteger(length) || length < 1 || length > Math.min(steps, capacity)) {
        throw new ShapeError(`begin: row ${row} of ${length} tokens; there are ${steps}, and room for ${capacity}`);
      }
    });
    const lanes = new Int32Array(2 * rows.length * steps);
    rows.forEach((row, b) => {
      lanes.fill(-1, b * steps, (b + 1) * steps);
      lanes.fill(row, b * steps, b * steps + lengths[b]!);
      for (let t = 0; t < steps; t++) lanes[(rows.length + b) * steps + t] = t;
    });
    for (const device of new Set(this.#layers.map(([, device]) => device))) {
      const fresh = Tensor.from(device, lanes, [2, rows.length, steps], "i32", "encoder lanes").keep();
      this.#lanes.get(device)?.dispose();
      this.#lanes.set(device, fresh);
    }
    for (const row of rows) this.#pages.release(row);
    // There is a page for each row, so none of these can run out.
    this.#pages.carryOut(this.#pages.plan(rows.map((row, b) => [row, 0, lengths[b]!])), () => {});
    rows.forEach((row, b) => {
      this.#pages.hold(row, lengths[b]!);
      this.#lengths[row] = lengths[b]!;
    });
    this.#pages.publish();
  }

  /** Records writing `k[B,S,G,D]` and `v[B,S,G,E]` of the texts begun last to a layer, on its device. */
  write(layer: number, k: Tensor, v: Tensor): CachedLayer {
    const [store, device] = this.#layers[layer]!;
    const lanes = this.#lanes.get(device);
    if (!lanes) throw new ShapeError("write: no text was begun");
    return store.append(k, v, lanes, this.#pages.table(device));
  }

  /** The inputs of cross-attention (`causal: false`) for a layer. */
  layer(layer: number): CachedLayer {
    const [store, device] = this.#layers[layer]!;
    return store.read(this.#pages.table(device));
  }

  /** Row `to` reads the text of row `from`. */
  fork(from: number, to: number): void {
    this.#check(from);
    this.#check(to);
    this.#pages.fork(from, to);
    this.#lengths[to] = this.#lengths[from]!;
  }

  /** Row r reads the text of row `parents[r]`. */
  reorder(parents: readonly number[]): void {
    if (parents.length !== this.#lengths.length) {
      throw new ShapeError(`reorder: ${parents.length} parents for ${this.#lengths.length} rows`);
    }
    for (const parent of parents) this.#check(parent);
    this.#pages.reorder(parents);
    this.#pages.publish();
    this.#lengths = parents.map((parent) => this.#lengths[parent]!);
  }

  /** Forgets the text of a row. */
  free(row: number): void {
    this.#check(row);
    this.#pages.release(row);
    this.#pages.hold(row, 0);
    this.#pages.publish();
    this.#lengths[row] = 0;
  }

  #check(row: number): void {
    if (Number.isSafeInteger(row) && row >= 0 && row < this.options.rows) return;
    throw new ShapeError(`the cache has rows 0 to ${this.options.rows - 1}, not ${row}`);
  }

  dispose(): void {
    for (const lanes of this.#lanes.values()) lanes.dispose();
    this.#lanes.clear();
    this.#pages.dispose();
    for (const [store] of this.#layers) store.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}
