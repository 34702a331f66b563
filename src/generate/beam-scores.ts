// The continuations of beams, from the logits of a step. Where nothing changes the scores, only tokens near the best are looked at: the rest of
// a vocabulary cannot be chosen.

import { philoxUniform } from "../ops/sample.js";
import type { BeamConfig } from "./beam-config.js";
import { Best, type Candidate, drawn, type Item } from "./beam-items.js";
import type { GenerationConfig } from "./config.js";
import type { Continuations } from "./constrained-beams.js";
import { largest, logSoftmax } from "./processors/host/base.js";
import type { HostProcessor } from "./processors/host-processor.js";
import type { Kept } from "./scores.js";
import type { RowToken } from "./sequence.js";

/** What changes the scores of continuations, and who gets them. */
export interface ScoreOptions {
  readonly config: GenerationConfig;
  readonly beams: BeamConfig;
  /** Called for the log-probabilities of each beam, in this order. */
  readonly processors: readonly HostProcessor[];
  /** Numbers of the prompts, by which their random numbers are drawn; their places by default. */
  readonly numbers?: readonly number[];
  /** Gets the scores of each step. */
  readonly kept?: Kept | undefined;
}

/** The logits of all rows of a step. */
export class StepLogits {
  readonly #rows: number;
  /** The first row of the texts without a condition. */
  readonly #beside: number | undefined;
  #logits: Float32Array = new Float32Array(0);
  /** The likeliest token of each row, with its log-probability. */
  #likeliest: readonly RowToken[] = [];

  /** @param guided the second half of the rows are the texts without their condition */
  constructor(rows: number, guided: boolean) {
    this.#rows = rows;
    this.#beside = guided ? rows / 2 : undefined;
  }

  /** @param logits f32[R,V] */
  see(logits: Float32Array): void {
    this.#logits = logits;
  }

  /** @param tokens of a session that takes the likeliest ones, and keeps scores */
  take(tokens: readonly RowToken[]): void {
    this.#likeliest = tokens;
  }

  /** f32[V]. */
  row(row: number): Float32Array {
    const vocab = this.#logits.length / this.#rows;
    return this.#logits.subarray(row * vocab, (row + 1) * vocab);
  }

  /** The same text without its condition. */
  unconditional(row: number): Float32Array | undefined {
    return this.#beside === undefined ? undefined : this.row(this.#beside + row);
  }

  /** The logarithm of the sum of e^logit, which the device has found. */
  shift(row: number): number {
    const { id, score } = this.#likeliest.find((token) => token.row === row)!;
    return this.row(row)[id]! - score!;
  }
}

/**
 * Continuations of an item's beams, enough for `num_beams` that do not end: the best, the best first, or drawn by their
 * probabilities without replacement, as drawn.
 * @param chosen tokens that earlier groups of the same prompt have chosen in this step
 */
export async function continuations(
  item: Item,
  prompt: readonly number[],
  chosen: readonly number[],
  logits: StepLogits,
  options: ScoreOptions,
): Promise<Continuations> {
  const { config, beams, processors, numbers, kept } = options;
  const { running, first } = item;
  const count = Math.max(2, 1 + config.eos_token_ids.length) * running.length;
  const plain = processors.length === 0 && !kept && !config.do_sample && beams.constraints.length === 0;
  if (plain && (chosen.length === 0 || beams.diversity_penalty === 0)) {
    const list = likeliest(item, count, logits);
    if (list) return { list, sums: [] };
  }
  const sums: Float32Array[] = [];
  for (const [from, beam] of running.entries()) {
    const row = first + from;
    const step = beam.ids.length;
    const scores = logits.row(row);
    kept?.logits?.add(step, row, scores);
    logSoftmax(scores);
    const ids = [...prompt, ...beam.ids];
    const at = { row, ids, prompt: prompt.length, step, unconditional: logits.unconditional(row) };
    for (const processor of processors) await processor.process(scores, at);
    diversify(scores, chosen, beams.diversity_penalty);
    kept?.scores?.add(step, row, scores);
    for (let id = 0; id < scores.length; id++) scores[id] = scores[id]! + beam.score;
    sums.push(scores);
  }
  if (config.do_sample) {
    const step = running[0]!.ids.length;
    const random = (n: number): number =>
      philoxUniform(config.seed, step * count + n, numbers?.[item.prompt] ?? item.prompt);
    return { list: drawn(sums, count, random), sums };
  }
  const best = new Best(count);
  for (const [from, row] of sums.entries()) for (let id = 0; id < row.length; id++) best.offer(from, id, row[id]!);
  return { list: best.list, sums };
}

/** The best continuations by log-probabilities as they are; undefined where scores are not finite. */
function likeliest({ running, first }: Item, count: number, logits: StepLogits): Candidate[] | undefined {
  const best = new Best(count);
  const sum = new Float32Array(1);
  for (const [from, { score }] of running.entries()) {
    const own = logits.row(first + from);
    const shift = logits.shift(first + from);
    const last = own[largest(own, count).at(-1)!]!;
    // Rounding keeps the order of logits, but makes equal what was nearly so; of equal ones the first counts.
    const near = last - 2 ** -21 * (Math.abs(last - shift) + Math.abs(score));
    if (!Number.isFinite(near)) return undefined;
    for (let id = 0; id < own.length; id++) {
      if (!(own[id]! >= near)) continue;
      sum[0] = own[id]! - shift;
      sum[0] += score;
      best.offer(from, id, sum[0]);
    }
  }
  return best.list;
}

/** Lowers the scores of what earlier groups have chosen, by each who did (Vijayakumar et al. 2018, Hamming diversity). */
function diversify(scores: Float32Array, chosen: readonly number[], penalty: number): void {
  const counts = new Map<number, number>();
  for (const id of chosen) counts.set(id, (counts.get(id) ?? 0) + 1);
  for (const [id, count] of counts) scores[id] = scores[id]! - Math.fround(penalty * count);
}
