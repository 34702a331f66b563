// Measures one model in one storage for `octavo bench`. It reports measurements and does not judge them.

import { availableParallelism } from "node:os";
import type { Device } from "../core/device.js";
import { throwIfAborted } from "../core/errors.js";
import type { CacheDType } from "../nn/cache.js";
import type { CausalLM } from "../nn/decoder.js";
import { beside, CACHED, type Share, type Unit } from "./machine.js";
import {
  bytesPerStep,
  decodeTimes,
  median,
  operationsOfPrefill,
  prefillTimes,
  recordTimes,
  WARM_STEPS,
} from "./speed.js";

export interface BenchPlan {
  /** Rows decoded together. */
  readonly batches: readonly number[];
  /** Tokens in the cache before decoding, at batch 1. */
  readonly contexts: readonly number[];
  /** Prompt lengths. */
  readonly prompts: readonly number[];
  /** Timed decode steps. */
  readonly steps: number;
  /** Timed prefills of each length, unless they take too long. */
  readonly runs: number;
}

export const FULL_PLAN: BenchPlan = {
  batches: [1, 8, 32],
  contexts: [0, 2048],
  prompts: [128, 512, 2048],
  steps: 24,
  runs: 3,
};
export const QUICK_PLAN: BenchPlan = { batches: [1, 8], contexts: [0], prompts: [128, 512], steps: 12, runs: 2 };

/** Number of sessions in which recording is timed. */
const RECORDED = 9;

export interface ModelSpeed {
  readonly decode: readonly {
    readonly batch: number;
    readonly context: number;
    /** Median milliseconds of a step, which produces `batch` tokens. */
    readonly ms: number;
    /** GB/s of weights, keys and values. */
    readonly bandwidth: number;
    /** Read bandwidth of the machine around it, the best and the worst measurement, in GB/s; at batch 1 only, else 0. */
    readonly read: number;
    readonly read_least: number;
    /** `bandwidth` as a share of `read`; 0 without one, null if it is above it: `noisy`, or out of a cache. */
    readonly share: Share["share"];
    readonly noisy: boolean;
  }[];
  readonly prefill: readonly {
    readonly tokens: number;
    readonly tokens_per_s: number;
    readonly first_token_ms: number;
    /** GOP/s of the products, a multiply-add counting two. */
    readonly operations: number;
    /** The unit that runs most products, or null. */
    readonly unit: Unit | null;
    /** Its GOP/s, the best and the worst measurement, or 0. */
    readonly peak: number;
    readonly peak_least: number;
    /** `operations` as a share of `peak`; 0 without one, null where it is `noisy`: above it. */
    readonly share: Share["share"];
    readonly noisy: boolean;
  }[];
  /** Milliseconds of JavaScript that a decode step takes to record once, and to replay after that. */
  readonly record_ms: number;
  readonly replay_ms: number;
  /** Dispatches of a decode step, where the backend counts them; else 0. */
  readonly dispatches: number;
}

/** Milliseconds after which timing of decode stops. */
const PATIENCE = 4000;
/** A prefill that takes longer than this is timed once. */
const LONG = 8000;
/** A prefill that would take longer than this is skipped and reported to the caller. */
const TOO_LONG = 180_000;

/** The points of a plan that fit a model's positions, and a sentence about those that do not. */
export function fittedPlan(plan: BenchPlan, max_positions: number): { plan: BenchPlan; left_out: readonly string[] } {
  const contexts = plan.contexts.filter((context) => context + WARM_STEPS < max_positions);
  const short = plan.prompts.filter((tokens) => tokens <= max_positions);
  const left_out = [
    ...plan.contexts.filter((context) => !contexts.includes(context)).map((context) => `context ${context}`),
    ...plan.prompts.filter((tokens) => !short.includes(tokens)).map((tokens) => `prefill of ${tokens} tokens`),
  ];
  return { plan: { ...plan, contexts, prompts: short.length > 0 ? short : [max_positions] }, left_out };
}

/** Times decode and prefill of a loaded model, within its positions. */
export async function benchModel(
  device: Device,
  model: CausalLM,
  whole: BenchPlan,
  options: {
    cache_dtype: CacheDType;
    /** The unit that runs most products (units.ts), if it is measured. */
    unit?: Unit;
    progress?: (what: string) => void;
    signal?: AbortSignal;
  },
): Promise<ModelSpeed> {
  const { cache_dtype, unit, progress, signal } = options;
  const { max_positions } = model.geometry;
  const { plan, left_out } = fittedPlan(whole, max_positions);
  const say = (what: string): void => {
    throwIfAborted(signal, "the benchmark");
    progress?.(what);
  };
  if (left_out.length > 0) say(`${left_out.join(", ")}: left out, this model has ${max_positions} positions`);
  const decode: ModelSpeed["decode"][number][] = [];
  const points = [
    ...plan.batches.map((batch) => ({ batch, context: 0 })),
    ...plan.contexts.filter((context) => context > 0).map((context) => ({ batch: 1, context })),
  ];
  for (const { batch, context } of points) {
    say(`decode, batch ${batch}, context ${context}`);
    const wanted = batch > 8 ? Math.ceil(plan.steps / 2) : plan.steps;
    const steps = Math.max(1, Math.min(wanted, max_positions - Math.max(1, context) - WARM_STEPS));
    const how = { batch, context, steps, cache_dtype, patience: PATIENCE };
    const bytes = bytesPerStep(model, batch, context + steps / 2, cache_dtype);
    const speed = (ms: number): number => bytes / ms / 1e6;
    const {
      made: ms,
      most: read,
      least: read_least,
      share,
      noisy,
    } = await beside(
      device,
      batch === 1 ? "read" : undefined,
      async () => median(await decodeTimes(device, model, how)),
      (ms) => ({ speed: speed(ms), cached: bytes < CACHED }),
    );
    decode.push({ batch, context, ms, bandwidth: speed(ms), read, read_least, share, noisy });
  }
  const prefill: ModelSpeed["prefill"][number][] = [];
  for (const tokens of plan.prompts) {
    const before = prefill.at(-1);
    const expected = before ? before.first_token_ms * (tokens / before.tokens) : 0;
    if (expected > TOO_LONG) {
      say(`prefill of ${tokens} tokens would take about ${(expected / 1000).toFixed(0)} s: left out`);
      continue;
    }
    say(`prefill of ${tokens} tokens`);
    const runs = expected > LONG ? 1 : plan.runs;
    const how = { batch: 1, tokens, runs, cache_dtype, patience: LONG };
    const speed = (ms: number): number => operationsOfPrefill(model, tokens) / ms / 1e6;
    const {
      made: time,
      most: peak,
      least: peak_least,
      share,
      noisy,
    } = await beside(
      device,
      unit,
      async () => median(await prefillTimes(device, model, how)),
      (ms) => ({ speed: speed(ms) }),
    );
    prefill.push({
      tokens,
      tokens_per_s: (tokens * 1000) / time,
      first_token_ms: time,
      operations: speed(time),
      unit: unit ?? null,
      peak,
      peak_least,
      share,
      noisy,
    });
  }
  say("recording");
  const { record, replay, dispatches } = await recordTimes(device, model, RECORDED, PATIENCE);
  return { decode, prefill, record_ms: record, replay_ms: replay, dispatches };
}

/** True if the one-minute load per processor is too high for reliable timings. */
export function crowded(load: number): boolean {
  return load / availableParallelism() > 0.75;
}
