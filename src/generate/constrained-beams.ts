// The steps of beams whose texts must hold words (constraints.ts), by the rules of transformers 4 (ConstrainedBeamSearchScorer): beside the
// likeliest continuations stand those that lead a constraint on, and from every bank, texts that are equally far, some run on.

import type { BeamConfig } from "./beam-config.js";
import { type Beam, type Candidate, type Item, isClosed, keepBest, run, slotOf } from "./beam-items.js";
import { Constraints, type Progress } from "./constraints.js";

/** Factor on banks: more than scores should differ by. */
const BANK = 100;

/** Candidates of an item, the best first, and the sums of all continuations: [beam][id]. */
export interface Continuations {
  readonly list: readonly Candidate[];
  readonly sums: readonly Float32Array[];
}

export class ConstrainedBeams {
  readonly #beams: BeamConfig;
  readonly #constraints: Constraints;
  readonly #progress = new WeakMap<Beam, Progress>();

  constructor(beams: BeamConfig) {
    this.#beams = beams;
    this.#constraints = new Constraints(beams.constraints);
  }

  /** How far each beam of an item is, before its first step. */
  begin({ running }: Item, prompt: readonly number[]): void {
    const progress = this.#constraints.begin(prompt);
    for (const beam of running) this.#progress.set(beam, progress);
  }

  /**
   * Puts texts that end into the slots, and chooses the beams that run on.
   * @param ends true for candidates that end for another reason than the ids of ends
   * @param length new tokens of the texts with this step
   */
  step(
    item: Item,
    { list, sums }: Continuations,
    ends: (candidate: Candidate) => boolean,
    length: number,
    eos_token_ids: readonly number[],
  ): readonly Candidate[] {
    const size = item.running.length;
    const chosen: Candidate[] = [];
    const ended: Candidate[] = [];
    for (const [rank, candidate] of list.entries()) {
      const { from, id, score } = candidate;
      const eos = eos_token_ids.includes(id);
      if (!eos && !ends(candidate)) chosen.push(candidate);
      else {
        ended.push(candidate);
        const before = this.#of(item, from);
        const progress = eos ? before : this.#constraints.add(before, id);
        // Whatever id ended it, a text ends with the first of them.
        const last = eos ? eos_token_ids[0]! : id;
        if (rank < size && this.#constraints.isComplete(progress)) {
          keepBest(item, [slotOf(item, { from, id: last, score }, length, this.#beams)]);
        }
      }
      if (chosen.length === size) break;
    }
    // Rules of the caller may end all candidates.
    chosen.push(...ended.slice(0, size - chosen.length));
    const states: Progress[] = [];
    const next = this.#advanced(item, chosen, sums, states);
    run(item, next);
    for (const [n, beam] of item.running.entries()) this.#progress.set(beam, states[n]!);
    return next;
  }

  #of({ running }: Item, from: number): Progress {
    return this.#progress.get(running[from]!)!;
  }

  /** The likeliest continuations and those that lead on, one from each bank in turn. @param states gets how far each is */
  #advanced(
    item: Item,
    chosen: readonly Candidate[],
    sums: readonly Float32Array[],
    states: Progress[],
  ): readonly Candidate[] {
    const constraints = this.#constraints;
    const key = ({ from, id }: Candidate): string => [...item.running[from]!.ids, id].join();
    const seen = new Set(chosen.map(key));
    const all = chosen.map((candidate) => ({
      candidate,
      state: constraints.add(this.#of(item, candidate.from), candidate.id),
    }));
    for (const from of item.running.keys()) {
      for (const [id, state] of constraints.advances(this.#of(item, from))) {
        const candidate = { from, id, score: sums[from]![id]! };
        if (seen.has(key(candidate))) continue;
        seen.add(key(candidate));
        all.push({ candidate, state });
      }
    }
    const banked = all.map((one) => ({ ...one, bank: constraints.bank(one.state) }));
    const value = ({ bank, candidate }: (typeof banked)[number]): number => bank * BANK + candidate.score;
    if (all.length > chosen.length) banked.sort((a, b) => value(b) - value(a));
    // The first of every bank, then the second, ...
    const places = new Map<number, number>();
    const ranked = banked.map((one) => {
      const place = all.length > chosen.length ? (places.get(one.bank) ?? 0) : 0;
      places.set(one.bank, place + 1);
      return { ...one, place };
    });
    const kept = ranked.sort((a, b) => a.place - b.place).slice(0, chosen.length);
    states.push(...kept.map(({ state }) => state));
    return kept.map(({ candidate }) => candidate);
  }

  /** Puts texts into the slots that are as long as they may be: those that hold all words, and the others if these are too few. */
  finish(item: Item, length: number): void {
    if (isClosed(item, this.#beams)) return;
    const whole = (beam: Beam): boolean => this.#constraints.isComplete(this.#progress.get(beam)!);
    const complete = item.running.filter(whole);
    const few = complete.length < this.#beams.num_return_sequences;
    const ended = few ? [...complete, ...item.running.filter((beam) => !whole(beam))] : complete;
    const { length_penalty } = this.#beams;
    keepBest(
      item,
      ended.map((beam) => ({ ...beam, score: Math.fround(beam.score / length ** length_penalty), finished: true })),
    );
  }
}
