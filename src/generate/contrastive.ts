// Contrastive search (Su et al. 2022, "A Contrastive Framework for Neural Text Generation"): of the likeliest tokens the one is taken
// whose probability is high and whose hidden state is unlike those of the text so far. The rules are those of transformers 4
// (_contrastive_search). A session has a row for each candidate of each text; all candidates are read in one pass.

import type { Device } from "../core/device.js";
import { throwIfAborted } from "../core/errors.js";
import type { Decoder } from "../nn/decoder.js";
import { GREEDY } from "./config.js";
import { type Batch, promptsOf } from "./inputs.js";
import type { LoopOptions, Step } from "./loop.js";
import { promptProgress } from "./prefill.js";
import { largest, softmax } from "./processors/host/base.js";
import type { HostProcessor, HostState } from "./processors/host-processor.js";
import type { FinishReason } from "./sequence.js";
import { DecodeSession } from "./session.js";

/** Keeps logits and hidden states of the rows of a step. */
class Tap implements HostProcessor {
  readonly logits = new Map<number, Float32Array>();
  readonly states = new Map<number, Float32Array>();

  process(logits: Float32Array, { row, states }: HostState): void {
    this.logits.set(row, logits.slice());
    this.states.set(row, states!);
  }
}

interface Text {
  readonly ids: number[];
  readonly prompt: number;
  /** Hidden states of all tokens, each of length 1. */
  readonly states: Float32Array[];
  /** The row that holds the text. */
  row: number;
  reason: FinishReason | undefined;
}

interface Candidate {
  readonly id: number;
  readonly probability: number;
  /** False where processors forbid it, and there are too few others. */
  readonly allowed: boolean;
}

/** As `generateSteps`: a step has the chosen token of each text. @throws as `generateSteps` */
export async function* contrastiveSteps(
  device: Device,
  model: Decoder,
  batch: Batch,
  options: LoopOptions,
): AsyncGenerator<Step> {
  const { config, signal, progress, cache_dtype, cross, attention, chunk } = options;
  const { top_k, penalty_alpha } = config.mode.contrastive!;
  const stop = (): void => throwIfAborted(signal, "generation");
  stop();
  const prompts = promptsOf(batch);
  const total = prompts.reduce((sum, { length }) => sum + length, 0);
  const longest = prompts.reduce((most, { length }) => Math.max(most, length), 0);
  // The last token is read as well, to be compared.
  const request = { ...GREEDY, max_new_tokens: config.max_new_tokens + 1, eos_token_ids: [] };
  const shape = { rows: batch.rows * top_k, capacity: longest + request.max_new_tokens };
  const tap = new Tap();
  using session = new DecodeSession(device, model, {
    ...shape,
    ...{ cache_dtype, cross, attention, adapters: options.adapters },
    processors: [tap],
    states: true,
  });
  const ran = (tokens: number): void => progress?.(promptProgress("progress", tokens, total));
  progress?.(promptProgress("initiate", 0, total));
  await session.add(
    prompts.map((prompt, item) => ({ row: item * top_k, prompt, config: request })),
    { signal, chunk, ran },
  );
  for (let row = 0; row < shape.rows; row++) {
    if (row % top_k > 0) session.fork(row - (row % top_k), row, request, row);
  }
  await session.step();
  progress?.(promptProgress("done", total, total));
  const texts = prompts.map((prompt, item): Text => {
    const states = unitRows(tap.states.get(item * top_k)!, prompt.length);
    return { ids: [...prompt], prompt: prompt.length, states, row: item * top_k, reason: undefined };
  });
  for (;;) {
    stop();
    const candidates: Candidate[][] = [];
    for (const [item, text] of texts.entries()) candidates.push(await likeliest(text, item, tap, top_k, options));
    session.reorder(
      texts.flatMap(({ row }) => new Array<number>(top_k).fill(row)),
      candidates.flatMap((own) => own.map(({ id }) => id)),
    );
    await session.step();
    stop();
    const running = texts.map(({ reason }) => reason === undefined);
    const taken = texts.map((text, item) => take(text, item, candidates[item]!, tap, penalty_alpha, options));
    yield {
      token_ids: taken.map(({ id }, item) => (running[item] ? id : config.pad_token_id)),
      finished: texts.map(({ reason }) => reason !== undefined),
      finish_reasons: texts.map(({ reason }) => reason),
      ...(options.scores
        ? { scores: taken.map(({ probability }, item) => (running[item] ? Math.log(probability) : Number.NaN)) }
        : {}),
      guessed: false,
    };
    if (texts.every(({ reason }) => reason !== undefined)) return;
  }
}

/** The likeliest tokens after a text, the likeliest first; of equal ones that of the lower id. */
async function likeliest(
  { ids, prompt, row, reason }: Text,
  item: number,
  tap: Tap,
  count: number,
  { processors = [] }: LoopOptions,
): Promise<Candidate[]> {
  const scores = tap.logits.get(row)!;
  // A text that has ended goes on by itself: nothing of it is used.
  if (!reason) {
    const at = { row: item, ids, prompt, step: ids.length - prompt };
    for (const processor of processors) await processor.process(scores, at);
  }
  const shares = softmax(scores);
  const allowed = (id: number): boolean => scores[id]! > Number.NEGATIVE_INFINITY;
  return largest(shares, count).map((id) => ({ id, probability: shares[id]!, allowed: allowed(id) }));
}

/** Takes the best of a text's candidates, which the rows of `tap` have read. */
function take(
  text: Text,
  item: number,
  candidates: readonly Candidate[],
  tap: Tap,
  alpha: number,
  { config, ends }: LoopOptions,
): Candidate {
  const first = item * candidates.length;
  let best = 0;
  let most = Number.NEGATIVE_INFINITY;
  let state: Float32Array | undefined;
  for (const [n, { probability, allowed }] of candidates.entries()) {
    if (state && !allowed) continue; // the likeliest comes first, and is taken where nothing is allowed
    const [own] = unitRows(tap.states.get(first + n)!, 1);
    const alike = text.states.reduce((near, other) => Math.max(near, dot(own!, other)), Number.NEGATIVE_INFINITY);
    const score = (1 - alpha) * probability - alpha * alike;
    if (state && !(score > most)) continue;
    [best, most, state] = [n, score, own];
  }
  const chosen = candidates[best]!;
  text.row = first + best;
  if (text.reason) return chosen;
  text.states.push(state!);
  text.ids.push(chosen.id);
  const full = text.ids.length - text.prompt >= config.max_new_tokens;
  text.reason = config.eos_token_ids.includes(chosen.id) ? "eos" : (ends?.(text.ids) ?? (full ? "length" : undefined));
  return chosen;
}

/** The rows of a matrix [rows,width], each divided by its length. */
function unitRows(values: Float32Array, rows: number): Float32Array[] {
  const width = values.length / rows;
  return Array.from({ length: rows }, (_, row) => {
    const own = values.subarray(row * width, (row + 1) * width);
    const length = Math.sqrt(dot(own, own));
    return own.map((value) => value / length);
  });
}

function dot(a: Float32Array, b: Float32Array): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i]! * b[i]!;
  return sum;
}
