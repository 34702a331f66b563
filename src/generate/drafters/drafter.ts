// Drafters guess the next tokens of a text; the model then checks all guesses of all rows in one pass over its weights
// (Leviathan et al. 2023). They affect only the number of passes, never the generated text.

import type { SamplingConfig } from "../config.js";

export interface Drafter extends Partial<Disposable> {
  /**
   * At most `most[r]` tokens that may follow text r, for each row. Called once for all rows, because a drafting model takes one
   * pass for all of them. A row without a text (undefined) gets none.
   * @param draws how the model draws the next tokens of each row; greedy rows have none
   */
  propose(
    texts: readonly (readonly number[] | undefined)[],
    most: readonly number[],
    draws?: readonly (Draws | undefined)[],
  ): Drafts | Promise<Drafts>;
}

/** Random numbers of a row, by seed, sequence and step, and what they are drawn with. */
export interface Draws {
  readonly config: SamplingConfig;
  readonly sequence: number;
  /** Those that the text has used already. */
  readonly drawn: number;
}

/** Guesses for each row, in the order of the text. */
export type Drafts = readonly (readonly number[])[];
