// Translation edit rate (Snover et al. 2006): the edits that make a text its reference, where moving a run of words is one of them,
// for each word of the reference. Which moves are tried, and in what order, are sacrebleu's rules, which are those of Tercom.

import { strip, words } from "../../tokenizer/chat/blanks.js";
import type { CorpusMetric } from "./corpus-metric.js";

/** Longest run that is moved, how far, cells beside the diagonal that are looked at, and moves that are tried in all. */
const LONGEST_RUN = 10;
const FARTHEST = 50;
const BEAM = 25;
const MOST_TRIED = 1000;

const wordsOf = (text: string): string[] =>
  words(strip(text, undefined, false, true).toLowerCase()).map(({ word }) => word);

/** What a cell of the table was reached by: both words, a word of the text alone, a word of the reference alone. */
const [SAME, OTHER, DROPPED, ADDED] = [0, 1, 2, 3] as const;

/** The cells of a row that are looked at; a reference may be very long. */
interface Row {
  readonly from: number;
  readonly costs: Float64Array;
  readonly edits: Uint8Array;
}
const costAt = ({ from, costs }: Row, j: number): number => costs[j - from] ?? Number.POSITIVE_INFINITY;

/** The table of edit distances of a text's beginnings to a reference's, near its diagonal. */
class Distances {
  readonly #reference: readonly string[];
  readonly #rows: Row[];
  #text: readonly string[] = [];

  constructor(reference: readonly string[]) {
    this.#reference = reference;
    const costs = Float64Array.from({ length: reference.length + 1 }, (_, j) => j);
    this.#rows = [{ from: 0, costs, edits: new Uint8Array(costs.length).fill(ADDED) }];
  }

  /** The edits of a text. All texts of one table are equally long; rows of words that the last one began with are kept. */
  of(text: readonly string[]): number {
    const reference = this.#reference;
    const end = reference.length + 1;
    let same = 0;
    while (same < this.#text.length && this.#text[same] === text[same]) same++;
    this.#text = text;
    const ratio = text.length > 0 ? reference.length / text.length : 1;
    const beam = BEAM < ratio / 2 ? Math.ceil(ratio / 2 + BEAM) : BEAM;
    for (let i = same + 1; i <= text.length; i++) {
      const above = this.#rows[i - 1]!;
      const diagonal = Math.floor(i * ratio);
      const last = i === text.length ? end : Math.min(end, diagonal + beam);
      const from = Math.max(0, diagonal - beam);
      const row = { from, costs: new Float64Array(last - from), edits: new Uint8Array(last - from) };
      for (let j = from; j < last; j++) {
        const equal = j > 0 && text[i - 1] === reference[j - 1];
        // Of equally many edits the first of these is taken.
        const both = costAt(above, j - 1) + (equal ? 0 : 1);
        const dropped = costAt(above, j) + 1;
        const added = j > from ? row.costs[j - 1 - from]! + 1 : Number.POSITIVE_INFINITY;
        const [cost, edit] =
          both <= dropped && both <= added
            ? [both, equal ? SAME : OTHER]
            : dropped <= added
              ? [dropped, DROPPED]
              : [added, ADDED];
        row.costs[j - from] = cost;
        row.edits[j - from] = edit;
      }
      this.#rows[i] = row;
    }
    return costAt(this.#rows[text.length]!, reference.length);
  }

  /** Of the last text: where each word of the reference lies in it, and which words of both are not matched. */
  alignment(): {
    readonly at: readonly number[];
    readonly missed: readonly boolean[];
    readonly wrong: readonly boolean[];
  } {
    let [i, j] = [this.#text.length, this.#reference.length];
    const at = new Array<number>(j);
    const missed = new Array<boolean>(j).fill(true);
    const wrong = new Array<boolean>(i).fill(true);
    while (i > 0 || j > 0) {
      const { from, edits } = this.#rows[i]!;
      const edit = edits[j - from]!;
      if (edit !== DROPPED) at[j - 1] = i - 1; // a word of the reference alone comes after the word of the text before it
      if (edit === SAME) missed[j - 1] = wrong[i - 1] = false;
      if (edit !== ADDED) i--;
      if (edit !== DROPPED) j--;
    }
    return { at, missed, wrong };
  }
}

function moved(text: readonly string[], start: number, length: number, to: number): string[] {
  const run = text.slice(start, start + length);
  if (to < start) return [...text.slice(0, to), ...run, ...text.slice(to, start), ...text.slice(start + length)];
  if (to > start + length) {
    return [...text.slice(0, start), ...text.slice(start + length, to), ...run, ...text.slice(to)];
  }
  return [...text.slice(0, start), ...text.slice(start + length, length + to), ...run, ...text.slice(length + to)];
}

/** Runs of words that a text and its reference have in common: each start in both, and each length. */
function* runsOf(text: readonly string[], reference: readonly string[]): Generator<readonly [number, number, number]> {
  for (let a = 0; a < text.length; a++) {
    for (let b = Math.max(0, a - FARTHEST); b <= Math.min(reference.length - 1, a + FARTHEST); b++) {
      for (let n = 0; n < LONGEST_RUN && a + n < text.length && b + n < reference.length; n++) {
        if (text[a + n] !== reference[b + n]) break;
        yield [a, b, n + 1];
      }
    }
  }
}

interface Move {
  readonly gain: number;
  readonly length: number;
  readonly start: number;
  readonly to: number;
  readonly text: readonly string[];
}

/** Most edits saved, then the longest run, then the first one, then the first place. */
const isBetter = (a: Move, b: Move): boolean =>
  (a.gain - b.gain || a.length - b.length || b.start - a.start || b.to - a.to) > 0;

/** The fewest edits of a text, moves among them. */
function edits(text: readonly string[], reference: readonly string[]): number {
  if (reference.length === 0) return text.length;
  const distances = new Distances(reference);
  let left = text;
  let tried = 0;
  for (let moves = 0; ; moves++) {
    const before = distances.of(left);
    const { at, missed, wrong } = distances.alignment();
    let best: Move | undefined;
    for (const [start, target, length] of runsOf(left, reference)) {
      if (!wrong.slice(start, start + length).includes(true)) continue;
      if (!missed.slice(target, target + length).includes(true)) continue;
      if (start <= at[target]! && at[target]! < start + length) continue;
      let last = -1;
      for (let offset = -1; offset < length; offset++) {
        const place = target + offset;
        const to = place === -1 ? 0 : at[place]! + 1;
        if (to === last) continue;
        last = to;
        const shifted = moved(left, start, length, to);
        const move = { gain: before - distances.of(shifted), length, start, to, text: shifted };
        tried++;
        if (!best || isBetter(move, best)) best = move;
      }
      if (tried >= MOST_TRIED) break;
    }
    if (tried >= MOST_TRIED || !best || best.gain <= 0) return moves + before;
    left = best.text;
  }
}

export const TER: CorpusMetric = {
  /** Edits to the nearest reference, and the mean length of the references. */
  statistics(text, references) {
    const own = wordsOf(text);
    const others = references.map(wordsOf);
    const lengths = others.reduce((sum, { length }) => sum + length, 0);
    return [Math.min(...others.map((other) => edits(own, other))), lengths / others.length];
  },
  score: ([edited = 0, length = 0]) => 100 * (length > 0 ? edited / length : edited > 0 ? 1 : 0),
};
