// Adapters by row: each row of a batch, or each token of a flat pass, has the products of its own adapter, by masks that multiply them.

import type { Device } from "../core/device.js";
import { scope, Tensor } from "../core/tensor.js";

/** By the name of an adapter, f32[rows]: 1 for a row that has it. */
export type RowMasks = ReadonlyMap<string, Tensor>;

/** The adapters of the rows of one pass or one generation. */
export class RowAdapters implements Disposable {
  readonly #device: Device;
  readonly #names: readonly string[];
  readonly #used: readonly string[];
  readonly #during: <T>(masks: RowMasks, body: () => T) => T;
  /** Of all rows in order: a recording takes no values from the host. */
  readonly #kept: RowMasks;

  /**
   * @param names the adapter of each row
   * @param used those of them that are adapters
   * @param during runs a body while the masks are at work
   */
  constructor(
    device: Device,
    names: readonly string[],
    used: readonly string[],
    during: <T>(masks: RowMasks, body: () => T) => T,
  ) {
    this.#device = device;
    this.#names = names;
    this.#used = used;
    this.#during = during;
    this.#kept = this.#masks(Array.from(names, (_, row) => row));
    for (const mask of this.#kept.values()) mask.keep();
  }

  /** Runs `body`, which records tokens: `rows` are the rows that they belong to, in order. */
  of<T>(rows: ArrayLike<number>, body: () => T): T {
    return scope((() => this.#during(this.#masks(rows), body)) as () => never) as T;
  }

  /** The same for one token, or one text, of every row. What is recorded can be replayed until this is disposed. */
  all<T>(body: () => T): T {
    return this.#during(this.#kept, body);
  }

  #masks(rows: ArrayLike<number>): RowMasks {
    const own = Array.from(rows, (row) => this.#names[row]);
    return new Map(
      this.#used.map((name) => {
        const mask = Float32Array.from(own, (one) => Number(one === name));
        return [name, Tensor.from(this.#device, mask, [mask.length], "f32", "rows")];
      }),
    );
  }

  dispose(): void {
    for (const mask of this.#kept.values()) mask.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}
