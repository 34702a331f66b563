// Processors whose changes follow from a text alone.

import { RowProcessor } from "./base.js";
import { Edits } from "./edits.js";

/** Says what it changes: a function of a text alone, so that it can be told before there are scores. */
export const MARK = Symbol("mark");

/** Changes scores of single tokens that follow from the text. */
export abstract class TextProcessor extends RowProcessor {
  abstract [MARK](edits: Edits, ids: readonly number[], row: number): void;

  change(scores: Float32Array, ids: readonly number[], row = 0): void {
    const edits = new Edits(scores.length);
    this[MARK](edits, ids, row);
    edits.apply(scores);
  }
}
