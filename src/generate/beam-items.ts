// The beams of a search: candidates to continue them, the texts that have ended, and when no better one can come. The rules are
// those of transformers 5 (generation/utils.py, _beam_search); of groups of beams, those of its version 4 (BeamSearchScorer).

import type { BeamConfig } from "./beam-config.js";
import { powers } from "./processors/host/base.js";

/** Less than any score: what transformers adds to candidates that do not count. */
const OUT = -1e9;

export interface Beam {
  /** f32 sum of log-probabilities. */
  readonly score: number;
  /** New tokens, and the rows that they continue. */
  readonly ids: readonly number[];
  readonly rows: readonly number[];
}

export interface Slot extends Beam {
  readonly finished: boolean;
}

/** The beams of one prompt, or one group of them. */
export interface Item {
  /** The number of its prompt, and of its group among the prompt's. */
  readonly prompt: number;
  readonly group: number;
  /** The row of its first beam. */
  readonly first: number;
  running: Beam[];
  slots: Slot[];
  /** False once no running beam can become better than the finished ones; it stays so. */
  open: boolean;
}

/** A continuation: token `id` after beam `from`. */
export interface Candidate {
  readonly from: number;
  readonly id: number;
  readonly score: number;
}

/** The beams of a search before its first step, those of a prompt one after the other. */
export function itemsOf(prompts: number, { num_beams, num_beam_groups }: BeamConfig): Item[] {
  const size = num_beams / num_beam_groups;
  const none = { score: Number.NEGATIVE_INFINITY, ids: [], rows: [], finished: false };
  return Array.from({ length: prompts * num_beam_groups }, (_, n) => ({
    prompt: Math.floor(n / num_beam_groups),
    group: n % num_beam_groups,
    first: n * size,
    running: Array.from({ length: size }, (_, beam) => ({ score: beam === 0 ? 0 : OUT, ids: [], rows: [] })),
    slots: new Array<Slot>(size).fill(none),
    open: true,
  }));
}

/** True once the texts of an item stay what they are. */
export function isClosed({ open, slots }: Item, { early_stopping }: BeamConfig): boolean {
  return !open || (early_stopping === true && slots.every(({ finished }) => finished));
}

/** The best of many candidates, the best first; of equal ones the earlier. */
export class Best {
  readonly list: Candidate[] = [];
  readonly #count: number;

  constructor(count: number) {
    this.#count = count;
  }

  offer(from: number, id: number, score: number): void {
    const { list } = this;
    if (list.length === this.#count && !(score > list.at(-1)!.score)) return;
    let place = list.length;
    while (place > 0 && score > list[place - 1]!.score) place--;
    list.splice(place, 0, { from, id, score });
    if (list.length > this.#count) list.pop();
  }
}

/** Draws continuations by softmax of their sums, none of them twice; then the best of those that no draw can give. */
export function drawn(sums: readonly Float32Array[], count: number, random: (n: number) => number): Candidate[] {
  let most = Number.NEGATIVE_INFINITY;
  for (const row of sums) for (const sum of row) if (sum > most) most = sum;
  const weights = sums.map((row) => powers(row, most));
  const picked: Candidate[] = [];
  while (picked.length < count) {
    let left = 0;
    for (const row of weights) for (const weight of row) left += weight;
    let rest = random(picked.length) * left;
    let last: Candidate | undefined;
    search: for (const [from, row] of weights.entries()) {
      for (let id = 0; id < row.length; id++) {
        if (!(row[id]! > 0)) continue;
        last = { from, id, score: sums[from]![id]! };
        rest -= row[id]!;
        if (rest < 0) break search;
      }
    }
    if (!last) break;
    picked.push(last);
    weights[last.from]![last.id] = 0;
  }
  const others = new Best(count - picked.length);
  const taken = new Set(picked.map(({ from, id }) => from * sums[0]!.length + id));
  if (picked.length < count) {
    for (const [from, row] of sums.entries()) {
      for (let id = 0; id < row.length; id++) if (!taken.has(from * row.length + id)) others.offer(from, id, row[id]!);
    }
  }
  return [...picked, ...others.list];
}

/** Puts continuations that end into the slots: only those among the first as many as beams count. */
export function finish(
  item: Item,
  candidates: readonly Candidate[],
  hits: readonly boolean[],
  length: number,
  beams: BeamConfig,
): void {
  if (isClosed(item, beams)) return;
  const size = item.slots.length;
  keepBest(
    item,
    candidates.filter((_, n) => n < size && hits[n]).map((candidate) => slotOf(item, candidate, length, beams)),
  );
}

/** A text that ends with a candidate. */
export function slotOf(item: Item, { from, id, score }: Candidate, length: number, beams: BeamConfig): Slot {
  const normed = Math.fround(score / length ** beams.length_penalty);
  return { score: normed, ...continued(item, from, id), finished: true };
}

/** Puts texts that have ended into the slots, which keep the best. */
export function keepBest(item: Item, added: readonly Slot[]): void {
  // Stable: of equal scores the earlier one stays. A penalty may take scores to infinity, and a text that ended is still better
  // than none.
  const better = (a: Slot, b: Slot): number =>
    Number(b.finished) - Number(a.finished) || (b.score > a.score ? 1 : b.score < a.score ? -1 : 0);
  item.slots = [...item.slots, ...added].sort(better).slice(0, item.slots.length);
}

/** A beam's text with another token. */
function continued({ running, first }: Item, from: number, id: number): Pick<Beam, "ids" | "rows"> {
  const { ids, rows } = running[from]!;
  return { ids: [...ids, id], rows: [...rows, first + from] };
}

/** The beams that run on: the best that do not end. */
export function proceed(item: Item, candidates: readonly Candidate[], hits: readonly boolean[]): Candidate[] {
  const order = candidates.map((candidate, n) => ({ candidate, key: candidate.score + (hits[n] ? OUT : 0) }));
  const next = order.sort((a, b) => b.key - a.key).slice(0, item.running.length);
  run(
    item,
    next.map(({ candidate, key }) => ({ ...candidate, score: key })),
  );
  return next.map(({ candidate }) => candidate);
}

/** From now on the beams are these continuations. */
export function run(item: Item, next: readonly Candidate[]): void {
  item.running = next.map(({ from, id, score }) => ({ score: Math.fround(score), ...continued(item, from, id) }));
}

/**
 * True if a beam may become better than the worst finished one.
 * @param candidates those of this step: of groups and with constraints, the best of them counts even if it ends
 */
export function canImprove(
  { running, slots }: Item,
  candidates: readonly Candidate[],
  { length, most }: { readonly length: number; readonly most: number },
  beams: BeamConfig,
): boolean {
  const { early_stopping, length_penalty, num_beam_groups, constraints } = beams;
  const { score } = num_beam_groups > 1 || constraints.length > 0 ? candidates[0]! : running[0]!;
  const reach = early_stopping === "never" && length_penalty > 0 ? most : length;
  const best = score / reach ** length_penalty;
  const worst = slots.reduce((least, { score }) => Math.min(least, score), Number.POSITIVE_INFINITY);
  return slots.some(({ finished }) => !finished || best > worst);
}
