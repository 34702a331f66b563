// PreTrainedModel: a loaded language model as users hold it. `forward` gives logits, `generate` and `stream` give tokens.

import type { Device } from "../core/device.js";
import { checkOptions, OctavoError, OptionError } from "../core/errors.js";
import { scope, Tensor } from "../core/tensor.js";
import type { Loaded } from "../load/index.js";
import type { ConfigJson } from "../nn/architecture.js";
import { type CacheDType, cacheBytes, cacheDType, cacheName, KVCache, sameLayers } from "../nn/cache.js";
import type { CausalLM } from "../nn/decoder.js";
import { Linear } from "../nn/module.js";
import type { FloatDType } from "../nn/weight.js";
import { copyInto } from "../ops/copy.js";
import { LlmInt8Weight } from "../quant/llm-int8.js";
import { cacheShape } from "./cache-options.js";
import {
  checkGenerationOptions,
  fileWarnings,
  type GenerationConfig,
  type GenerationOptions,
  generationConfig,
} from "./config.js";
import type { Drafter } from "./drafters/drafter.js";
import { checkDrafting, draftsOf, openDrafter } from "./drafters/index.js";
import { type Batch, type Ids, leftPadded, PACKED_FIELDS, type PackedInputs, placesOf, readBatch } from "./inputs.js";
import { generateSteps, type Step } from "./loop.js";
import { type Piece, piecesOf } from "./prefill.js";
import { checkProcessors, type HostProcessor, warnOfHostProcessors } from "./processors/processor.js";
import type { Streamer } from "./streamers.js";

/** What a tokenizer gives, and so what every call takes. */
export interface ModelInputs {
  input_ids: Ids;
  attention_mask?: Ids;
}

export interface GenerateOptions extends ModelInputs, GenerationOptions {
  /** Gets the prompt and then each token; one row only. */
  streamer?: Streamer;
  signal?: AbortSignal;
  /**
   * Change the logits on the host, in this order, behind the penalties and before the temperature. They cost the
   * pipelining: each step waits until the logits of all rows have come from the device and gone back.
   */
  logits_processor?: readonly HostProcessor[];
  /** A smaller model with the same tokenizer, on the same device, that guesses tokens (greedy decoding); exact. */
  assistant_model?: PreTrainedModel;
  /** Give the log-probability of each token: `scores` of a step. */
  logprobs?: boolean;
}

export interface ForwardOptions extends ModelInputs, PackedInputs {}

const INPUTS = ["input_ids", "attention_mask"];
const OWN = [...INPUTS, "token_type_ids", "streamer", "signal", "logits_processor", "assistant_model", "logprobs"];

export class PreTrainedModel implements AsyncDisposable {
  readonly config: ConfigJson;
  readonly generation_config: ConfigJson;
  readonly device: Device;
  readonly dtype: FloatDType;
  /** Bytes of the checkpoint's tensors, as published. */
  readonly checkpoint_bytes: number;
  readonly warnings: readonly string[];
  readonly #module: CausalLM;
  readonly #ownsDevice: boolean;
  /** Generations under way; the weights stay until the last of them has ended. */
  #running = 0;
  #disposed = false;

  constructor(loaded: Loaded, device: Device, ownsDevice: boolean) {
    this.#module = loaded.model;
    this.config = loaded.config;
    this.generation_config = loaded.generation_config;
    this.dtype = loaded.dtype;
    this.checkpoint_bytes = loaded.checkpoint_bytes;
    const { vocab } = loaded.model.geometry;
    this.warnings = [...loaded.warnings, ...fileWarnings(loaded.generation_config, loaded.config, vocab)];
    this.device = device;
    this.#ownsDevice = ownsDevice;
  }

  /** The module tree, with the checkpoint's names. */
  get module(): CausalLM {
    return this.#module;
  }

  /**
   * Records one forward pass over a batch, a long one in pieces. The caller disposes the logits, f32[B,T,vocab]. A row may
   * hold several texts one after the other: `position_ids` that begin again at 0, or `cu_seq_lens_q`, say where.
   * @throws ShapeError, OptionError (an id outside the vocabulary, an unknown option)
   */
  forward(inputs: ForwardOptions): { logits: Tensor } {
    this.#checkUsable();
    checkOptions("forward", inputs ?? null, [...INPUTS, ...PACKED_FIELDS, "token_type_ids"]);
    const { vocab, max_positions } = this.#module.geometry;
    const batch = readBatch(inputs.input_ids, inputs.attention_mask, vocab);
    const { positions, segments } = placesOf(batch, inputs, max_positions);
    // Texts in one row see only themselves, so they need no cache of one another: they run in one piece.
    const pieces = piecesOf(batch, positions, segments && batch.steps);
    return { logits: scope(() => this.#logits(batch, pieces, segments)) };
  }

  #logits(batch: Batch, pieces: readonly Piece[], segments: Int32Array | undefined): Tensor {
    const { device } = this;
    const { rows, steps } = batch;
    const mask = batch.mask && Tensor.from(device, batch.mask, [rows, steps], "u8");
    const own = segments && Tensor.from(device, segments, [rows, steps]);
    const run = (piece: Piece, cache?: KVCache): Tensor => {
      const shape = [rows, piece.steps];
      const ids = Tensor.from(device, piece.ids, shape);
      const positions = Tensor.from(device, piece.positions, shape);
      if (!cache) return this.#module.forward({ ids, positions, mask, segments: own });
      cache.extend(piece.counts);
      return this.#module.forward({ ids, positions, lanes: Tensor.from(device, piece.lanes, [2, ...shape]), cache });
    };
    if (pieces.length === 1) return run(pieces[0]!);
    // Keys and values in f32, as they are where no cache is: the pieces change nothing but the memory it takes.
    const { geometry } = this.#module;
    using cache = new KVCache(device, { layers: sameLayers(geometry), rows, capacity: steps, dtype: "f32" });
    const logits = Tensor.empty(device, [rows, steps, geometry.vocab], "f32", "logits");
    for (const piece of pieces) {
      scope(() => void copyInto(run(piece, cache), logits.narrow(1, piece.at, piece.steps)));
    }
    return logits;
  }

  /**
   * Generates tokens after each prompt of a batch: prompt and new tokens, [B][T + new]. Rows that end early are filled
   * up with the padding id.
   * @throws OptionError, ShapeError, OutOfMemoryError; AbortError when `signal` fires
   */
  async generate(options: GenerateOptions): Promise<number[][]> {
    const { batch, config } = this.#prepare(options);
    this.#checkRoom(batch, config);
    const { streamer } = options;
    if (streamer && batch.rows > 1) throw new OptionError("a streamer takes one row; use stream() for batches");
    const rows = Array.from({ length: batch.rows }, (_, r) => [
      ...batch.ids.subarray(r * batch.steps, (r + 1) * batch.steps),
    ]);
    try {
      streamer?.put(rows[0]!);
      for await (const { token_ids } of this.#steps(batch, config, options)) {
        token_ids.forEach((id, r) => {
          rows[r]!.push(id);
        });
        streamer?.put([token_ids[0]!]);
      }
    } finally {
      streamer?.end();
    }
    return rows;
  }

  /**
   * The same as an async iterator over steps; leaving the loop early stops the work. An iterator that is dropped without
   * being finished or returned keeps its cache.
   * @throws at once what `generate` throws for its options and inputs
   */
  stream(options: Omit<GenerateOptions, "streamer">): AsyncGenerator<Step> {
    const { batch, config } = this.#prepare(options);
    this.#checkRoom(batch, config);
    return this.#steps(batch, config, options);
  }

  /**
   * Bytes of the parameters as transformers counts them: the codes of quantized matrices, without their statistics.
   * See `weight_bytes` for what is really held.
   */
  get_memory_footprint(): number {
    let bytes = 0;
    for (const parameter of this.#module.parameters()) bytes += parameter.footprint;
    return bytes;
  }

  /** Bytes that the weights take on the device, statistics and padding included. */
  get weight_bytes(): number {
    let bytes = 0;
    for (const parameter of this.#module.parameters()) bytes += parameter.nbytes;
    return bytes;
  }

  /** What keys and values of a generation with these options are kept in, and the bytes that they take on the device. */
  cache_footprint(options: GenerateOptions): { dtype: ReturnType<typeof cacheName>; bytes: number } {
    const { batch, config } = this.#prepare(options);
    const { dtype, bytes } = this.#cacheOf(batch, config);
    return { dtype: cacheName(dtype), bytes };
  }

  #cacheOf(batch: Batch, config: GenerationConfig): { dtype: CacheDType; bytes: number } {
    const dtype = config.cache_dtype ?? cacheDType(this.dtype);
    const tokens = batch.steps + config.max_new_tokens;
    return { dtype, bytes: cacheBytes(cacheShape(this.#module, batch.rows, tokens, dtype)) };
  }

  /** @throws OutOfMemoryError for more tokens than the device has memory for, before anything is begun */
  #checkRoom(batch: Batch, config: GenerationConfig): void {
    const { bytes } = this.#cacheOf(batch, config);
    this.device.arena.checkRoom(bytes, `a cache of ${batch.steps + config.max_new_tokens} tokens`);
  }

  /** Columns of quantized matrices that held an outlier activation so far, summed over the layers. */
  async outlier_columns(): Promise<number> {
    this.#checkUsable();
    let columns = 0;
    for (const [, module] of this.#module.named_modules()) {
      if (!(module instanceof Linear) || !(module.weight.weight instanceof LlmInt8Weight)) continue;
      for (const mark of await module.weight.weight.seen.read()) columns += mark;
    }
    return columns;
  }

  /**
   * Frees the weights, and the memory that the device kept for reuse. A generation that is under way ends with an error
   * at its next step, and the weights go after it. Disposing twice does nothing.
   */
  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    if (this.#running === 0) void this.#free();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#disposed) return;
    this.#disposed = true;
    if (this.#running === 0) await this.#free();
  }

  async #free(): Promise<void> {
    this.#module.dispose();
    this.device.arena.trim();
    if (this.#ownsDevice) await this.device.close();
  }

  #checkUsable(): void {
    if (this.#disposed) throw new OctavoError("ERR_DISPOSED", "the model was used after dispose()");
  }

  #prepare(options: GenerateOptions): { batch: Batch; config: GenerationConfig } {
    this.#checkUsable();
    checkGenerationOptions(options ?? null, OWN);
    const { streamer, signal } = options;
    if (signal !== undefined && !(signal instanceof AbortSignal)) {
      throw new OptionError("signal must be an AbortSignal", { details: { option: "signal" } });
    }
    if (streamer !== undefined && !(typeof streamer?.put === "function" && typeof streamer.end === "function")) {
      throw new OptionError("streamer must have the methods put and end");
    }
    const { vocab, max_positions } = this.#module.geometry;
    const batch = leftPadded(readBatch(options.input_ids, options.attention_mask, vocab));
    const config = generationConfig(options, this.generation_config, this.config, batch.steps, vocab);
    this.#checkLength(batch.steps + config.max_new_tokens, max_positions);
    checkProcessors(options.logits_processor);
    if (options.logprobs !== undefined && typeof options.logprobs !== "boolean") {
      throw new OptionError("logprobs must be true or false", { details: { option: "logprobs" } });
    }
    if (options.logits_processor?.length) warnOfHostProcessors();
    checkDrafting(this, config, options);
    return { batch, config };
  }

  async *#steps(batch: Batch, config: GenerationConfig, options: GenerateOptions): AsyncGenerator<Step> {
    const cache_dtype = config.cache_dtype ?? cacheDType(this.dtype);
    const { assistant_model, logits_processor: processors, signal, logprobs: scores } = options;
    const held = [this, ...(assistant_model ? [assistant_model] : [])];
    for (const model of held) model.#running++;
    let drafter: Drafter | undefined;
    try {
      drafter = openDrafter(batch, config, { assistant: assistant_model, signal });
      const drafts = draftsOf(config, options);
      const loop = { config, cache_dtype, processors, drafter, drafts, scores, signal };
      for await (const step of generateSteps(this.device, this.#module, batch, loop)) {
        for (const model of held) model.#checkUsable();
        yield step;
        for (const model of held) model.#checkUsable();
      }
    } finally {
      drafter?.[Symbol.dispose]?.();
      for (const model of held) await model.#release();
    }
  }

  /** Ends a use of the weights; the last one frees them, where the model was disposed meanwhile. */
  async #release(): Promise<void> {
    this.#running--;
    if (this.#disposed && this.#running === 0) await this.#free();
  }

  #checkLength(tokens: number, max_positions: number): void {
    if (tokens <= max_positions) return;
    throw new OptionError(`${tokens} tokens are more than the ${max_positions} positions of this model`, {
      hint: "shorten the prompt or lower max_new_tokens",
    });
  }
}
