// The decode loop: prefill, then one token per row and step. Everything that a step needs lives on the device, so all
// steps are the same commands on the same memory: recorded once, replayed after that, and the next one is under way before
// the host has seen a token.

import type { Device, Recording } from "../core/device.js";
import { throwIfAborted } from "../core/errors.js";
import { scope, Tensor } from "../core/tensor.js";
import { type CacheDType, type CacheOptions, KVCache, sameLayers } from "../nn/cache.js";
import type { CausalLM } from "../nn/decoder.js";
import { advance, advanceLanes } from "../ops/advance.js";
import { copyInto } from "../ops/copy.js";
import { appendToken, argmax, penalize, sample } from "../ops/sampling.js";
import type { GenerationConfig } from "./config.js";
import { type Batch, lanesOf } from "./inputs.js";
import { prefill } from "./prefill.js";

/** Capacity of caches is a multiple of this: no kernel likes odd sizes, and nothing is lost. */
const CAPACITY_STEP = 16;

/** The cache of `rows` texts of up to `tokens` tokens. */
export function cacheShape(model: CausalLM, rows: number, tokens: number, dtype: CacheDType): CacheOptions {
  const capacity = Math.ceil(tokens / CAPACITY_STEP) * CAPACITY_STEP;
  return { layers: sameLayers(model.geometry), rows, capacity, dtype };
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
  /** i32[2,B,1]: the lanes of the last token of each row. */
  readonly #lanes: Tensor;
  readonly #counter: Tensor;
  /** i32[B,columns], and i32[1]: the column after the last. */
  readonly #history: Tensor | undefined;
  readonly #column: Tensor;
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
    this.#cache = new KVCache(device, shape);
    try {
      const last = lanesOf(batch).filter((_, at) => at % steps === steps - 1);
      this.#lanes = Tensor.from(device, last, [2, rows, 1], "i32", "lanes").keep();
      this.#column = Tensor.from(device, Int32Array.of(steps), [1], "i32", "column").keep();
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
    const into = { cache: this.#cache, ...options };
    await prefill(this.#device, this.#model, batch, into, ({ ids, lanes }) => this.#next(ids, lanes));
  }

  /** Records one step after `tokens`, and leaves the next ones there. */
  step(): void {
    this.#cache.extend(new Array<number>(this.#cache.rows).fill(1));
    this.#recording ??= this.#device.capture(() => this.#record());
    this.#recording.replay();
  }

  #record(): void {
    scope(() => {
      if (this.#history) {
        appendToken(this.tokens, this.#history, this.#column);
        advance(this.#column, 1);
      }
      advanceLanes(this.#lanes, 1);
      this.#next(this.tokens.view(-1, 1), this.#lanes);
      return undefined;
    });
  }

  #next(ids: Tensor, lanes: Tensor): void {
    const config = this.#config;
    const positions = lanes.select(0, 1);
    const last = this.#model.forward({ ids, positions, lanes, cache: this.#cache }, { logits_to_keep: 1 });
    const logits = last.view(-1, last.shape.at(-1)!); // [B,vocab]
    if (this.#history) penalize(logits, this.#history, config.repetition_penalty);
    copyInto(config.do_sample ? sample(logits, this.#counter, config) : argmax(logits), this.tokens);
  }

  dispose(): void {
    this.#recording?.dispose();
    this.#cache.dispose();
    for (const tensor of [this.tokens, this.#lanes, this.#column, this.#counter, this.#history]) tensor?.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

/** Rows of `steps` values widened to `capacity`, the rest filled with `fill`. */
function spread(values: Int32Array, rows: number, steps: number, capacity: number, fill: number): Int32Array {
  const wide = new Int32Array(rows * capacity).fill(fill);
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
