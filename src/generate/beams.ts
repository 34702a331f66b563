// Beam search as transformers 5 has it (generation/utils.py, _beam_search): the likeliest continuations of each text are kept and
// continued together. One decode session has a row for each beam; the choice is made on the host, from the logits of all rows, and
// rows then continue the texts of their parents. Beams may be in groups, which avoid each other's tokens.

import type { RowAdapters } from "../adapters/rows.js";
import type { Device } from "../core/device.js";
import { OptionError, throwIfAborted } from "../core/errors.js";
import type { CacheDType, CrossCache } from "../nn/cache.js";
import type { Decoder } from "../nn/decoder.js";
import type { AttentionChoice } from "../nn/pass.js";
import type { BeamConfig } from "./beam-config.js";
import { type Candidate, canImprove, finish, type Item, isClosed, itemsOf, proceed, type Slot } from "./beam-items.js";
import { continuations, type ScoreOptions, StepLogits } from "./beam-scores.js";
import { type GenerationConfig, GREEDY } from "./config.js";
import { ConstrainedBeams } from "./constrained-beams.js";
import type { Ends } from "./ending.js";
import { type Batch, promptsOf } from "./inputs.js";
import type { GenerateOutput } from "./options.js";
import { type PromptProgress, promptProgress } from "./prefill.js";
import type { Kept } from "./scores.js";
import { DecodeSession } from "./session.js";

export interface BeamOptions extends ScoreOptions {
  readonly cache_dtype: CacheDType;
  /** What ends texts beside their length and the ids that end them. */
  readonly ends?: Ends | undefined;
  readonly signal?: AbortSignal;
  /** Hears how far the prompts are; what it throws ends the search. */
  readonly progress?: (event: PromptProgress) => void;
  /** Encoder-decoders: the encoder's output for each beam. */
  readonly cross?: CrossCache;
  /** The adapters of the session's rows, where they have adapters of their own. */
  readonly adapters?: RowAdapters | undefined;
  /** How attention is computed; by default as the model has it. */
  readonly attention?: AttentionChoice | undefined;
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
  const shape = { rows: texts.length * num_beams, capacity: longest + config.max_new_tokens };
  const step = new StepLogits(shape.rows, guided);
  using session = new DecodeSession(device, model, {
    ...shape,
    cache_dtype,
    scores: true,
    watch: (logits) => step.see(logits),
    cross,
    attention,
    guided,
    adapters: options.adapters,
  });
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
  const items = itemsOf(prompts.length, beams);
  const constrained = beams.constraints.length > 0 ? new ConstrainedBeams(beams) : undefined;
  for (const item of items) constrained?.begin(item, prompts[item.prompt]!);
  let length = 1;
  for (; ; length++) {
    step.take((await session.step())!);
    if (length === 1) progress?.(promptProgress("done", total, total));
    throwIfAborted(signal, "generation");
    const parents: number[] = [];
    const tokens: number[] = [];
    let ended = true;
    /** Tokens that earlier groups of the same prompt have chosen in this step. */
    let chosen: number[] = [];
    for (const item of items) {
      const prompt = prompts[item.prompt]!;
      if (item.group === 0) chosen = [];
      const full = length >= config.max_new_tokens;
      const closed = isClosed(item, beams);
      if (constrained && closed) {
        // A prompt that is done goes on as it is: there is nothing to choose, and no score to keep.
        ended &&= full;
        for (const from of item.running.keys()) {
          parents.push(item.first + from);
          tokens.push(config.pad_token_id);
        }
        continue;
      }
      const found = await continuations(item, prompt, chosen, step, options);
      const { list: candidates } = found;
      const ends = ({ from, id }: Candidate): boolean =>
        options.ends?.([...prompt, ...item.running[from]!.ids, id]) !== undefined;
      let next: readonly Candidate[];
      if (constrained) {
        next = constrained.step(item, found, ends, length, config.eos_token_ids);
        ended &&= full;
      } else {
        const hits = candidates.map((one) => full || config.eos_token_ids.includes(one.id) || ends(one));
        ended &&= hits.every(Boolean);
        finish(item, candidates, hits, length, beams);
        next = proceed(item, candidates, hits);
      }
      for (const { from, id } of next) {
        parents.push(item.first + from);
        tokens.push(id);
        // A group that has ended goes on with padding.
        chosen.push(closed ? config.pad_token_id : id);
      }
      item.open &&= canImprove(item, candidates, { length, most: config.max_new_tokens }, beams);
      if (full) constrained?.finish(item, length);
    }
    if (ended || items.every((item) => isClosed(item, beams))) break;
    const beside = guided ? parents.map((row) => row + shape.rows / 2) : [];
    session.reorder([...parents, ...beside], guided ? [...tokens, ...tokens] : tokens);
  }
  const best = prompts.flatMap((_, prompt) => bestOf(items, prompt, beams));
  return {
    texts: best.map(({ ids }) => ids),
    scores: best.map(({ score }) => score),
    rows: best.map(({ rows }) => rows),
    steps: length,
  };
}

/** The texts of a prompt that are returned. */
function bestOf(items: readonly Item[], prompt: number, { num_return_sequences }: BeamConfig): Slot[] {
  const groups = items.filter((item) => item.prompt === prompt).map(({ slots }) => slots);
  const [first] = groups;
  // Of equal scores the text of the later group comes first, as in transformers.
  const all =
    groups.length === 1
      ? first!
      : groups
          .flat()
          .sort((a, b) => a.score - b.score)
          .reverse();
  return all.slice(0, num_return_sequences);
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
