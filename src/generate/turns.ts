// Texts that go on from turn to turn, as a chat does: the cache of the last one stays, and of the next only what is new is read.

import { OctavoError, OptionError } from "../core/errors.js";
import { trainedContext } from "../nn/architecture.js";
import type { PreTrainedTokenizer } from "../tokenizer/api.js";
import { type GenerationOptions, generationConfig } from "./config.js";
import { DynamicCache, keptTexts } from "./dynamic-cache.js";
import { modeOption } from "./mode-options.js";
import type { PreTrainedModel } from "./model.js";
import type { PromptProgress } from "./prefill.js";
import type { FinishReason } from "./sequence.js";

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

export class Turns implements AsyncDisposable {
  readonly #model: PreTrainedModel;
  readonly #cache = new DynamicCache();
  #held = true;

  /** Holds the model until it is disposed. @throws OctavoError for a model that was disposed */
  constructor(model: PreTrainedModel) {
    model.checkUsable();
    this.#model = model;
    model.hold();
  }

  /** Tokens of the last turn's prompt that the cache already held. */
  get reused(): number {
    return this.#cache.reused[0] ?? 0;
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
    if (keptTexts.busy(this.#cache))
      throw new OctavoError("ERR_IN_USE", "a turn is under way", { hint: "wait until it has ended" });
    const { module, generation_config, config } = this.#model;
    const read = generationConfig(given, generation_config, config, ids.length, module.geometry.vocab);
    const { num_beams, num_return_sequences } = read.beams;
    const option = modeOption(read.mode) ?? (num_beams > 1 || num_return_sequences > 1 ? "num_beams" : undefined);
    if (option) throw new OptionError(`turns have one text, without ${option}`, { details: { option } });
    if (ids.length >= this.context) {
      throw new OptionError(`the text has ${ids.length} tokens, and this model reads ${this.context}`, {
        hint: "begin anew, or leave out the first messages",
      });
    }
    const { max_length: _, ...rest } = given;
    const { tokenizer, signal, progress } = options;
    const steps = this.#model.stream({
      ...rest,
      ...{ input_ids: [[...ids]], past_key_values: this.#cache },
      max_new_tokens: Math.min(read.max_new_tokens, this.context - ids.length),
      ...(tokenizer ? { tokenizer } : {}),
      ...(signal ? { signal } : {}),
      ...(progress ? { progress_callback: progress } : {}),
    });
    for await (const { token_ids, finish_reasons } of steps) {
      yield { id: token_ids[0]!, finish_reason: finish_reasons[0] };
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.#held) return;
    this.#held = false;
    this.#cache.dispose();
    await this.#model.release();
  }
}
