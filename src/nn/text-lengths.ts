// How long the texts of a pass are, for position encodings whose constants depend on it (RoPE "dynamic" and "longrope").
// Lengths are known on the host before a pass is recorded; what follows from them lies in tensors, which replays read too.

import type { Device } from "../core/device.js";
import { Tensor } from "../core/tensor.js";

/** Constants of a text: f32[n] for its length. The same function is the same constants. */
export type OfLength = (length: number) => Float32Array;

/**
 * The tokens that each text has, or can have. A pass without a cache has the lengths of its texts. Rows of a cache have the
 * longest text that their request can make the model read (prompt and new tokens but the last, which is never read): keys in a
 * cache keep the constants that they were written with, so a request's constants are chosen once, before its first token,
 * and depend on nothing but the request. (transformers chooses them anew for each pass, by its longest row: mates in a batch
 * change each other's tokens, and keys of several sets meet in its cache, except in Phi-3, which then computes all keys again.)
 */
export class TextLengths implements Disposable {
  readonly #lengths: number[];
  readonly #tables = new Map<OfLength, Map<Device, Tensor>>();

  constructor(lengths: readonly number[]) {
    this.#lengths = [...lengths];
  }

  /** Constants of all texts on a device: f32[texts,n]; kept, and up to date until disposed. @throws OutOfMemoryError */
  table(of: OfLength, device: Device): Tensor {
    let tables = this.#tables.get(of);
    if (!tables) {
      tables = new Map();
      this.#tables.set(of, tables);
    }
    let table = tables.get(device);
    if (!table) {
      const values = this.#lengths.map(of);
      const shape = [values.length, values[0]?.length ?? 0];
      const flat = new Float32Array(shape[0]! * shape[1]!);
      values.forEach((own, text) => {
        flat.set(own, text * own.length);
      });
      table = Tensor.from(device, flat, shape, "f32", "constants of texts").keep();
      tables.set(device, table);
    }
    return table;
  }

  /** Changes the length of a text. Returns whether its constants are others now, so keys made with the old ones are void. */
  set(text: number, length: number): boolean {
    const before = this.#lengths[text]!;
    this.#lengths[text] = length;
    let changed = false;
    for (const [of, tables] of this.#tables) {
      const old = of(before);
      const own = of(length);
      if (own.every((value, i) => value === old[i])) continue;
      changed = true;
      const bytes = new Uint8Array(own.buffer, own.byteOffset, own.byteLength);
      for (const table of tables.values()) table.writeBytes(bytes, text * own.byteLength);
    }
    return changed;
  }

  /** Text t gets the length of text `parents[t]`, whose keys it continues. */
  reorder(parents: readonly number[]): void {
    const before = [...this.#lengths];
    parents.forEach((parent, text) => void this.set(text, before[parent]!));
  }

  /** Text `to` gets the length of text `from`. */
  fork(from: number, to: number): void {
    this.set(to, this.#lengths[from]!);
  }

  dispose(): void {
    for (const tables of this.#tables.values()) for (const table of tables.values()) table.dispose();
    this.#tables.clear();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}
