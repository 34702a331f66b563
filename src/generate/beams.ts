// Beam search as transformers 5 has it (generation/utils.py, _beam_search): the likeliest continuations of each text are kept and
// continued together. One decode session has a row for each beam; the choice is made on the host, from the logits of all rows, and
// rows then continue the texts of their parents.

import type { Device } from "../core/device.js";
import { OptionError, throwIfAborted } from "../core/errors.js";
import type { CacheDType, CrossCache } from "../nn/cache.js";
import type { Decoder } from "../nn/decoder.js";
import type { AttentionChoice } from "../nn/pass.js";
import { philoxUniform } from "../ops/sample.js";
import { type BeamConfig, type GenerationConfig, GREEDY } from "./config.js";
import type { Ends } from "./ending.js";
import { type Batch, promptsOf } from "./inputs.js";
import type { GenerateOutput } from "./options.js";
import { type PromptProgress, promptProgress } from "./prefill.js";
import { logSoftmax } from "./processors/host/base.js";
import type { HostProcessor, HostState } from "./processors/host-processor.js";
import type { Kept } from "./scores.js";
import { DecodeSession } from "./session.js";

export interface BeamOptions {
  readonly config: GenerationConfig;
  readonly beams: BeamConfig;
  readonly cache_dtype: CacheDType;
  /** What ends texts beside their length and the ids that end them. */
  readonly ends?: Ends | undefined;
  readonly signal?: AbortSignal;
  /** Hears how far the prompts are; what it throws ends the search. */
  readonly progress?: (event: PromptProgress) => void;
  /** Called for the log-probabilities of each beam, in this order. */
  readonly processors: readonly HostProcessor[];
  /** Encoder-decoders: the encoder's output for each beam. */
  readonly cross?: CrossCache;
  /** How attention is computed; by default as the model has it. */
  readonly attention?: AttentionChoice | undefined;
  /** Numbers of the prompts, by which their random numbers are drawn; their places by default. */
  readonly numbers?: readonly number[];
  /** Gets the scores of each step. */
  readonly kept?: Kept | undefined;
  /** With guidance: the text in place of each prompt where there is no condition. */
  readonly unconditional?: readonly (readonly number[])[] | undefined;
}

export interface BeamResult {
  /** New tokens of each returned text: `num_return_sequences` per prompt, the best first. */
  readonly texts: readonly (readonly number[])[];
  /** The sum of their log-probabilities, divided by length ** length_penalty. */
  readonly scores: readonly number[];
  /** The row that each of its tokens continues. */
  readonly rows: readonly (readonly number[])[];
  /** Steps that were taken. */
  readonly steps: number;
}

/** Less than any score: what transformers adds to candidates that do not count. */
const OUT = -1e9;

interface Beam {
  /** f32 sum of log-probabilities. */
  readonly score: number;
  /** New tokens, and the rows that they continue. */
  readonly ids: readonly number[];
  readonly rows: readonly number[];
}

interface Slot extends Beam {
  readonly finished: boolean;
}

/** The beams of one prompt. */
interface Item {
  /** The row of its first beam. */
  readonly first: number;
  running: Beam[];
  slots: Slot[];
  /** False once no running beam can become better than the finished ones; it stays so. */
  open: boolean;
}

/** A continuation: token `id` after beam `from`. */
interface Candidate {
  readonly from: number;
  readonly id: number;
  readonly score: number;
}

/** Keeps the logits of all rows of a step, which are the same array until the next one. */
class Tap implements HostProcessor {
  readonly rows = new Map<number, Float32Array>();
  readonly unconditional = new Map<number, Float32Array>();

  process(logits: Float32Array, { row, unconditional }: HostState): void {
    this.rows.set(row, logits.slice());
    if (unconditional) this.unconditional.set(row, unconditional.slice());
  }
}

/**
 * Searches until nothing better can come, or texts have `max_new_tokens`.
 * @throws AbortError, KernelError, OutOfMemoryError; what a processor throws
 */
export async function beamSearch(
  device: Device,
  model: Decoder,
  batch: Batch,
  options: BeamOptions,
): Promise<BeamResult> {
  const { config, beams, signal, progress, cache_dtype, cross, attention } = options;
  const { num_beams } = beams;
  throwIfAborted(signal, "generation");
  const prompts = promptsOf(batch);
  const texts = [...prompts, ...(options.unconditional ?? [])];
  const guided = texts.length > prompts.length;
  const longest = texts.reduce((most, { length }) => Math.max(most, length), 0);
  const tap = new Tap();
  const shape = { rows: texts.length * num_beams, capacity: longest + config.max_new_tokens };
  using session = new DecodeSession(device, model, { ...shape, cache_dtype, processors: [tap], cross, attention, guided });
  // The session never ends a row: tokens are this search's, not its own.
  const request = { ...GREEDY, max_new_tokens: config.max_new_tokens, eos_token_ids: [] };
  const total = texts.reduce((sum, { length }) => sum + length, 0); // each is read once, whatever its beams
  progress?.(promptProgress("initiate", 0, total));
  await session.add(
    texts.map((prompt, item) => ({ row: item * num_beams, prompt, config: request })),
    { signal, ran: (tokens) => progress?.(promptProgress("progress", tokens, total)) },
  );
  for (let row = 0; row < shape.rows; row++) {
    if (row % num_beams > 0) session.fork(row - (row % num_beams), row, request, row);
  }
  const items: Item[] = prompts.map((_, item) => ({
    first: item * num_beams,
    running: Array.from({ length: num_beams }, (_, n) => ({ score: n === 0 ? 0 : OUT, ids: [], rows: [] })),
    slots: Array.from({ length: num_beams }, () => ({
      score: Number.NEGATIVE_INFINITY,
      ids: [],
      rows: [],
      finished: false,
    })),
    open: true,
  }));
  let length = 1;
  for (; ; length++) {
    await session.step();
    if (length === 1) progress?.(promptProgress("done", total, total));
    throwIfAborted(signal, "generation");
    const parents: number[] = [];
    const tokens: number[] = [];
    let ended = true;
    for (const [n, item] of items.entries()) {
      const candidates = await continuations(item, n, prompts[n]!, tap, options);
      const full = length >= config.max_new_tokens;
      const hits = candidates.map(
        ({ from, id }) =>
          full ||
          config.eos_token_ids.includes(id) ||
          options.ends?.([...prompts[n]!, ...item.running[from]!.ids, id]) !== undefined,
      );
      ended &&= hits.every(Boolean);
      finish(item, candidates, hits, length, beams);
      const next = proceed(item, candidates, hits, num_beams);
      for (const { from, id } of next) {
        parents.push(item.first + from);
        tokens.push(id);
      }
      item.open &&= canImprove(item, length, config.max_new_tokens, beams);
    }
    const full = beams.early_stopping === true && items.every(({ slots }) => slots.every(({ finished }) => finished));
    if (ended || full || !items.some(({ open }) => open)) break;
    const beside = guided ? parents.map((row) => row + shape.rows / 2) : [];
    session.reorder([...parents, ...beside], guided ? [...tokens, ...tokens] : tokens);
  }
  const best = items.flatMap(({ slots }) => slots.slice(0, beams.num_return_sequences));
  return {
    texts: best.map(({ ids }) => ids),
    scores: best.map(({ score }) => score),
    rows: best.map(({ rows }) => rows),
    steps: length,
  };
}

/** The best of many candidates, the best first; of equal ones the earlier. */
class Best {
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

/**
 * Continuations of an item's beams, enough for `num_beams` that do not end: the best, the best first, or drawn by their
 * probabilities without replacement, as drawn.
 */
async function continuations(
  { running, first }: Item,
  item: number,
  prompt: readonly number[] | Int32Array,
  tap: Tap,
  { config, processors, numbers, kept }: BeamOptions,
): Promise<Candidate[]> {
  const count = Math.max(2, 1 + config.eos_token_ids.length) * running.length;
  const sums: Float32Array[] = [];
  for (const [from, beam] of running.entries()) {
    const row = first + from;
    const step = beam.ids.length;
    const scores = tap.rows.get(row)!;
    kept?.logits?.add(step, row, scores);
    logSoftmax(scores);
    const ids = [...prompt, ...beam.ids];
    const at = { row, ids, prompt: prompt.length, step, unconditional: tap.unconditional.get(row) };
    for (const processor of processors) await processor.process(scores, at);
    kept?.scores?.add(step, row, scores);
    for (let id = 0; id < scores.length; id++) scores[id] = scores[id]! + beam.score;
    sums.push(scores);
  }
  if (config.do_sample) {
    const step = running[0]!.ids.length;
    return drawn(sums, count, (n) => philoxUniform(config.seed, step * count + n, numbers?.[item] ?? item));
  }
  const best = new Best(count);
  for (const [from, row] of sums.entries()) for (let id = 0; id < row.length; id++) best.offer(from, id, row[id]!);
  return best.list;
}

/** Draws continuations by softmax of their sums, none of them twice; then the best of those that no draw can give. */
function drawn(sums: readonly Float32Array[], count: number, random: (n: number) => number): Candidate[] {
  let most = Number.NEGATIVE_INFINITY;
  for (const row of sums) for (const sum of row) if (sum > most) most = sum;
  const weights = sums.map((row) => Float64Array.from(row, (sum) => Math.exp(sum - most)));
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

/** Puts continuations that end into the slots: only those among the first `num_beams` count. */
function finish(
  item: Item,
  candidates: readonly Candidate[],
  hits: readonly boolean[],
  length: number,
  beams: BeamConfig,
): void {
  const { num_beams, length_penalty, early_stopping } = beams;
  const full = early_stopping === true && item.slots.every(({ finished }) => finished);
  if (full || !item.open) return;
  const added = candidates
    .filter((_, n) => n < num_beams && hits[n])
    .map(({ from, id, score }): Slot => {
      const normed = Math.fround(score / length ** length_penalty);
      return { score: normed, ...continued(item, from, id), finished: true };
    });
  // Stable: of equal scores the earlier one stays. A penalty may take scores to infinity, and a text that ended is still better
  // than none.
  const better = (a: Slot, b: Slot): number =>
    Number(b.finished) - Number(a.finished) || (b.score > a.score ? 1 : b.score < a.score ? -1 : 0);
  item.slots = [...item.slots, ...added].sort(better).slice(0, num_beams);
}

/** A beam's text with another token. */
function continued({ running, first }: Item, from: number, id: number): Pick<Beam, "ids" | "rows"> {
  const { ids, rows } = running[from]!;
  return { ids: [...ids, id], rows: [...rows, first + from] };
}

/** The beams that run on: the best that do not end. */
function proceed(
  item: Item,
  candidates: readonly Candidate[],
  hits: readonly boolean[],
  num_beams: number,
): Candidate[] {
  const order = candidates.map((candidate, n) => ({ candidate, key: candidate.score + (hits[n] ? OUT : 0) }));
  const next = order.sort((a, b) => b.key - a.key).slice(0, num_beams);
  item.running = next.map(({ candidate: { from, id }, key }) => ({
    score: Math.fround(key),
    ...continued(item, from, id),
  }));
  return next.map(({ candidate }) => candidate);
}

/** True if the best running beam may become better than the worst finished one. */
function canImprove({ running, slots }: Item, length: number, most: number, beams: BeamConfig): boolean {
  const { early_stopping, length_penalty } = beams;
  const reach = early_stopping === "never" && length_penalty > 0 ? most : length;
  const best = running[0]!.score / reach ** length_penalty;
  const worst = slots.reduce((least, { score }) => Math.min(least, score), Number.POSITIVE_INFINITY);
  return slots.some(({ finished }) => !finished || best > worst);
}

/** The result of `generate`: prompts, each for every text that is returned, with the new tokens, filled with the padding id. */
export function outputOf(
  batch: Batch,
  { texts, scores, rows, steps }: BeamResult,
  config: GenerationConfig,
  kept: Kept | undefined,
): GenerateOutput {
  const longest = texts.reduce((most, { length }) => Math.max(most, length), 0);
  const { num_return_sequences } = config.beams;
  const sequences = texts.map((ids, n) => {
    const item = Math.floor(n / num_return_sequences);
    const prompt = batch.ids.subarray(item * batch.steps, (item + 1) * batch.steps);
    return [...prompt, ...ids, ...new Array<number>(longest - ids.length).fill(config.pad_token_id)];
  });
  const beam_indices = rows.map((own) => [...own, ...new Array<number>(longest - own.length).fill(-1)]);
  return { sequences, sequences_scores: [...scores], beam_indices, ...keptScores(kept, steps) };
}

/** Callers may have asked for no beams themselves. */
const ONE_BEAM = "pass num_beams: 1, where generation_config.json may say more; for beams, generate() alone";

/** @throws OptionError for options that beams do not go with */
export function checkBeams(
  call: string,
  { beams }: GenerationConfig,
  options: Readonly<Record<string, unknown>>,
): void {
  const refuse = (option: string, message: string, hint?: string): never => {
    throw new OptionError(message, { details: { option }, hint });
  };
  if (beams.num_beams === 1) return;
  if (call === "stream") refuse("num_beams", "beams are known only at their end, so they cannot be streamed", ONE_BEAM);
  for (const option of ["streamer", "assistant_model", "logprobs"]) {
    if (options[option]) refuse(option, `${option} cannot be used with beams`, ONE_BEAM);
  }
  if (options.prompt_lookup_num_tokens) refuse("prompt_lookup_num_tokens", "beams take no guesses", ONE_BEAM);
}

/** What `generate` gives: the sequences alone, or all that was asked for. */
export function returned(
  { sequences, sequences_scores, beam_indices, ...kept }: GenerateOutput,
  options: { readonly return_dict_in_generate?: boolean | undefined; readonly output_scores?: boolean | undefined },
): number[][] | GenerateOutput {
  if (!options.return_dict_in_generate) return sequences;
  const ofBeams = options.output_scores && sequences_scores ? { sequences_scores, beam_indices: beam_indices! } : {};
  return { sequences, ...ofBeams, ...kept };
}

/** The scores of the steps that were taken. */
export function keptScores(kept: Kept | undefined, steps: number): Pick<GenerateOutput, "scores" | "logits"> {
  return {
    ...(kept?.scores ? { scores: kept.scores.take(steps) } : {}),
    ...(kept?.logits ? { logits: kept.logits.take(steps) } : {}),
  };
}
