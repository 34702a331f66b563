// Batches without their padding: the real tokens of all rows one behind the other in one row, and back. Encoders compute padded
// batches this way, so that padding costs nothing.

import { scope, type Tensor } from "../core/tensor.js";
import { copyInto } from "../ops/copy.js";
import { filled } from "../ops/fill.js";
import type { Batch } from "./inputs.js";

/** Real tokens that are neighbours in a row of the batch. */
interface Run {
  /** Where they lie in the batch. */
  readonly row: number;
  readonly column: number;
  readonly count: number;
  /** Where they lie among all real tokens. */
  readonly at: number;
}

export class Ragged {
  /** Real tokens. */
  readonly tokens: number;
  readonly #batch: Batch;
  readonly #runs: readonly Run[];

  private constructor(batch: Batch, runs: readonly Run[], tokens: number) {
    this.#batch = batch;
    this.#runs = runs;
    this.tokens = tokens;
  }

  /** The real tokens of a batch; undefined if all are real, or none. */
  static of(batch: Batch): Ragged | undefined {
    const { rows, steps, mask } = batch;
    if (!mask) return undefined;
    const runs: Run[] = [];
    let tokens = 0;
    for (let row = 0; row < rows; row++) {
      for (let column = 0; column < steps; ) {
        let end = column;
        while (end < steps && mask[row * steps + end]) end++;
        if (end > column) runs.push({ row, column, count: end - column, at: tokens });
        tokens += end - column;
        column = end + 1;
      }
    }
    return tokens > 0 && tokens < mask.length ? new Ragged(batch, runs, tokens) : undefined;
  }

  /** The entries of `values` [B,T] at the real tokens. */
  pick(values: Int32Array): Int32Array {
    const { steps } = this.#batch;
    const picked = new Int32Array(this.tokens);
    for (const { row, column, count, at } of this.#runs) {
      const from = row * steps + column;
      picked.set(values.subarray(from, from + count), at);
    }
    return picked;
  }

  /** The row of each real token. */
  get segments(): Int32Array {
    const segments = new Int32Array(this.tokens);
    for (const { row, count, at } of this.#runs) segments.fill(row, at, at + count);
    return segments;
  }

  /** Results [1,N,..] of the real tokens as [B,T,..], zeros where the batch has padding. */
  padded(x: Tensor): Tensor {
    const { rows, steps } = this.#batch;
    return scope(() => {
      const all = filled(x.device, [rows, steps, ...x.shape.slice(2)], 0);
      for (const { row, column, count, at } of this.#runs) {
        copyInto(x.narrow(1, at, count), all.narrow(0, row, 1).narrow(1, column, count));
      }
      return all;
    });
  }
}
