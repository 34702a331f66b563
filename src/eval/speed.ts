// How fast a model runs: decode and prefill, timed on the module tree with the same pipelining that generate() has.
// Medians of several runs; nothing here decides whether a number is good.

import type { Device } from "../core/device.js";
import type { Batch } from "../generate/inputs.js";
import { DecodeSession, type SamplingConfig } from "../generate/loop.js";
import { type CacheDType, cacheBytesPerToken } from "../nn/cache.js";
import type { CausalLM } from "../nn/decoder.js";
import { Matrix } from "../nn/module.js";

export interface DecodeOptions {
  readonly batch: number;
  /** Tokens in the cache before the first timed step. */
  readonly context: number;
  /** Timed steps. */
  readonly steps: number;
  readonly cache_dtype: CacheDType;
  /** Milliseconds after which three timed steps are enough; slow devices take fewer steps. */
  readonly patience?: number;
}

/** Median of numbers. */
export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const half = Math.floor(sorted.length / 2);
  return sorted.length % 2 === 1 ? sorted[half]! : (sorted[half - 1]! + sorted[half]!) / 2;
}

/** Bytes that one decode step reads: every matrix, and the keys and values of `context` tokens. */
export function bytesPerStep(model: CausalLM, batch: number, context: number, cache_dtype: CacheDType): number {
  let bytes = batch * context * cacheBytesPerToken(model.geometry, cache_dtype);
  for (const parameter of model.parameters()) {
    if (parameter instanceof Matrix && parameter.product) bytes += parameter.nbytes;
  }
  return bytes;
}

function randomIds(rows: number, steps: number, vocab: number): Int32Array {
  return Int32Array.from({ length: rows * steps }, (_, i) => (i * 7919 + 13) % vocab);
}

/** A prompt of random ids. */
function randomBatch(rows: number, steps: number, vocab: number): Batch {
  return { rows, steps, ids: randomIds(rows, steps, vocab), mask: undefined };
}

const GREEDY: SamplingConfig = {
  do_sample: false,
  temperature: 1,
  top_k: 0,
  top_p: 1,
  min_p: 0,
  repetition_penalty: 1,
  seed: 0,
};

/** Multiplications and additions of the products in a prefill of `tokens` tokens; the head sees the last one alone. */
export function operationsOfPrefill(model: CausalLM, tokens: number): number {
  let operations = 0;
  for (const parameter of model.parameters()) {
    if (!(parameter instanceof Matrix && parameter.product)) continue;
    const [outputs, inputs] = parameter.shape;
    operations += 2 * outputs * inputs * (outputs === model.geometry.vocab ? 1 : tokens);
  }
  return operations;
}

/** Untimed steps before the first timed one. */
export const WARM_STEPS = 3;

/** Milliseconds of each of up to `steps` decode steps of `batch` tokens, run as generate() runs them. */
export async function decodeTimes(device: Device, model: CausalLM, options: DecodeOptions): Promise<number[]> {
  const { batch, context, steps, cache_dtype, patience = Number.POSITIVE_INFINITY } = options;
  const prompt = randomBatch(batch, Math.max(1, context), model.geometry.vocab);
  using session = new DecodeSession(device, model, prompt, steps + WARM_STEPS + 1, { config: GREEDY, cache_dtype });
  await session.prefill(prompt);
  await session.tokens.read();
  const times: number[] = [];
  session.step();
  const begun = performance.now();
  let last = begun;
  for (let n = 0; n < WARM_STEPS + steps; n++) {
    const reading = session.tokens.read();
    const late = last - begun > patience;
    const more = n + 1 < WARM_STEPS + steps && !(late && times.length > 1);
    if (more) session.step();
    await reading;
    const now = performance.now();
    if (n >= WARM_STEPS || late) times.push(now - last);
    last = now;
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
  const prompt = randomBatch(options.batch, options.tokens, model.geometry.vocab);
  const times: number[] = [];
  for (let run = 0; run <= options.runs; run++) {
    using session = new DecodeSession(device, model, prompt, 1, { config: GREEDY, cache_dtype: options.cache_dtype });
    await device.synchronize();
    const start = performance.now();
    await session.prefill(prompt);
    await session.tokens.read();
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
  const prompt = randomBatch(1, 1, model.geometry.vocab);
  const record: number[] = [];
  const replay: number[] = [];
  let dispatches = 0;
  const begun = performance.now();
  for (let n = 0; n < sessions && (n === 0 || performance.now() - begun < patience); n++) {
    using session = new DecodeSession(device, model, prompt, 8, { config: GREEDY, cache_dtype: "f32" });
    await session.prefill(prompt);
    for (let step = 0; step < 5; step++) {
      await session.tokens.read();
      const before = device.backend.statistics?.dispatches ?? 0;
      const start = performance.now();
      session.step();
      dispatches = (device.backend.statistics?.dispatches ?? 0) - before;
      (step === 0 ? record : replay).push(performance.now() - start);
    }
    await session.tokens.read();
  }
  return { record: median(record), replay: median(replay), dispatches };
}
