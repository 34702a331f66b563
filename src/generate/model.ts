// PreTrainedModel: a loaded language model as users hold it. `forward` gives logits, `generate` and `stream` give tokens.

import type { Device } from "../core/device.js";
import { OptionError } from "../core/errors.js";
import type { Options } from "../core/options.js";
import type { Loaded } from "../load/index.js";
import { type CacheDType, cacheBytes, cacheDType, cacheName } from "../nn/cache.js";
import type { CausalLM } from "../nn/decoder.js";
import type { Embedding } from "../nn/module.js";
import type { AttentionChoice } from "../nn/pass.js";
import type { PreTrainedTokenizer } from "../tokenizer/api.js";
import { adaptersOfRows } from "./adapter-methods.js";
import { type After, type Inputs, readCall } from "./arguments.js";
import { LoadedModel } from "./base.js";
import { rowsPerPrompt } from "./beam-config.js";
import { beamSearch, checkBeams, keptScores, outputOf, returned } from "./beams.js";
import { cacheShape, checkOffloadedCache } from "./cache-options.js";
import { type CausalLMLoss, type CausalLMOutput, causalForward } from "./causal-forward.js";
import { fileWarnings, type GenerationConfig, generationConfig, warnOfDefaultLength } from "./config.js";
import { layeredDecoder } from "./dola.js";
import type { Drafter } from "./drafters/drafter.js";
import { checkDrafting, draftsOf, openDrafter } from "./drafters/index.js";
import { type CacheNeeds, checkKept, type DynamicCache, keptTexts } from "./dynamic-cache.js";
import { type Ends, endingOf } from "./ending.js";
import type { Constraint } from "./grammar/constraint.js";
import { checkStructured, structuredOption } from "./grammar/structured.js";
import { unconditionalOf } from "./guidance.js";
import { ALONE, healed, unhealed } from "./healing.js";
import {
  type Batch,
  eachPrompt,
  type Ids,
  leftPadded,
  numbersOf,
  paddedRows,
  promptsOf,
  readBatch,
  withImpliedMask,
} from "./inputs.js";
import { nextLabels } from "./labels.js";
import { collect, type Step } from "./loop.js";
import { rowsOf } from "./mode-options.js";
import {
  type AsDict,
  FORWARD,
  type ForwardOptions,
  GENERATE,
  type GenerateOptions,
  type GenerateOutput,
  STREAM,
  type StreamOptions,
  type TextStreamOptions,
} from "./options.js";
import { GRAMMAR } from "./parts.js";
import { onHost } from "./processors/host/chain.js";
import { checkProcessors, warnOfHostProcessors } from "./processors/host-processor.js";
import { checkRoom } from "./room.js";
import { type Kept, keptBy, type StepScores, type TransitionOptions, transitionScores } from "./scores.js";
import type { HeldTexts } from "./session-options.js";
import { stepsOf } from "./steps.js";
import { type TextStep, withTexts } from "./texts.js";
import type { ResizeTokensOptions } from "./vocabulary-methods.js";

export type { CausalLMLoss, CausalLMOutput } from "./causal-forward.js";
export type { ForwardOptions, GenerateOptions, ModelInputs } from "./options.js";

/** A call that was read and checked: nothing of the caller's objects is looked at again. */
interface Prepared {
  readonly batch: Batch;
  /** With guidance: the text in place of each prompt where there is no condition. */
  readonly unconditional: number[][] | undefined;
  /** Tokens of the longest text of all, prompt and new ones. */
  readonly tokens: number;
  readonly config: GenerationConfig;
  /** The dtype of keys and values. */
  readonly cache_dtype: CacheDType;
  /** What ends texts beside their length and the ids that end them, from when it is called. */
  readonly ending: () => Ends | undefined;
  /** What the new texts are, if the call says so. */
  readonly constraint: Constraint | undefined;
  readonly numbers: readonly number[];
  readonly options: Options<typeof GENERATE & typeof STREAM>;
}

/** A call that starts at once. */
interface Started extends Prepared {
  readonly attention: AttentionChoice;
}

/** A call is a forward pass. */
interface Call {
  (options: ForwardOptions & { readonly skip_logits: true }): CausalLMLoss;
  (options: ForwardOptions): CausalLMOutput;
  (inputs: Inputs<ForwardOptions>, options?: After<ForwardOptions>): CausalLMOutput;
}
export interface PreTrainedModel extends Call {}

// biome-ignore lint/suspicious/noUnsafeDeclarationMerging: `Called` makes instances that can be called
export class PreTrainedModel extends LoadedModel<CausalLM> {
  #caches = 0;
  /** Caches of the callers that hold texts of this model. */
  readonly #kept = new Set<DynamicCache>();

  /** For `from_pretrained`. @throws OptionError for anything but a model that was loaded */
  constructor(loaded: Loaded, device: Device, ownsDevice: boolean) {
    super(loaded, device, ownsDevice, ({ generation_config, config, model }) =>
      fileWarnings(generation_config, config, model.geometry.vocab),
    );
  }

  /**
   * Records one forward pass over a batch, a long one in chunks (with hidden states: in one). The caller disposes the logits,
   * f32[B,T,vocab], and the hidden states, f32[B,T,hidden] each. A row may hold several texts: `position_ids` that restart
   * at 0, or `cu_seq_lens_q`, mark where each begins.
   * @throws ShapeError, OptionError (an id outside the vocabulary, an unknown option)
   */
  forward(options: ForwardOptions & { readonly skip_logits: true }): CausalLMLoss;
  forward(options: ForwardOptions): CausalLMOutput;
  /** The same with the options after the inputs. */
  forward(inputs: Inputs<ForwardOptions>, options?: After<ForwardOptions>): CausalLMOutput;
  forward(...given: readonly unknown[]): CausalLMOutput | CausalLMLoss {
    this.checkUsable();
    const inputs = readCall("forward", FORWARD, given);
    const { vocab } = this.module.geometry;
    const batch = readBatch(inputs.input_ids, inputs.attention_mask, vocab);
    const some = inputs.num_items_in_batch === undefined;
    const learned = inputs.labels === undefined ? undefined : nextLabels(batch, inputs.labels, vocab, some);
    if (!learned && (inputs.skip_logits || inputs.num_items_in_batch !== undefined || inputs.label_smoothing)) {
      throw new OptionError(
        "forward: skip_logits, num_items_in_batch and label_smoothing are about a loss: pass labels",
      );
    }
    if (learned && inputs.logits_to_keep) {
      throw new OptionError("forward: labels need the logits of all positions, and logits_to_keep is set");
    }
    using adapters = adaptersOfRows(this, inputs.adapter_names, batch.rows);
    const pass = (): CausalLMOutput | CausalLMLoss => causalForward(this, batch, inputs, learned);
    return adapters ? adapters.all(pass) : pass();
  }

  /**
   * Generates tokens after each prompt of a batch: prompt and new tokens, [B][T + new]. Rows that end early are filled
   * with the padding id.
   * @throws OptionError, ShapeError, OutOfMemoryError; AbortError when `signal` fires
   */
  generate(options: GenerateOptions & AsDict): Promise<GenerateOutput>;
  generate(options: GenerateOptions): Promise<number[][]>;
  /** The same with the options after the inputs. */
  generate(inputs: Inputs<GenerateOptions>, options: After<GenerateOptions> & AsDict): Promise<GenerateOutput>;
  generate(inputs: Inputs<GenerateOptions> & AsDict, options: After<GenerateOptions>): Promise<GenerateOutput>;
  generate(inputs: Inputs<GenerateOptions>, options?: After<GenerateOptions>): Promise<number[][]>;
  async generate(...given: readonly unknown[]): Promise<number[][] | GenerateOutput> {
    const prepared = this.#prepare("generate", given);
    if (!prepared.config.token_healing) return this.#generate(prepared);
    // Held throughout: between the prompts' healing and the first step nothing may change the weights.
    this.hold();
    try {
      const { batch, config, options } = prepared;
      const rows = await this.#heal(promptsOf(batch), options.tokenizer, options);
      const inputs = paddedRows(rows, config.pad_token_id, "left");
      return await this.#generate(this.#prepare("generate", [{ ...options, ...inputs, token_healing: false }]));
    } finally {
      await this.release();
    }
  }

  /** Begins at once: what was checked still holds. */
  async #generate(prepared: Started): Promise<number[][] | GenerateOutput> {
    const { batch, config, options } = prepared;
    const copies = rowsPerPrompt(config.beams);
    const kept = keptBy(options, batch.rows * copies);
    if (config.beams.num_beams > 1) return returned(await this.#search(prepared, kept), options);
    const sequences = await collect(batch, copies, () => this.#steps(prepared, kept), options.streamer);
    const { past_key_values: past } = options;
    const scores = keptScores(kept, sequences[0]!.length - batch.steps);
    return returned({ sequences, ...scores, ...(past ? { past_key_values: past } : {}) }, options);
  }

  /**
   * The prompts with the last token of each chosen anew among those that begin with it (`token_healing`): their text is stripped and
   * tokenized again for that.
   * @param tokenizer the model's
   * @throws OptionError, and what `generate` throws
   */
  async heal_tokens(input_ids: Ids, tokenizer?: PreTrainedTokenizer): Promise<number[][]> {
    this.checkUsable();
    const prompts = promptsOf(readBatch(input_ids, undefined, this.module.geometry.vocab));
    this.hold();
    try {
      return await this.#heal(prompts, tokenizer);
    } finally {
      await this.release();
    }
  }

  #heal(
    prompts: readonly number[][],
    tokenizer: PreTrainedTokenizer | undefined,
    { signal, adapter_names: names }: Pick<GenerateOptions, "signal" | "adapter_names"> = {},
  ): Promise<number[][]> {
    return healed(prompts, tokenizer, async (ids, sequence_bias, prompt) => {
      const own = { ...(names ? { adapter_names: [names[prompt]!] } : {}), ...(signal ? { signal } : {}) };
      const [row] = await this.generate({ input_ids: [ids], ...ALONE, sequence_bias, ...own });
      return row!.at(-1)!;
    });
  }

  async #search(prepared: Started, kept: Kept | undefined): Promise<GenerateOutput> {
    const { batch, unconditional, config: given, ending, constraint, numbers, options, attention } = prepared;
    const { config, processors } = onHost(given, { ...options, kept, constraint });
    const { beams } = config;
    const { cache_dtype } = prepared;
    const { bytes } = this.#cacheOf(prepared);
    const { signal, progress_callback: progress } = options;
    this.hold();
    this.#caches += bytes;
    using adapters = this.#adaptersOf(options, batch.rows, given);
    try {
      const found = await beamSearch(this.device, this.module, batch, {
        config,
        beams,
        cache_dtype,
        ends: ending(),
        signal,
        progress,
        processors,
        numbers,
        kept,
        attention,
        unconditional,
        adapters,
      });
      constraint?.checkBeams(found.texts, eachPrompt(batch, beams.num_return_sequences));
      this.checkUsable();
      return outputOf(batch, found, config, kept);
    } finally {
      this.#caches -= bytes;
      await this.release();
    }
  }

  /**
   * The same as an async iterator over steps; leaving the loop early stops the work. An iterator that is dropped without being
   * finished or returned keeps its cache. With `tokenizer` each step has the `text` that is final with it.
   * @throws immediately what `generate` throws for its options and inputs
   */
  stream(options: TextStreamOptions): AsyncGenerator<TextStep>;
  stream(options: StreamOptions): AsyncGenerator<Step>;
  /** The same with the options after the inputs. */
  stream(
    inputs: Inputs<StreamOptions>,
    options: After<StreamOptions> & Pick<TextStreamOptions, "tokenizer">,
  ): AsyncGenerator<TextStep>;
  stream(inputs: Inputs<StreamOptions>, options?: After<StreamOptions>): AsyncGenerator<Step>;
  stream(...given: readonly unknown[]): AsyncGenerator<Step> {
    const prepared = this.#prepare("stream", given);
    const { tokenizer, skip_special_tokens = true } = prepared.options;
    const steps = this.#steps(prepared);
    if (!tokenizer) return steps;
    return withTexts(
      steps,
      tokenizer,
      eachPrompt(prepared.batch, rowsPerPrompt(prepared.config.beams)),
      skip_special_tokens,
    );
  }

  /**
   * The scores of the tokens that were chosen, [B][new]: those of `generate({ return_dict_in_generate, output_scores })` for its
   * sequences; 0 behind the end of a beam's text.
   * @param scores [steps][rows] of f32[V]
   * @throws OptionError, ShapeError for what does not fit
   */
  compute_transition_scores(
    sequences: readonly (readonly number[])[],
    scores: StepScores,
    options?: TransitionOptions,
  ): number[][] {
    return transitionScores(sequences, scores, options);
  }

  /** The cache dtype of a generation with these options, and the bytes it takes on the device. */
  cache_footprint(options: GenerateOptions): { dtype: ReturnType<typeof cacheName>; bytes: number };
  /** The same with the options after the inputs. */
  cache_footprint(
    inputs: Inputs<GenerateOptions>,
    options?: After<GenerateOptions>,
  ): { dtype: ReturnType<typeof cacheName>; bytes: number };
  cache_footprint(...given: readonly unknown[]): { dtype: ReturnType<typeof cacheName>; bytes: number } {
    const { dtype, bytes } = this.#cacheOf(this.#read("cache_footprint", given));
    return { dtype: cacheName(dtype), bytes };
  }

  /** Bytes on the device of the caches of all running generations. */
  get cache_bytes(): number {
    return this.#caches;
  }

  #cacheOf(prepared: Prepared): { dtype: CacheDType; bytes: number } {
    const { batch, config, tokens, cache_dtype: dtype, options } = prepared;
    const own = options.past_key_values && keptTexts.missing(options.past_key_values, this.#needs(prepared));
    return { dtype, bytes: own ?? cacheBytes(cacheShape(this.module, batch.rows * rowsOf(config), tokens, dtype)) };
  }

  /** The adapters of a session's rows: those of a prompt lie together, and the texts without its condition behind all of them. */
  #adaptersOf({ adapter_names }: Prepared["options"], prompts: number, config: GenerationConfig) {
    if (adapter_names === undefined) return undefined; // there may be very many rows
    const rows = prompts * rowsOf(config);
    const copies = config.mode.guidance_scale === undefined ? rowsOf(config) : rowsOf(config) / 2;
    const promptOf = (_: unknown, row: number): number => Math.floor(row / copies) % prompts;
    return adaptersOfRows(this, adapter_names, prompts, Array.from({ length: rows }, promptOf));
  }

  #needs({ batch, tokens, cache_dtype: dtype, options }: Prepared): CacheNeeds {
    const by = JSON.stringify([this.adapters?.working, options.adapter_names]);
    return { device: this.device, model: this.module, rows: batch.rows, tokens, dtype, by };
  }

  /**
   * Reads the options of a call that starts at once.
   * @throws OutOfMemoryError, OptionError for more tokens than fit into the device's memory
   */
  #prepare(call: "generate" | "stream", given: readonly unknown[]): Started {
    const prepared = this.#read(call, given);
    const { tokens, options } = prepared;
    checkRoom(this, this.#cacheOf(prepared).bytes, tokens, `a cache of ${tokens} tokens`);
    if (options.logits_processor?.length || options.prefix_allowed_tokens_fn) warnOfHostProcessors();
    warnOfDefaultLength(call, options, this.generation_config);
    return { ...prepared, attention: this.attending() };
  }

  #read(call: string, given: readonly unknown[]): Prepared {
    this.checkUsable();
    const options: Prepared["options"] = readCall(call, call === "stream" ? STREAM : GENERATE, given);
    const { vocab, max_positions } = this.module.geometry;
    const read = readBatch(options.input_ids, options.attention_mask, vocab);
    const config = this.#configOf(call, options, read.steps);
    const batch = leftPadded(withImpliedMask(read, options.attention_mask, config.prompt_padding));
    const unconditional = unconditionalOf(batch, config, options, vocab);
    const longest = (unconditional ?? []).reduce((most, { length }) => Math.max(most, length), batch.steps);
    const tokens = longest + config.max_new_tokens;
    this.#checkLength(longest, config, max_positions);
    checkProcessors(options.logits_processor);
    checkBeams(call, config, options);
    checkDrafting(this, config, options);
    if (config.mode.dola) layeredDecoder(this.module, config.mode.dola); // what it would refuse later
    const constraint = structuredOption(options) && GRAMMAR.now.constraintOf(options, vocab, config.eos_token_ids);
    checkStructured(constraint?.option, config);
    checkOffloadedCache(options.cache_implementation, this.module.placement?.devices ?? [this.device]);
    if (options.past_key_values) checkKept(config);
    adaptersOfRows(this, options.adapter_names, batch.rows)?.dispose(); // what it would refuse later
    return {
      batch,
      unconditional,
      tokens,
      config,
      cache_dtype: config.cache_dtype ?? cacheDType(this.dtype),
      ending: endingOf(config, options),
      constraint,
      numbers: numbersOf(options.sequence_numbers, batch.rows),
      options,
    };
  }

  #configOf(call: string, options: Prepared["options"], steps: number): GenerationConfig {
    const config = generationConfig(options, this.generation_config, this.config, steps, this.module.geometry.vocab);
    if (call !== "stream") return config;
    const why = "stream: token_healing changes the prompt, which a stream does not give";
    const hint = "stream from what heal_tokens(input_ids, tokenizer) gives";
    return { ...config, ...unhealed(options.token_healing, config.token_healing, why, hint) };
  }

  async *#steps(prepared: Started, kept?: Kept): AsyncGenerator<Step> {
    const { assistant_model, past_key_values: past } = prepared.options;
    const held = [this, ...(assistant_model ? [assistant_model] : [])];
    const { bytes } = this.#cacheOf(prepared);
    for (const model of held) model.checkUsable(); // both, before one is held
    for (const model of held) model.hold();
    this.#caches += bytes;
    const check = (): void => {
      for (const model of held) model.checkUsable();
    };
    try {
      if (past) this.#keep(past);
      const steps = past
        ? keptTexts.during(past, this.#needs(prepared), (texts) => this.#run(prepared, kept, texts))
        : this.#run(prepared, kept);
      for await (const step of steps) {
        check();
        yield step;
        check();
      }
    } finally {
      this.#caches -= bytes;
      for (const model of held) await model.release();
    }
  }

  async *#run(prepared: Started, kept?: Kept, held?: HeldTexts): AsyncGenerator<Step> {
    const {
      batch,
      unconditional,
      config: given,
      cache_dtype,
      ending,
      constraint,
      numbers,
      options,
      attention,
    } = prepared;
    const { config, processors, masks, edits } = onHost(given, { ...options, kept, constraint });
    const { assistant_model: assistant, signal, logprobs: scores, progress_callback: progress } = options;
    using adapters = this.#adaptersOf(options, batch.rows, given);
    const drafter: Drafter | undefined = openDrafter(batch, config, { assistant, signal });
    try {
      const lengths: number[] = [];
      let steps = 0;
      for await (const step of stepsOf(this.device, this.module, batch, {
        ...{ config, cache_dtype, ends: ending(), processors, masks, edits, numbers, unconditional, held },
        ...{ drafter, drafts: draftsOf(config, options), scores, signal, progress, attention, adapters },
      })) {
        steps++;
        for (const [row, ended] of step.finished.entries()) if (ended) lengths[row] ??= steps;
        if (drafter && step.finished.every(Boolean)) for (const own of [kept?.scores, kept?.logits]) own?.cut(lengths);
        yield step;
      }
    } finally {
      drafter?.[Symbol.dispose]?.();
    }
  }

  /** As of every loaded model; caches of earlier calls begin anew. */
  override resize_token_embeddings(new_num_tokens?: number | null, options: ResizeTokensOptions = {}): Embedding {
    const words = super.resize_token_embeddings(new_num_tokens, options);
    this.#abandon();
    return words;
  }

  /** As of every loaded model; caches of earlier calls are freed with it. */
  override dispose(): void {
    this.#abandon();
    super.dispose();
  }

  override async [Symbol.asyncDispose](): Promise<void> {
    this.#abandon();
    await super[Symbol.asyncDispose]();
  }

  #keep(cache: DynamicCache): void {
    for (const other of this.#kept) if (other.batch_size === 0) this.#kept.delete(other); // it was disposed
    this.#kept.add(cache);
  }

  #abandon(): void {
    for (const cache of this.#kept) keptTexts.abandon(cache, this.module);
    this.#kept.clear();
  }

  /** The last new token has no position, since nothing reads it; contrastive search reads it to compare it. */
  #checkLength(prompt: number, { max_new_tokens, mode }: GenerationConfig, max_positions: number): void {
    const read = mode.contrastive ? max_new_tokens : Math.max(0, max_new_tokens - 1);
    if (prompt + read <= max_positions) return;
    const tokens = `${prompt} tokens and ${max_new_tokens} new ones`;
    const which = mode.contrastive ? "" : ", of which the last is not read,";
    throw new OptionError(`${tokens}${which} are more than the ${max_positions} positions of this model`, {
      hint: "shorten the prompt or lower max_new_tokens",
    });
  }
}
