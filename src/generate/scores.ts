// The scores of all tokens in each step, for callers who ask for them, and what they say of the tokens that were chosen.

import { isList, isWhole, listOf } from "../core/checks.js";
import { OptionError, ShapeError } from "../core/errors.js";
import { flag, type Options, readOptions, such } from "../core/options.js";
import { show } from "../core/show.js";
import { logSoftmax } from "./processors/host/base.js";
import type { HostProcessor } from "./processors/host-processor.js";

/** Scores [steps][rows], f32[V] each; NaN for rows that have ended. */
export type StepScores = Float32Array[][];

/** What a generation keeps of each step. */
export interface Kept {
  /** After all processors. */
  readonly scores: ScoreRecord | undefined;
  /** As the model gives them. */
  readonly logits: ScoreRecord | undefined;
}

export class ScoreRecord {
  readonly #steps: Map<number, Float32Array>[] = [];
  readonly #rows: number;

  constructor(rows: number) {
    this.#rows = rows;
  }

  add(step: number, row: number, scores: Float32Array): void {
    const rows = this.#steps[step] ?? new Map<number, Float32Array>();
    this.#steps[step] = rows;
    rows.set(row, scores.slice());
  }

  /** Keeps what passes through it. */
  get processor(): HostProcessor {
    return { process: (scores, { row, step }) => this.add(step, row, scores) };
  }

  /** Forgets what was kept of rows behind their ends, which guesses may have reached. @param lengths steps of each row */
  cut(lengths: readonly number[]): void {
    for (const [step, rows] of this.#steps.entries()) {
      for (const [row, length] of lengths.entries()) if (step >= length) rows.delete(row);
    }
  }

  /** Of the first steps. */
  take(steps: number): StepScores {
    return this.#steps.slice(0, steps).map((rows) => {
      const [some] = rows.values();
      const none = new Float32Array(some!.length).fill(Number.NaN);
      return Array.from({ length: this.#rows }, (_, row) => rows.get(row) ?? none);
    });
  }
}

/** What the options of a call ask to be kept; undefined for nothing. */
export function keptBy(
  options: {
    readonly return_dict_in_generate?: boolean | undefined;
    readonly output_scores?: boolean | undefined;
    readonly output_logits?: boolean | undefined;
  },
  rows: number,
): Kept | undefined {
  const { return_dict_in_generate, output_scores, output_logits } = options;
  if (!return_dict_in_generate || !(output_scores || output_logits)) return undefined;
  return {
    scores: output_scores ? new ScoreRecord(rows) : undefined,
    logits: output_logits ? new ScoreRecord(rows) : undefined,
  };
}

const isIds = (value: unknown): value is readonly number[] => listOf(value, isWhole) !== undefined;
const isRow = (value: unknown): value is readonly number[] =>
  listOf(value, (n): n is number => Number.isSafeInteger(n)) !== undefined;

const TRANSITION = {
  /** Of beams: the row of `scores` that each token comes from, as `generate` gives it. */
  beam_indices: such<readonly (readonly number[])[]>(
    (value) => listOf(value, isRow) !== undefined,
    "lists of rows, as generate() gives them",
  ),
  /** Scores as log-probabilities among all tokens. */
  normalize_logits: flag(),
};
export interface TransitionOptions extends Options<typeof TRANSITION> {}

/** @throws OptionError, ShapeError; what `PreTrainedModel.compute_transition_scores` says */
export function transitionScores(sequences: unknown, scores: unknown, given: TransitionOptions = {}): number[][] {
  const place = "compute_transition_scores";
  const { beam_indices, normalize_logits = false } = readOptions(place, TRANSITION, given);
  const texts = listOf(sequences, isIds);
  if (!texts) throw new OptionError(`${place}: sequences must be lists of token ids, got ${show(sequences)}`);
  const isScores = (value: unknown): value is Float32Array => value instanceof Float32Array;
  const isStep = (value: unknown): value is readonly Float32Array[] => listOf(value, isScores) !== undefined;
  const steps = isList(scores) ? listOf(scores, isStep) : undefined;
  if (!steps) throw new OptionError(`${place}: scores must be those of generate(), got ${show(scores)}`);
  const rows = beam_indices ?? texts.map((_, row) => new Array<number>(steps.length).fill(row));
  const taken = rows.reduce((most, own) => Math.max(most, own.filter((row) => row >= 0).length), 0);
  if (rows.length !== texts.length || taken > steps.length || texts.some(({ length }) => length < taken)) {
    throw new ShapeError(`${place}: ${texts.length} sequences do not fit ${rows.length} rows of ${steps.length} steps`);
  }
  return texts.map((text, n) =>
    Array.from({ length: taken }, (_, step) => {
      const row = rows[n]![step] ?? -1;
      if (row < 0) return 0; // the text had ended
      const own = steps[step]![row];
      const id = text[text.length - taken + step]!;
      if (!own || id >= own.length)
        throw new ShapeError(`${place}: no score of token ${id} in row ${row} of step ${step}`);
      if (!normalize_logits) return own[id]!;
      const shares = own.slice();
      logSoftmax(shares);
      return shares[id]!;
    }),
  );
}
