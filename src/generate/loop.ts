// The decode loop: prefill, then one token per row and step. Everything that a step needs lives on the device, so the
// step after the next is recorded before the host has seen a token: the device never waits for it.

import type { Device } from "../core/device.js";
import { AbortError } from "../core/errors.js";
import { scope, Tensor } from "../core/tensor.js";
import { KVCache } from "../nn/cache.js";
import type { CausalLM } from "../nn/decoder.js";
import type { FloatDType } from "../nn/weight.js";
import { advance } from "../ops/advance.js";
import { contiguous } from "../ops/copy.js";
import { appendToken, argmax, penalize, sample } from "../ops/sampling.js";
import type { GenerationConfig } from "./config.js";
import { type Batch, positionsOf } from "./inputs.js";

/** Capacity of caches is a multiple of this: no kernel likes odd sizes, and nothing is lost. */
export const CAPACITY_STEP = 16;

export interface LoopOptions {
  readonly config: GenerationConfig;
  readonly cache_dtype: FloatDType;
  readonly signal?: AbortSignal;
}

/** One step's tokens on the host. */
export interface Step {
  /** One id per row; rows that have ended give the padding id. */
  readonly token_ids: readonly number[];
  /** Which rows have ended, this step included. */
  readonly finished: readonly boolean[];
}

/** What a sequence of decode steps keeps on the device. */
class Session implements Disposable {
  readonly #model: CausalLM;
  readonly #config: GenerationConfig;
  readonly #cache: KVCache;
  readonly #mask: Tensor | undefined;
  readonly #positions: Tensor;
  readonly #counter: Tensor;
  readonly #history: Tensor | undefined;

  constructor(device: Device, model: CausalLM, batch: Batch, options: LoopOptions) {
    const { rows, steps, mask, ids } = batch;
    const { config } = options;
    const capacity = Math.ceil((steps + config.max_new_tokens) / CAPACITY_STEP) * CAPACITY_STEP;
    const { layers, groups, head_dim } = model.geometry;
    this.#model = model;
    this.#config = config;
    this.#cache = new KVCache(device, { layers, batch: rows, groups, head_dim, capacity, dtype: options.cache_dtype });
    // Columns after the prompt are real in every row, so the mask is written once.
    this.#mask =
      mask && Tensor.from(device, spread(mask, rows, steps, capacity, 1), [rows, capacity], "u8", "mask").keep();
    const last = positionsOf(batch).filter((_, at) => at % steps === steps - 1);
    this.#positions = Tensor.from(device, last, [rows, 1], "i32", "positions").keep();
    this.#counter = Tensor.from(device, Int32Array.of(0), [1], "i32", "sampling counter").keep();
    if (config.repetition_penalty !== 1) {
      const real = ids.map((id, at) => (mask && mask[at] === 0 ? -1 : id));
      const seen = spread(real, rows, steps, capacity, -1);
      this.#history = Tensor.from(device, seen, [rows, capacity], "i32", "history").keep();
    }
  }

  /** Records the prompt; gives the first token, i32[B]. */
  prefill(device: Device, batch: Batch): Tensor {
    const shape = [batch.rows, batch.steps];
    return scope(() => {
      const ids = Tensor.from(device, batch.ids, shape);
      return this.#next(ids, Tensor.from(device, positionsOf(batch), shape));
    });
  }

  /** Records one step after `tokens[B]`; gives the next ones. */
  step(tokens: Tensor): Tensor {
    return scope(() => {
      // The cursor stands behind the tokens that the cache holds: that is where `tokens` go.
      if (this.#history) appendToken(tokens, this.#history, this.#cache.cursor);
      advance(this.#positions, 1);
      return this.#next(tokens.view(tokens.shape[0]!, 1), this.#positions);
    });
  }

  #next(ids: Tensor, positions: Tensor): Tensor {
    const config = this.#config;
    const logits = this.#model.forward({ ids, positions, mask: this.#mask, cache: this.#cache }, { last: true });
    if (this.#history) penalize(logits, this.#history, config.repetition_penalty);
    return config.do_sample ? sample(contiguous(logits), this.#counter, config) : argmax(logits);
  }

  dispose(): void {
    this.#cache.dispose();
    for (const tensor of [this.#mask, this.#positions, this.#counter, this.#history]) tensor?.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

/** Rows of `steps` values widened to `capacity`, the rest filled with `fill`. */
function spread<T extends Uint8Array | Int32Array>(
  values: T,
  rows: number,
  steps: number,
  capacity: number,
  fill: number,
): T {
  const wide = new (values.constructor as new (n: number) => T)(rows * capacity).fill(fill) as T;
  for (let r = 0; r < rows; r++) wide.set(values.subarray(r * steps, (r + 1) * steps), r * capacity);
  return wide;
}

/**
 * Generates until every row has ended or `max_new_tokens` are there. `batch` must be padded on the left.
 * @throws AbortError when the signal fires; KernelError, OutOfMemoryError
 */
export async function* generateSteps(
  device: Device,
  model: CausalLM,
  batch: Batch,
  options: LoopOptions,
): AsyncGenerator<Step> {
  const { config, signal } = options;
  const stop = (): void => {
    if (signal?.aborted) throw new AbortError("generation was aborted", { cause: signal.reason });
  };
  stop();
  using session = new Session(device, model, batch, options);
  const ended = new Array<boolean>(batch.rows).fill(false);
  const eos = new Set(config.eos_token_ids);
  let current: Tensor | undefined;
  let following: Tensor | undefined;
  try {
    current = session.prefill(device, batch).keep();
    for (let n = 0; n < config.max_new_tokens; n++) {
      if (n + 1 < config.max_new_tokens) following = session.step(current).keep();
      const ids = (await current.read()) as Int32Array;
      stop();
      const token_ids = [...ids].map((id, row) => (ended[row] ? config.pad_token_id : id));
      token_ids.forEach((id, row) => {
        if (eos.has(id)) ended[row] = true;
      });
      yield { token_ids, finished: [...ended] };
      if (ended.every(Boolean)) break;
      stop();
      current.dispose();
      current = following!;
      following = undefined;
    }
  } finally {
    current?.dispose();
    following?.dispose();
  }
}
