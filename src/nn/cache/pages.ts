// The pages of each row: reference counts, copy on write, and the table on the device. It knows page numbers only; the stores
// (store.ts) hold the contents. A row with fewer columns than its tokens need uses them as a ring.

import type { Device } from "../../core/device.js";
import { DeviceError, OutOfMemoryError } from "../../core/errors.js";
import { Tensor } from "../../core/tensor.js";

export interface PagesOptions {
  readonly rows: number;
  /** Tokens of a page. */
  readonly size: number;
  /** Most pages of a row. */
  readonly columns: number;
  /** Pages of all rows together. */
  readonly count: number;
}

/** A page that a row needs before it can take more tokens. */
interface Need {
  readonly row: number;
  readonly column: number;
  /** A page with other readers, whose tokens must be copied; undefined where the column has none yet. */
  readonly shared: number | undefined;
}

const NONE = -1;

export class Pages implements Disposable {
  readonly options: PagesOptions;
  /** i32[R,1+columns] on each device that has layers. */
  readonly #tables = new Map<Device, Tensor>();
  readonly #host: Int32Array;
  readonly #uses: Uint16Array | Uint32Array;
  readonly #free: number[];
  #changed = false;

  /** @throws OutOfMemoryError */
  constructor(devices: Iterable<Device>, options: PagesOptions) {
    const { rows, columns, count } = options;
    this.options = options;
    this.#host = new Int32Array(rows * (columns + 1)).fill(NONE);
    for (let row = 0; row < rows; row++) this.#host[row * (columns + 1)] = 0;
    this.#uses = new Uint32Array(count);
    this.#free = Array.from({ length: count }, (_, i) => count - 1 - i);
    try {
      for (const device of devices) {
        if (this.#tables.has(device)) continue;
        const table = Tensor.from(device, this.#host, [rows, columns + 1], "i32", "cache table").keep();
        this.#tables.set(device, table);
      }
    } catch (error) {
      this.dispose();
      throw error;
    }
  }

  /** The table on a device that has layers: i32[R,1+columns]. @throws DeviceError */
  table(device: Device): Tensor {
    const table = this.#tables.get(device);
    if (!table) throw new DeviceError(`the cache has no layers on ${device.name}`);
    return table;
  }

  /** Bytes of the tables. */
  get nbytes(): number {
    return [...this.#tables.values()].reduce((bytes, table) => bytes + table.nbytes, 0);
  }

  /** Tokens that fit in the pages of a row at once. */
  get room(): number {
    return this.options.size * this.options.columns;
  }

  /** Pages that no row uses. */
  get available(): number {
    return this.#free.length;
  }

  /** The pages needed for tokens [from, to) of each row; changes nothing. @throws OutOfMemoryError if too few are free */
  plan(spans: readonly (readonly [row: number, from: number, to: number])[]): Need[] {
    const { size, columns, count } = this.options;
    const needs: Need[] = [];
    const left = new Map<number, number>(); // readers that a shared page will have
    for (const [row, from, to] of spans) {
      if (to <= from) continue;
      const first = Math.floor(from / size);
      const last = Math.min(Math.floor((to - 1) / size), first + columns - 1);
      for (let n = first; n <= last; n++) {
        const column = n % columns;
        const page = this.#page(row, column);
        if (page === NONE) {
          needs.push({ row, column, shared: undefined });
          continue;
        }
        const uses = left.get(page) ?? this.#uses[page]!;
        if (uses === 1) continue;
        left.set(page, uses - 1);
        needs.push({ row, column, shared: page });
      }
    }
    if (needs.length > this.#free.length) {
      throw new OutOfMemoryError(
        `the cache needs ${needs.length} more pages; ${this.#free.length} of ${count} are free`,
        { hint: "give it more pages, or free rows that have ended" },
      );
    }
    return needs;
  }

  /** Executes a plan; `copy` copies one page to another. The caller calls `publish` afterwards. */
  carryOut(needs: readonly Need[], copy: (from: number, to: number) => void): void {
    for (const { row, column, shared } of needs) {
      const page = this.#free.pop()!;
      this.#uses[page] = 1;
      if (shared !== undefined) {
        copy(shared, page);
        this.#drop(shared);
      }
      this.#set(row, column, page);
    }
  }

  /** Row r gets the pages of row `parents[r]`. */
  reorder(parents: readonly number[]): void {
    const width = this.options.columns + 1;
    const before = this.#host.slice();
    for (const page of pagesIn(before, width)) this.#uses[page]!++;
    parents.forEach((parent, row) => {
      this.#host.set(before.subarray(parent * width, (parent + 1) * width), row * width);
    });
    for (const page of pagesIn(this.#host, width)) this.#uses[page]!++;
    // Once for the rows as they were, once for the hold above.
    for (const page of pagesIn(before, width)) {
      this.#uses[page]!--;
      this.#drop(page);
    }
    this.#changed = true;
  }

  /** Row `to` gets the pages of row `from`, and the devices know it. Costs what one row does, however many there are. */
  fork(from: number, to: number): void {
    if (from === to) return;
    const width = this.options.columns + 1;
    const pages = this.#host.subarray(from * width, (from + 1) * width);
    const own = this.#host.subarray(to * width, (to + 1) * width);
    for (const page of pagesIn(pages, width)) this.#uses[page]!++;
    for (const page of pagesIn(own, width)) this.#drop(page);
    own.set(pages);
    if (this.#changed) {
      this.publish();
      return;
    }
    const bytes = new Uint8Array(own.buffer, own.byteOffset, own.byteLength);
    for (const table of this.#tables.values()) table.writeBytes(bytes, to * own.byteLength);
  }

  /** Returns the pages of a row from column `from` on. */
  release(row: number, from = 0): void {
    for (let column = from; column < this.options.columns; column++) {
      const page = this.#page(row, column);
      if (page === NONE) continue;
      this.#drop(page);
      this.#set(row, column, NONE);
    }
  }

  /** Sets the number of keys that attention without a causal order reads. */
  hold(row: number, keys: number): void {
    this.#host[row * (this.options.columns + 1)] = keys;
    this.#changed = true;
  }

  /** Writes the table to the devices, if it changed. */
  publish(): void {
    if (this.#changed) for (const table of this.#tables.values()) table.write(this.#host);
    this.#changed = false;
  }

  #page(row: number, column: number): number {
    return this.#host[row * (this.options.columns + 1) + 1 + column]!;
  }

  #set(row: number, column: number, page: number): void {
    this.#host[row * (this.options.columns + 1) + 1 + column] = page;
    this.#changed = true;
  }

  #drop(page: number): void {
    this.#uses[page]!--;
    if (this.#uses[page] === 0) this.#free.push(page);
  }

  dispose(): void {
    for (const table of this.#tables.values()) table.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

/** All pages in a table, once per mention. */
function* pagesIn(table: Int32Array, width: number): Generator<number> {
  for (let at = 0; at < table.length; at++) if (at % width !== 0 && table[at] !== NONE) yield table[at]!;
}
