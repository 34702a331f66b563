// Last hidden states of the tokens of rows, read to the host for searches that compare them.

import type { Tensor } from "../core/tensor.js";

/** Where in some states those of a row are. */
export interface RowPlace {
  readonly row: number;
  /** The first token, and how many there are. */
  readonly at: number;
  readonly count: number;
}

export class RowStates {
  readonly #parts = new Map<number, Promise<Float32Array>[]>();

  /** Reads states f32[..,hidden] of tokens, which must live until the reading is recorded. */
  add(states: Tensor, places: readonly RowPlace[]): void {
    const width = states.shape.at(-1)!;
    const reading = states.readFloats();
    for (const { row, at, count } of places) {
      const own = reading.then((all) => all.slice(at * width, (at + count) * width));
      own.catch(() => {}); // awaited by `take`, if at all
      const parts = this.#parts.get(row) ?? [];
      this.#parts.set(row, [...parts, own]);
    }
  }

  /** The states f32[n,hidden] of a row's tokens that were read since the last call, in the order of the text. */
  async take(row: number): Promise<Float32Array> {
    const parts = await Promise.all(this.#parts.get(row) ?? []);
    this.#parts.delete(row);
    const states = new Float32Array(parts.reduce((sum, { length }) => sum + length, 0));
    let at = 0;
    for (const part of parts) {
      states.set(part, at);
      at += part.length;
    }
    return states;
  }
}

/** The places of a chunk's rows, whose tokens are one text after the other. */
export function placesOf(counts: ReadonlyMap<number, number>): RowPlace[] {
  let at = 0;
  return [...counts].map(([row, count]) => {
    at += count;
    return { row, at: at - count, count };
  });
}
