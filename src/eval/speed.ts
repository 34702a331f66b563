// How fast a model runs: decode and prefill, timed on the module tree with the same pipelining that generate() has.
// Medians of several runs; nothing here decides whether a number is good.

import type { Device } from "../core/device.js";
import { scope, Tensor } from "../core/tensor.js";
import { KVCache } from "../nn/cache.js";
import type { CausalLM } from "../nn/decoder.js";
import { Matrix } from "../nn/module.js";
import type { FloatDType } from "../nn/weight.js";
import { advance } from "../ops/advance.js";
import { argmax } from "../ops/sampling.js";

export interface DecodeOptions {
  readonly batch: number;
  /** Tokens in the cache before the first timed step. */
  readonly context: number;
  /** Timed steps. */
  readonly steps: number;
  readonly cache_dtype: FloatDType;
}

/** Median of numbers. */
export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const half = Math.floor(sorted.length / 2);
  return sorted.length % 2 === 1 ? sorted[half]! : (sorted[half - 1]! + sorted[half]!) / 2;
}

/** Bytes that one decode step must read: every matrix it multiplies with, and the keys and values of `context` tokens. */
export function bytesPerStep(model: CausalLM, batch: number, context: number, cache_dtype: FloatDType): number {
  const { layers, groups, head_dim } = model.geometry;
  let bytes = 2 * layers * batch * groups * head_dim * context * (cache_dtype === "f32" ? 4 : 2);
  for (const parameter of model.parameters()) {
    if (parameter instanceof Matrix && parameter.product) bytes += parameter.nbytes;
  }
  return bytes;
}

function randomIds(rows: number, steps: number, vocab: number): Int32Array {
  return Int32Array.from({ length: rows * steps }, (_, i) => (i * 7919 + 13) % vocab);
}

/** Fills a cache with `tokens` tokens of random ids, in pieces, and waits. */
async function fillCache(
  device: Device,
  model: CausalLM,
  cache: KVCache,
  batch: number,
  tokens: number,
): Promise<void> {
  const { vocab } = model.geometry;
  for (let at = 0; at < tokens; at += 512) {
    const steps = Math.min(512, tokens - at);
    scope(() => {
      const ids = Tensor.from(device, randomIds(batch, steps, vocab), [batch, steps]);
      const positions = Int32Array.from({ length: batch * steps }, (_, i) => at + (i % steps));
      model.hidden({ ids, positions: Tensor.from(device, positions, [batch, steps]), cache });
      return undefined;
    });
    await device.synchronize();
  }
}

/** Milliseconds of each of `steps` decode steps (each gives `batch` tokens). */
export async function decodeTimes(device: Device, model: CausalLM, options: DecodeOptions): Promise<number[]> {
  const { batch, context, steps } = options;
  const { layers, groups, head_dim } = model.geometry;
  const warm = 3;
  const capacity = Math.ceil((context + steps + warm + 2) / 16) * 16;
  const cache = new KVCache(device, { layers, batch, groups, head_dim, capacity, dtype: options.cache_dtype });
  const positions = Tensor.from(device, new Int32Array(batch).fill(context), [batch, 1], "i32").keep();
  const times: number[] = [];
  let current: Tensor | undefined;
  try {
    await fillCache(device, model, cache, batch, context);
    const step = (tokens: Tensor): Tensor =>
      scope(() => {
        advance(positions, 1);
        const ids = tokens.view(batch, 1);
        return argmax(model.forward({ ids, positions, cache }, { last: true }));
      }).keep();
    current = Tensor.from(device, randomIds(batch, 1, model.geometry.vocab), [batch]).keep();
    let next = step(current);
    let last = performance.now();
    for (let n = 0; n < warm + steps; n++) {
      current.dispose();
      current = next;
      next = step(current);
      await current.read();
      const now = performance.now();
      if (n >= warm) times.push(now - last);
      last = now;
    }
    await next.read();
    next.dispose();
  } finally {
    current?.dispose();
    positions.dispose();
    cache.dispose();
  }
  return times;
}

/** Milliseconds of each of `runs` prefills of [batch, tokens] into an empty cache, up to the first new token. */
export async function prefillTimes(
  device: Device,
  model: CausalLM,
  options: { batch: number; tokens: number; runs: number; cache_dtype: FloatDType },
): Promise<number[]> {
  const { batch, tokens, runs } = options;
  const { layers, groups, head_dim, vocab } = model.geometry;
  const times: number[] = [];
  for (let run = 0; run <= runs; run++) {
    using cache = new KVCache(device, {
      layers,
      batch,
      groups,
      head_dim,
      capacity: tokens,
      dtype: options.cache_dtype,
    });
    await device.synchronize();
    const start = performance.now();
    const first = scope(() => {
      const ids = Tensor.from(device, randomIds(batch, tokens, vocab), [batch, tokens]);
      const positions = Int32Array.from({ length: batch * tokens }, (_, i) => i % tokens);
      const input = { ids, positions: Tensor.from(device, positions, [batch, tokens]), cache };
      return argmax(model.forward(input, { last: true }));
    });
    await first.read();
    first.dispose();
    if (run > 0) times.push(performance.now() - start); // the first warms up
  }
  return times;
}

/** Milliseconds of JavaScript that recording one decode step takes. */
export async function recordTime(device: Device, model: CausalLM): Promise<number> {
  const { layers, groups, head_dim } = model.geometry;
  using cache = new KVCache(device, { layers, batch: 1, groups, head_dim, capacity: 64, dtype: "f32" });
  const times: number[] = [];
  for (let n = 0; n < 30; n++) {
    const ids = Tensor.from(device, Int32Array.of(1), [1, 1]);
    const positions = Tensor.from(device, Int32Array.of(n), [1, 1]);
    await device.synchronize();
    const start = performance.now();
    const token = scope(() => argmax(model.forward({ ids, positions, cache }, { last: true })));
    device.flush();
    times.push(performance.now() - start);
    await token.read();
    for (const tensor of [ids, positions, token]) tensor.dispose();
  }
  return median(times.slice(10));
}
