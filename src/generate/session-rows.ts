// The rows of a decode session: which text each has, how it takes one and gives it up, and what it takes over from the text that
// was there before.

import { OptionError } from "../core/errors.js";
import type { Choice } from "./choice.js";
import type { RowForward } from "./forward.js";
import { type RowRequest, type Sequence, sequencesOf } from "./sequence.js";
import type { HeldTexts } from "./session-options.js";

export class SessionRows {
  /** The text of each row; undefined for a free row. */
  readonly sequences: (Sequence | undefined)[];
  readonly #forward: RowForward;
  readonly #choice: Choice;
  readonly #held: HeldTexts | undefined;

  constructor(rows: number, forward: RowForward, choice: Choice, held: HeldTexts | undefined) {
    this.sequences = new Array<undefined>(rows).fill(undefined);
    this.#forward = forward;
    this.#choice = choice;
    this.#held = held;
  }

  /** Rows that steps include. */
  get live(): Sequence[] {
    return this.sequences.filter((sequence): sequence is Sequence => sequence?.ready === true);
  }

  /** @throws OptionError */
  checkFree(row: number): void {
    if (row >= 0 && row < this.sequences.length && !this.sequences[row]) return;
    throw new OptionError(`row ${row} is not a free row of the session's ${this.sequences.length}`);
  }

  /** Gives texts free rows. @throws OptionError */
  seat(requests: readonly RowRequest[], capacity: number): Sequence[] {
    const sequences = sequencesOf(requests, { rows: this.sequences.length, capacity });
    for (const { row } of sequences) this.checkFree(row);
    for (const sequence of sequences) {
      this.sequences[sequence.row] = sequence;
      this.#forward.lengths.set(sequence.row, sequence.reach);
    }
    return sequences;
  }

  /** Gives texts rows that may have others, with what they share of their beginnings. @throws OptionError */
  succeed(requests: readonly RowRequest[], capacity: number): Sequence[] {
    const sequences = sequencesOf(requests, { rows: this.sequences.length, capacity });
    for (const next of sequences) {
      const before = this.sequences[next.row] ?? this.#takeHeld(next.row);
      this.sequences[next.row] = next;
      const apart = this.#forward.lengths.set(next.row, next.reach);
      if (!before) continue;
      const most = apart ? 0 : Math.min(before.cached, next.ids.length - 1);
      while (next.cached < most && next.ids[next.cached] === before.ids[next.cached]) next.cached++;
      // A window that has moved on keeps no beginning to go on from.
      if (!this.#forward.cache.goesOnFrom(next.row, next.cached)) next.cached = 0;
      this.#forward.cache.rewind(next.row, before.cached - next.cached);
      this.#choice.end(next.row);
    }
    if (this.#held) this.#held.reused = sequences.map(({ cached }) => cached);
    return sequences;
  }

  #takeHeld(row: number): Pick<Sequence, "ids" | "cached"> | undefined {
    const text = this.#held?.texts[row];
    if (!this.#held || !text) return undefined;
    this.#held.texts[row] = undefined; // until `giveBack`
    return { ids: [...text.ids], cached: text.ids.length };
  }

  /** Gives a caller's cache back, with what it holds now. */
  giveBack(): void {
    if (!this.#held) return;
    for (const sequence of this.sequences) {
      if (!sequence) continue;
      // A step that nobody read may have written one token more.
      if (sequence.cached > sequence.ids.length) this.rewindTo(sequence, sequence.ids.length);
      this.#held.texts[sequence.row] = { ids: sequence.ids.slice(0, sequence.cached) };
    }
  }

  /** No later step includes the row; its text stays. */
  end(sequence: Sequence): void {
    sequence.ended = true;
    sequence.ready = false;
    sequence.logits?.dispose();
    sequence.logits = undefined;
    this.#choice.end(sequence.row);
  }

  /** Ends a text, and forgets it. */
  free(sequence: Sequence): void {
    if (this.sequences[sequence.row] !== sequence) return;
    this.end(sequence);
    this.sequences[sequence.row] = undefined;
    this.rewindTo(sequence, 0);
  }

  rewindTo(sequence: Sequence, cached: number): void {
    this.#forward.cache.rewind(sequence.row, sequence.cached - cached);
    sequence.cached = cached;
  }
}
