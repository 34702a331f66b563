// Texts that go on from turn to turn, as a chat does: the cache of the last one stays, and of the next only what is new is read.

import { AbortError, OctavoError, OptionError, ShapeError, throwIfAborted } from "../core/errors.js";
import { trainedContext } from "../nn/architecture.js";
import { type CacheDType, cacheDType } from "../nn/cache.js";
import type { PreTrainedTokenizer } from "../tokenizer/api.js";
import { type GenerationOptions, generationConfig } from "./config.js";
import { endingOf } from "./ending.js";
import { stepped } from "./loop.js";
import { modeOption } from "./mode-options.js";
import type { PreTrainedModel } from "./model.js";
import { type PromptProgress, promptProgress } from "./prefill.js";
import { onHost } from "./processors/host/chain.js";
import type { FinishReason } from "./sequence.js";
import { DecodeSession } from "./session.js";

/** One token of a turn. */
export interface TurnToken {
  readonly id: number;
  readonly finish_reason: FinishReason | undefined;
}

export interface TurnOptions {
  /** What `stop_strings` are looked for with. */
  readonly tokenizer?: PreTrainedTokenizer;
  readonly signal?: AbortSignal;
  readonly progress?: (event: PromptProgress) => void;
}

/** Tokens for which there is room at first. */
const FIRST = 1024;

export class Turns implements AsyncDisposable {
  readonly #model: PreTrainedModel;
  #session: DecodeSession | undefined;
  #cache_dtype: CacheDType | undefined;
  #reused = 0;
  #busy = false;
  #held = true;

  /** Holds the model until it is disposed. @throws OctavoError for a model that was disposed */
  constructor(model: PreTrainedModel) {
    model.checkUsable();
    this.#model = model;
    model.hold();
  }

  /** Tokens of the last turn's prompt that the cache already held. */
  get reused(): number {
    return this.#reused;
  }

  /** Tokens that a text may have, prompt and answer. */
  get context(): number {
    const { module, config } = this.#model;
    return Math.min(module.geometry.max_positions, trainedContext(config) ?? Number.POSITIVE_INFINITY);
  }

  /**
   * Continues a text. What it shares with the text of the turn before is not read again. Leaving the loop early, or an abort between
   * tokens, keeps what was generated; any other failure forgets it.
   * @throws OptionError, OutOfMemoryError, AbortError; OctavoError while another turn runs, or once the model is disposed
   */
  async *next(ids: readonly number[], given: GenerationOptions, options: TurnOptions = {}): AsyncGenerator<TurnToken> {
    this.#model.checkUsable();
    if (this.#busy) throw new OctavoError("ERR_IN_USE", "a turn is under way", { hint: "wait until it has ended" });
    this.#busy = true;
    this.#reused = 0;
    try {
      yield* this.#turn(ids, given, options);
    } catch (error) {
      if (!(error instanceof AbortError || error instanceof OptionError)) this.#forget();
      throw error;
    } finally {
      this.#busy = false;
    }
  }

  async *#turn(ids: readonly number[], given: GenerationOptions, options: TurnOptions): AsyncGenerator<TurnToken> {
    const { device, module, generation_config, config: ofModel, dtype } = this.#model;
    const read = generationConfig(given, generation_config, ofModel, ids.length, module.geometry.vocab);
    if (read.beams.num_beams > 1 || read.beams.num_return_sequences > 1 || read.prompt_lookup_num_tokens > 0) {
      throw new OptionError("turns have one text, without beams and guesses", { details: { option: "num_beams" } });
    }
    const option = modeOption(read.mode);
    if (option) throw new OptionError(`turns have one text, without ${option}`, { details: { option } });
    const { signal, progress, tokenizer } = options;
    const ends = endingOf(read, { tokenizer })();
    const { config, processors } = onHost(read, {});
    const cache_dtype = config.cache_dtype ?? cacheDType(dtype);
    const tokens = ids.length + config.max_new_tokens;
    if (ids.length >= this.context) {
      throw new OptionError(`the text has ${ids.length} tokens, and this model reads ${this.context}`, {
        hint: "begin anew, or leave out the first messages",
      });
    }
    const wanted = Math.min(tokens, this.context);
    // Processors belong to a session.
    const plain = processors.length === 0 && (this.#session?.pipelined ?? true);
    const fits = this.#session !== undefined && this.#session.capacity >= wanted && this.#cache_dtype === cache_dtype;
    if (!plain || !fits) this.#forget();
    this.#cache_dtype = cache_dtype;
    const capacity = Math.min(this.context, Math.max(FIRST, 2 ** Math.ceil(Math.log2(wanted))));
    this.#session ??= new DecodeSession(device, module, { rows: 1, capacity, cache_dtype, processors, keep: true });
    const session = this.#session;
    const request = { row: 0, prompt: ids, config: { ...config, ends, max_new_tokens: wanted - ids.length } };
    const ran = (count: number): void => progress?.(promptProgress("progress", count, ids.length));
    try {
      try {
        [this.#reused = 0] = await session.resume([request], { signal, ran });
      } catch (error) {
        // A window that has moved on keeps no beginning to go on from.
        if (!(error instanceof ShapeError)) throw error;
        this.#forget();
        yield* this.#turn(ids, given, options);
        return;
      }
      for await (const tokens of stepped(session)) {
        for (const { id, finish_reason } of tokens) yield { id, finish_reason };
        this.#model.checkUsable();
        throwIfAborted(signal, "generation");
      }
    } finally {
      session.halt(0);
    }
  }

  #forget(): void {
    this.#session?.dispose();
    this.#session = undefined;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#forget();
    if (!this.#held) return;
    this.#held = false;
    await this.#model.release();
  }
}
