// How fast a model runs: decode and prefill, timed on the module tree with the same pipelining that generate() has.
// Medians of several runs; nothing here decides whether a number is good.

import type { Device } from "../core/device.js";
import { GREEDY } from "../generate/config.js";
import type { RequestConfig, RowRequest } from "../generate/sequence.js";
import { DecodeSession } from "../generate/session.js";
import { type CacheDType, type CrossCache, cacheBytesPerToken } from "../nn/cache.js";
import type { CausalLM, Decoder } from "../nn/decoder.js";
import type { Model } from "../nn/model.js";
import { Matrix } from "../nn/module.js";
import { Seq2SeqLM } from "../nn/seq2seq.js";

export interface DecodeOptions {
  readonly batch: number;
  /** Tokens in the cache before the first timed step. */
  readonly context: number;
  /** Timed steps. */
  readonly steps: number;
  readonly cache_dtype: CacheDType;
  /** What the encoder of an encoder-decoder has read, for `batch` rows. */
  readonly cross?: CrossCache;
  /** Milliseconds after which three timed steps are enough; slow devices take fewer steps. */
  readonly patience?: number;
}

/** Median of numbers. */
export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const half = Math.floor(sorted.length / 2);
  return sorted.length % 2 === 1 ? sorted[half]! : (sorted[half - 1]! + sorted[half]!) / 2;
}

/** A model that decodes. */
export type DecodingModel = Decoder & Model;

/** The matrices that a decode step multiplies with: without an encoder's, and without those that only its output meets. */
function stepMatrices(model: DecodingModel): Matrix[] {
  const others = new Set<unknown>();
  if (model instanceof Seq2SeqLM) {
    const { encoder, decoder } = model.stacks;
    for (const parameter of encoder.parameters()) others.add(parameter);
    for (const { cross_attention } of decoder.layers) {
      for (const { weight } of cross_attention.projections) others.add(weight);
    }
    others.delete(model.output_embeddings().weight); // shared with the embedding
  }
  return [...model.parameters()].filter(
    (one): one is Matrix => one instanceof Matrix && one.product && !others.has(one),
  );
}

/** The share of a matrix that `tokens` tokens meet: of a stack those experts that as many random choices meet on average. */
function shareMet({ experts }: Matrix, { geometry }: DecodingModel, tokens: number): number {
  const { experts_per_token: chosen = 1 } = geometry;
  return experts === 1 ? 1 : 1 - (1 - chosen / experts) ** tokens;
}

/** Bytes of the weights that one decode step of `batch` tokens needs. */
export function weightsPerStep(model: DecodingModel, batch: number): number {
  return stepMatrices(model).reduce((sum, one) => sum + one.nbytes * shareMet(one, model, batch), 0);
}

/** Bytes that one decode step reads: the weights that it needs, and the keys and values of `context` tokens. */
export function bytesPerStep(model: DecodingModel, batch: number, context: number, cache_dtype: CacheDType): number {
  return weightsPerStep(model, batch) + batch * context * cacheBytesPerToken(model.geometry, cache_dtype);
}

function randomIds(rows: number, steps: number, vocab: number): Int32Array {
  return Int32Array.from({ length: rows * steps }, (_, i) => (i * 7919 + 13) % vocab);
}

/** Rows of prompts of random ids, each of which generates `tokens` tokens greedily. */
function randomRequests(rows: number, steps: number, vocab: number, tokens: number): RowRequest[] {
  const ids = randomIds(rows, steps, vocab);
  const config: RequestConfig = { ...GREEDY, max_new_tokens: tokens, eos_token_ids: [] };
  return Array.from({ length: rows }, (_, row) => ({
    row,
    prompt: ids.subarray(row * steps, (row + 1) * steps),
    config,
  }));
}

/** Multiplications and additions of the products in a prefill of `tokens` tokens; the head sees the last one alone. */
export function operationsOfPrefill(model: CausalLM, tokens: number): number {
  let operations = 0;
  for (const parameter of model.parameters()) {
    if (!(parameter instanceof Matrix && parameter.product)) continue;
    const [outputs, inputs] = parameter.shape;
    const { experts } = parameter;
    const met = experts === 1 ? 1 : (model.geometry.experts_per_token ?? 1) / experts;
    operations += 2 * outputs * inputs * met * (outputs === model.geometry.vocab ? 1 : tokens);
  }
  return operations;
}

/** Untimed steps before the first timed one. */
export const WARM_STEPS = 3;

/** Milliseconds of each of up to `steps` decode steps of `batch` tokens, run as generate() runs them. */
export async function decodeTimes(device: Device, model: DecodingModel, options: DecodeOptions): Promise<number[]> {
  const { batch, context, steps, cache_dtype, cross, patience = Number.POSITIVE_INFINITY } = options;
  const length = Math.max(1, context);
  const tokens = steps + WARM_STEPS + 2;
  using session = new DecodeSession(device, model, { rows: batch, capacity: length + tokens, cache_dtype, cross });
  await session.add(randomRequests(batch, length, model.geometry.vocab, tokens));
  await session.step();
  const times: number[] = [];
  let running = session.step();
  const begun = performance.now();
  let last = begun;
  for (let n = 0; n < WARM_STEPS + steps; n++) {
    const late = last - begun > patience;
    const more = n + 1 < WARM_STEPS + steps && !(late && times.length > 1);
    const next = more ? session.step() : undefined;
    await running;
    const now = performance.now();
    if (n >= WARM_STEPS || late) times.push(now - last);
    last = now;
    running = next;
    if (!more) break;
  }
  return times;
}

/**
 * Milliseconds of each of `runs` prefills of [batch, tokens] into an empty cache, up to the first new token. One prefill
 * before them warms up; if it takes longer than `patience` milliseconds, it is the only measurement.
 */
export async function prefillTimes(
  device: Device,
  model: CausalLM,
  options: { batch: number; tokens: number; runs: number; cache_dtype: CacheDType; patience?: number },
): Promise<number[]> {
  const { patience = Number.POSITIVE_INFINITY } = options;
  const requests = randomRequests(options.batch, options.tokens, model.geometry.vocab, 1);
  const shape = { rows: options.batch, capacity: options.tokens + 1, cache_dtype: options.cache_dtype };
  const times: number[] = [];
  for (let run = 0; run <= options.runs; run++) {
    using session = new DecodeSession(device, model, shape);
    await device.synchronize();
    const start = performance.now();
    await session.add(requests);
    await session.step();
    const time = performance.now() - start;
    if (run > 0 || time > patience) times.push(time);
    if (time > patience) break;
  }
  return times;
}

/**
 * Milliseconds of JavaScript per decode step, for the first (recorded) and for later ones (replayed), and the dispatches of
 * one step if the backend counts them. Medians over `sessions` sessions of five steps, fewer after `patience` milliseconds.
 */
export async function recordTimes(
  device: Device,
  model: CausalLM,
  sessions = 9,
  patience = Number.POSITIVE_INFINITY,
): Promise<{ record: number; replay: number; dispatches: number }> {
  const requests = randomRequests(1, 1, model.geometry.vocab, 8);
  const record: number[] = [];
  const replay: number[] = [];
  let dispatches = 0;
  const begun = performance.now();
  for (let n = 0; n < sessions && (n === 0 || performance.now() - begun < patience); n++) {
    using session = new DecodeSession(device, model, { rows: 1, capacity: 9, cache_dtype: "f32" });
    await session.add(requests);
    let running = session.step();
    for (let step = 0; step < 5; step++) {
      await running;
      const before = device.backend.statistics?.dispatches ?? 0;
      const start = performance.now();
      running = session.step();
      dispatches = (device.backend.statistics?.dispatches ?? 0) - before;
      (step === 0 ? record : replay).push(performance.now() - start);
    }
    await running;
  }
  return { record: median(record), replay: median(replay), dispatches };
}
