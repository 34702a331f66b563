// The decode loop: prefill, then one token per row and step. Everything that a step needs lives on the device, so all
// steps are the same commands on the same memory: recorded once, replayed after that, and the next one is under way before
// the host has seen a token.

import { captureAll, type Device, type Recording } from "../core/device.js";
import { throwIfAborted } from "../core/errors.js";
import { scope, Tensor } from "../core/tensor.js";
import { type CacheDType, type CacheShape, KVCache } from "../nn/cache.js";
import type { CausalLM } from "../nn/decoder.js";
import { layerDevices } from "../nn/placement.js";
import { advance } from "../ops/advance.js";
import { copyInto } from "../ops/copy.js";
import { appendToken, argmax, penalize, sample } from "../ops/sampling.js";
import type { GenerationConfig } from "./config.js";
import { type Batch, positionsOf } from "./inputs.js";
import { prefill } from "./prefill.js";

/** Capacity of caches is a multiple of this: no kernel likes odd sizes, and nothing is lost. */
const CAPACITY_STEP = 16;

/** The cache of `rows` texts of up to `tokens` tokens. */
export function cacheShape(model: CausalLM, rows: number, tokens: number, dtype: CacheDType): CacheShape {
  const { layers, groups, head_dim } = model.geometry;
  const capacity = Math.ceil(tokens / CAPACITY_STEP) * CAPACITY_STEP;
  return { layers, batch: rows, groups, head_dim, capacity, dtype };
}

/** What of a GenerationConfig decides the next token. */
export type SamplingConfig = Pick<
  GenerationConfig,
  "do_sample" | "temperature" | "top_k" | "top_p" | "min_p" | "repetition_penalty" | "seed"
>;

export interface SessionOptions {
  readonly config: SamplingConfig;
  readonly cache_dtype: CacheDType;
}

export interface LoopOptions extends SessionOptions {
  readonly config: GenerationConfig;
  readonly signal?: AbortSignal;
  /** Steps of a piece of the prompt, for tests. */
  readonly piece?: number;
}

/** One step's tokens on the host. */
export interface Step {
  /** One id per row; rows that have ended give the padding id. */
  readonly token_ids: readonly number[];
  /** Which rows have ended, this step included. */
  readonly finished: readonly boolean[];
  /** True for a token that prompt lookup had guessed: it took no pass over the weights of its own. */
  readonly guessed?: boolean;
}

/** A sequence of decode steps: what it keeps on the device, and the one recording that all steps after the first replay. */
export class DecodeSession implements Disposable {
  /** i32[B]: the tokens that the last step gave. */
  readonly tokens: Tensor;
  readonly #device: Device;
  readonly #model: CausalLM;
  readonly #config: SamplingConfig;
  readonly #cache: KVCache;
  readonly #mask: Tensor | undefined;
  readonly #positions: Tensor;
  readonly #counter: Tensor;
  readonly #history: Tensor | undefined;
  #recording: Recording | undefined;

  /** Room for the batch and `room` more tokens in each row. The batch must be padded on the left. */
  constructor(device: Device, model: CausalLM, batch: Batch, room: number, options: SessionOptions) {
    const { rows, steps, mask, ids } = batch;
    const { config } = options;
    const shape = cacheShape(model, rows, steps + room, options.cache_dtype);
    const { capacity } = shape;
    this.#device = device;
    this.#model = model;
    this.#config = config;
    this.#cache = new KVCache(layerDevices(model, device), shape);
    try {
      // Columns after the prompt are real in every row, so the mask is written once.
      this.#mask =
        mask && Tensor.from(device, spread(mask, rows, steps, capacity, 1), [rows, capacity], "u8", "mask").keep();
      const last = positionsOf(batch).filter((_, at) => at % steps === steps - 1);
      this.#positions = Tensor.from(device, last, [rows, 1], "i32", "positions").keep();
      this.#counter = Tensor.from(device, Int32Array.of(0), [1], "i32", "sampling counter").keep();
      this.tokens = Tensor.empty(device, [rows], "i32", "tokens").keep();
      if (config.repetition_penalty !== 1) {
        const real = ids.map((id, at) => (mask && mask[at] === 0 ? -1 : id));
        const seen = spread(real, rows, steps, capacity, -1);
        this.#history = Tensor.from(device, seen, [rows, capacity], "i32", "history").keep();
      }
    } catch (error) {
      this.dispose();
      throw error;
    }
  }

  /** Takes the prompt in, a piece at a time; when it resolves, the last piece is under way, and `tokens` with it. */
  async prefill(batch: Batch, options: { signal?: AbortSignal; piece?: number } = {}): Promise<void> {
    const into = { cache: this.#cache, mask: this.#mask, ...options };
    await prefill(this.#device, this.#model, batch, into, (ids, positions) => this.#next(ids, positions));
  }

  /** Records one step after `tokens`, and leaves the next ones there. */
  step(): void {
    if (this.#recording) this.#cache.replayed(1);
    this.#recording ??= captureAll(this.#model.placement?.devices ?? [this.#device], () => this.#record());
    this.#recording.replay();
  }

  #record(): void {
    scope(() => {
      // The cursor stands behind the tokens that the cache holds: that is where `tokens` go.
      if (this.#history) appendToken(this.tokens, this.#history, this.#cache.cursor);
      advance(this.#positions, 1);
      this.#next(this.tokens.view(-1, 1), this.#positions);
      return undefined;
    });
  }

  #next(ids: Tensor, positions: Tensor): void {
    const config = this.#config;
    const last = this.#model.forward({ ids, positions, mask: this.#mask, cache: this.#cache }, { logits_to_keep: 1 });
    const logits = last.view(-1, last.shape.at(-1)!); // [B,vocab]
    if (this.#history) penalize(logits, this.#history, config.repetition_penalty);
    copyInto(config.do_sample ? sample(logits, this.#counter, config) : argmax(logits), this.tokens);
  }

  dispose(): void {
    this.#recording?.dispose();
    this.#cache.dispose();
    for (const tensor of [this.tokens, this.#mask, this.#positions, this.#counter, this.#history]) tensor?.dispose();
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
  const stop = (): void => throwIfAborted(signal, "generation");
  stop();
  using session = new DecodeSession(device, model, batch, config.max_new_tokens, options);
  const ended = new Array<boolean>(batch.rows).fill(false);
  const eos = new Set(config.eos_token_ids);
  await session.prefill(batch, options);
  for (let n = 0; n < config.max_new_tokens; n++) {
    const reading = session.tokens.read();
    reading.catch(() => {}); // awaited below; this only keeps an error in step() from hiding behind it
    if (n + 1 < config.max_new_tokens) session.step();
    const ids = (await reading) as Int32Array;
    stop();
    const token_ids = [...ids].map((id, row) => (ended[row] ? config.pad_token_id : id));
    token_ids.forEach((id, row) => {
      if (eos.has(id)) ended[row] = true;
    });
    yield { token_ids, finished: [...ended] };
    if (ended.every(Boolean)) return;
    stop();
  }
}
