// Drafters guess the next tokens of a text; the model then checks all guesses of all rows in one pass over its weights
// (Leviathan et al. 2023). They affect only the number of passes, never the generated text.

export interface Drafter extends Partial<Disposable> {
  /**
   * At most `most[r]` tokens that may follow text r, for each row. Called once for all rows, because a drafting model takes one
   * pass for all of them. A row without a text (undefined) gets none.
   */
  propose(texts: readonly (readonly number[] | undefined)[], most: readonly number[]): Drafts | Promise<Drafts>;
}

/** Guesses for each row, in the order of the text. */
export type Drafts = readonly (readonly number[])[];
