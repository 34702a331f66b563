// Loaded encoder-decoders as users hold them.

import type { Device } from "../core/device.js";
import { OptionError } from "../core/errors.js";
import type { Options } from "../core/options.js";
import { scope, Tensor } from "../core/tensor.js";
import type { Loaded } from "../load/index.js";
import { type CacheDType, cacheBytes, cacheDType } from "../nn/cache.js";
import { logits } from "../nn/decoder.js";
import type { AttentionChoice } from "../nn/pass.js";
import type { Seq2SeqLM } from "../nn/seq2seq.js";
import { type After, type Inputs, readCall } from "./arguments.js";
import { LoadedModel } from "./base.js";
import { rowsPerPrompt } from "./beam-config.js";
import { beamSearch, checkBeams, keptScores, outputOf, returned } from "./beams.js";
import { cacheShape, checkOffloadedCache } from "./cache-options.js";
import { fileWarnings, type GenerationConfig, generationConfig, warnOfDefaultLength } from "./config.js";
import { layeredDecoder } from "./dola.js";
import { type Ends, endingOf } from "./ending.js";
import { readFeatures } from "./features.js";
import type { Constraint } from "./grammar/constraint.js";
import { checkStructured, structuredOption } from "./grammar/structured.js";
import { unhealed } from "./healing.js";
import { type Batch, eachPrompt, type Ids, numbersOf, promptsOf, readBatch, table, withImpliedMask } from "./inputs.js";
import { lossOf, lossOfStates } from "./labels.js";
import { collect, type Step } from "./loop.js";
import { rowsOf } from "./mode-options.js";
import {
  type AsDict,
  type GenerateOutput,
  SEQ2SEQ_FORWARD,
  SEQ2SEQ_GENERATE,
  SEQ2SEQ_STREAM,
  type Seq2SeqForwardOptions,
  type Seq2SeqGenerateOptions,
  type Seq2SeqStreamOptions,
  type Seq2SeqTextStreamOptions,
  SPEECH_FORWARD,
  SPEECH_GENERATE,
  SPEECH_STREAM,
} from "./options.js";
import { GRAMMAR } from "./parts.js";
import { onHost } from "./processors/host/chain.js";
import { checkProcessors, warnOfHostProcessors } from "./processors/host-processor.js";
import { checkRoom } from "./room.js";
import { type Kept, keptBy, type StepScores, type TransitionOptions, transitionScores } from "./scores.js";
import { type EncoderInput, encodeBatch, encodedShape, encodeInto, seq2seqSteps } from "./seq2seq.js";
import {
  checkDecoderPositions,
  checkDecoderRows,
  decoderStart,
  readDecoder,
  readEncoderInput,
  refuseTwoStarts,
  shiftedRight,
} from "./seq2seq-inputs.js";
import { type SpeechOptions, type SpeechStart, withLanguages } from "./speech.js";
import { asksTranscript, type SpeechCall, timestampRule } from "./speech-call.js";
import { type TextStep, withTexts } from "./texts.js";
import { Transcription } from "./transcribe.js";

/** The result of one forward pass; the caller disposes all of it. */
export interface Seq2SeqOutput {
  /** With `labels`: f32[1], the mean cross-entropy of the labels that count, in nats. */
  loss?: Tensor;
  /** f32[B,T,vocab], or f32[B,n,vocab] with `logits_to_keep`. */
  logits: Tensor;
  /** f32[B,S,hidden] */
  encoder_last_hidden_state: Tensor;
  encoder_hidden_states?: Tensor[];
  decoder_hidden_states?: Tensor[];
  encoder_attentions?: Tensor[];
  decoder_attentions?: Tensor[];
  cross_attentions?: Tensor[];
}

/** The result of a pass with `skip_logits`. */
export interface Seq2SeqLoss extends Omit<Seq2SeqOutput, "logits" | "loss"> {
  loss: Tensor;
}

interface Prepared {
  readonly encoder: EncoderInput;
  readonly decoder: Batch;
  /** Ids of languages, if the one of each row is to be found out (`SpeechStart`). */
  readonly languages: readonly number[] | undefined;
  readonly config: GenerationConfig;
  readonly cache_dtype: CacheDType;
  /** What ends texts beside their length and the ids that end them, from when it is called. */
  readonly ending: () => Ends | undefined;
  /** What the new texts are, if the call says so. */
  readonly constraint: Constraint | undefined;
  readonly numbers: readonly number[];
  readonly options: Options<typeof SEQ2SEQ_GENERATE & typeof SEQ2SEQ_STREAM>;
  readonly attention: AttentionChoice;
}

/** A call is a forward pass. */
interface Call {
  (options: Seq2SeqForwardOptions & { readonly skip_logits: true }): Seq2SeqLoss;
  (options: Seq2SeqForwardOptions): Seq2SeqOutput;
  (inputs: Inputs<Seq2SeqForwardOptions>, options?: After<Seq2SeqForwardOptions>): Seq2SeqOutput;
}
export interface PreTrainedSeq2SeqLM extends Call {}

// biome-ignore lint/suspicious/noUnsafeDeclarationMerging: `Called` makes instances that can be called
export class PreTrainedSeq2SeqLM extends LoadedModel<Seq2SeqLM> {
  /** For `from_pretrained`. @throws OptionError for anything but a model that was loaded */
  constructor(loaded: Loaded<"seq2seq-lm" | "speech-seq2seq">, device: Device, ownsDevice: boolean) {
    super(loaded, device, ownsDevice, ({ generation_config, config, model }) =>
      fileWarnings(generation_config, config, model.geometry.vocab),
    );
  }

  /**
   * Records one forward pass of encoder and decoder, without a cache. With `labels` there is a `loss`, and with `skip_logits` the loss
   * alone.
   * @throws ShapeError, OptionError (an id outside the vocabulary, an unknown option)
   */
  forward(options: Seq2SeqForwardOptions & { readonly skip_logits: true }): Seq2SeqLoss;
  forward(options: Seq2SeqForwardOptions): Seq2SeqOutput;
  /** The same with the options after the inputs. */
  forward(inputs: Inputs<Seq2SeqForwardOptions>, options?: After<Seq2SeqForwardOptions>): Seq2SeqOutput;
  forward(...given: readonly unknown[]): Seq2SeqOutput | Seq2SeqLoss {
    this.checkUsable();
    const { device, module } = this;
    const speech = module.features;
    const inputs = readCall("forward", speech ? SPEECH_FORWARD : SEQ2SEQ_FORWARD, given, speech?.name);
    const encoder = readEncoderInput(this.module, inputs);
    const { decoder, learned } = readDecoder(this as LoadedModel<Seq2SeqLM>, inputs);
    checkDecoderRows(this.module, encoder, decoder);
    const shorten = inputs.decoder_input_ids === undefined ? "shorten labels" : "shorten decoder_input_ids";
    checkDecoderPositions(this.module, decoder.steps, shorten);
    const capture = inputs.output_hidden_states ?? false;
    const capture_attentions = inputs.output_attentions ?? false;
    const how = { capture, capture_attentions, attention: this.attending(capture_attentions) };
    return scope(() => {
      const ints = (values: Int32Array, { rows, steps }: Batch): Tensor => Tensor.from(device, values, [rows, steps]);
      const places = (batch: Batch): Tensor =>
        ints(
          batch.ids.map((_, at) => at % batch.steps),
          batch,
        );
      const { pass, hidden, mask } = encodeBatch(device, module, encoder, how);
      using encoding = pass;
      encoding.capture(hidden);
      const input = { positions: places(decoder), encoded: { hidden, mask } };
      using decoding = module.pass(input, how);
      const ids = ints(decoder.ids, decoder);
      const output: Partial<Seq2SeqOutput> = {};
      if (learned && inputs.skip_logits) {
        const states = module.hidden(decoding, ids);
        decoding.capture(states);
        output.loss = lossOfStates(module, states, learned, inputs);
      } else {
        output.logits = logits(module, decoding, ids, { logits_to_keep: inputs.logits_to_keep });
        if (learned) output.loss = lossOf(output.logits, learned, inputs);
      }
      output.encoder_last_hidden_state = hidden;
      if (capture) {
        output.encoder_hidden_states = encoding.take_hidden_states();
        output.decoder_hidden_states = decoding.take_hidden_states();
      }
      if (capture_attentions) {
        output.encoder_attentions = encoding.take_attentions("self");
        output.decoder_attentions = decoding.take_attentions("self");
        output.cross_attentions = decoding.take_attentions("cross");
      }
      return { ...output } as Record<string, Tensor | Tensor[]>;
    }) as unknown as Seq2SeqOutput | Seq2SeqLoss; // one or the other, as the inputs say
  }

  /** Labels [B][T] as the decoder reads them: one place later, behind its first token, with padding for -100. @throws OptionError */
  prepare_decoder_input_ids_from_labels(labels: Ids): number[][] {
    return shiftedRight(this.config, table("labels", labels));
  }

  /**
   * Generates for each text of a batch: the decoder's start (`decoder_input_ids`, or the model's `decoder_start_token_id`) and
   * the new tokens, [B][T + new]. Rows that end early are filled with the padding id.
   * @throws OptionError, ShapeError, OutOfMemoryError; AbortError when `signal` fires
   */
  generate(options: Seq2SeqGenerateOptions & AsDict): Promise<GenerateOutput>;
  generate(options: Seq2SeqGenerateOptions): Promise<number[][]>;
  /** The same with the options after the inputs. */
  generate(
    inputs: Inputs<Seq2SeqGenerateOptions>,
    options: After<Seq2SeqGenerateOptions> & AsDict,
  ): Promise<GenerateOutput>;
  generate(
    inputs: Inputs<Seq2SeqGenerateOptions> & AsDict,
    options: After<Seq2SeqGenerateOptions>,
  ): Promise<GenerateOutput>;
  generate(inputs: Inputs<Seq2SeqGenerateOptions>, options?: After<Seq2SeqGenerateOptions>): Promise<number[][]>;
  async generate(...given: readonly unknown[]): Promise<number[][] | GenerateOutput> {
    const asked = this.#read("generate", given);
    const transcription = this.#transcription(asked);
    if (transcription) return this.#transcribe(transcription, asked);
    const prepared = this.#prepare("generate", asked);
    if (!prepared.languages) return this.#generate(prepared);
    // Held throughout: between the languages and the first step nothing may change the weights.
    this.hold();
    try {
      return await this.#generate(await this.#withLanguages(prepared, prepared.languages));
    } finally {
      await this.release();
    }
  }

  /** Begins at once: what was checked still holds. */
  async #generate(prepared: Prepared): Promise<number[][] | GenerateOutput> {
    const { config, decoder, options } = prepared;
    const copies = rowsPerPrompt(config.beams);
    const kept = keptBy(options, decoder.rows * copies);
    if (config.beams.num_beams > 1) return returned(await this.#search(prepared, kept), options);
    const sequences = await collect(decoder, copies, () => this.#steps(prepared, kept), options.streamer);
    return returned({ sequences, ...keptScores(kept, sequences[0]!.length - decoder.steps) }, options);
  }

  async #search(
    { encoder, decoder, config: given, cache_dtype, ending, constraint, numbers, options, attention }: Prepared,
    kept: Kept | undefined,
  ): Promise<GenerateOutput> {
    const { config, processors } = onHost(given, { ...options, kept, constraint }, textsOf(encoder));
    const { beams } = config;
    const { signal } = options;
    this.hold();
    try {
      using cross = encodeInto(this.device, this.module, encoder, cache_dtype, beams.num_beams, attention);
      const search = {
        config,
        beams,
        cache_dtype,
        ends: ending(),
        signal,
        processors,
        numbers,
        cross,
        kept,
        attention,
      };
      const found = await beamSearch(this.device, this.module, decoder, search);
      constraint?.checkBeams(found.texts, eachPrompt(decoder, beams.num_return_sequences));
      this.checkUsable();
      return outputOf(decoder, found, config, kept);
    } finally {
      await this.release();
    }
  }

  /**
   * The same as an async iterator over steps; leaving the loop early stops the work. With `tokenizer` each step has the `text`
   * that is final with it.
   * @throws immediately what `generate` throws for its options and inputs
   */
  stream(options: Seq2SeqTextStreamOptions): AsyncGenerator<TextStep>;
  stream(options: Seq2SeqStreamOptions): AsyncGenerator<Step>;
  /** The same with the options after the inputs. */
  stream(
    inputs: Inputs<Seq2SeqStreamOptions>,
    options: After<Seq2SeqStreamOptions> & Pick<Seq2SeqTextStreamOptions, "tokenizer">,
  ): AsyncGenerator<TextStep>;
  stream(inputs: Inputs<Seq2SeqStreamOptions>, options?: After<Seq2SeqStreamOptions>): AsyncGenerator<Step>;
  stream(...given: readonly unknown[]): AsyncGenerator<Step> {
    const prepared = this.#prepare("stream", this.#read("stream", given));
    return prepared.languages ? this.#streamAfter(prepared, prepared.languages) : this.#stream(prepared);
  }

  #stream(prepared: Prepared): AsyncGenerator<Step> {
    const { tokenizer, skip_special_tokens = true } = prepared.options;
    const steps = this.#steps(prepared);
    if (!tokenizer) return steps;
    const prompts = eachPrompt(prepared.decoder, rowsPerPrompt(prepared.config.beams));
    return withTexts(steps, tokenizer, prompts, skip_special_tokens);
  }

  async *#streamAfter(prepared: Prepared, languages: readonly number[]): AsyncGenerator<Step> {
    this.hold();
    try {
      yield* this.#stream(await this.#withLanguages(prepared, languages));
    } finally {
      await this.release();
    }
  }

  /** With the languages in the decoder's start that are to be found out. */
  async #withLanguages(prepared: Prepared, languages: readonly number[]): Promise<Prepared> {
    const { encoder, decoder, attention } = prepared;
    return {
      ...prepared,
      decoder: await withLanguages(this.device, this.module, encoder, decoder, languages, attention),
    };
  }

  #read(call: "generate" | "stream", given: readonly unknown[]): Prepared["options"] {
    this.checkUsable();
    const speech = this.module.features;
    const [generating, streaming] = speech ? [SPEECH_GENERATE, SPEECH_STREAM] : [SEQ2SEQ_GENERATE, SEQ2SEQ_STREAM];
    const table = call === "stream" ? streaming : generating;
    return readCall(call, table as typeof SEQ2SEQ_GENERATE, given, speech?.name);
  }

  /** How sound is transcribed that a call asks more of than the text of one window; undefined for other calls. */
  #transcription(options: SpeechCall): Transcription | undefined {
    const { features } = this.module;
    if (!features) return undefined;
    const { mels, frames = 0 } = features.fixed;
    const sound = readFeatures(options.input_features, { ...features, fixed: { mels: mels! } });
    if (!asksTranscript(options, this.generation_config, sound.shape[2]!, frames)) return undefined;
    if (options.decoder_input_ids !== undefined) {
      throw new OptionError("decoder_input_ids starts one text; a transcript may have several windows, and times", {
        details: { option: "decoder_input_ids" },
        hint: "pass language, task and prompt_ids",
      });
    }
    return new Transcription(this as LoadedModel<Seq2SeqLM>, options, sound);
  }

  async #transcribe(transcription: Transcription, options: SpeechCall): Promise<number[][] | GenerateOutput> {
    const { language, task, num_beams = 1, num_return_sequences = 1 } = options;
    const { times: return_timestamps, rows } = transcription;
    const start = decoderStart(this as LoadedModel<Seq2SeqLM>, rows, { language, task, return_timestamps });
    const { max_positions } = this.module.geometry;
    const cache_dtype = cacheDType(this.dtype);
    const copies = rows * num_beams * num_return_sequences;
    this.#checkRoom(copies, this.module.encoder_positions!, max_positions, cache_dtype);
    if (options.logits_processor?.length || options.prefix_allowed_tokens_fn) warnOfHostProcessors();
    warnOfDefaultLength("generate", options, this.generation_config);
    this.hold();
    try {
      return await transcription.run(start);
    } finally {
      await this.release();
    }
  }

  #prepare(call: "generate" | "stream", given: Prepared["options"]): Prepared {
    const { module } = this;
    let options = given;
    const { return_timestamps = this.generation_config.return_timestamps } = options as SpeechOptions;
    const times = call === "stream" && module.features !== undefined && Boolean(return_timestamps);
    const { vocab } = module.geometry;
    const read = readEncoderInput(this.module, options);
    const shape = encodedShape(module, read);
    const begun = options.decoder_input_ids;
    refuseTwoStarts(options);
    const { decoder, languages }: SpeechStart =
      begun === undefined
        ? decoderStart(this as LoadedModel<Seq2SeqLM>, shape.rows, {
            ...(options as SpeechOptions),
            return_timestamps: times,
          })
        : { decoder: readBatch(begun, undefined, vocab, "decoder_input_ids") };
    checkDecoderRows(this.module, read, decoder);
    const config = generationConfig(options, this.generation_config, this.config, decoder.steps, vocab);
    unhealed(options.token_healing, config.token_healing, "token_healing is for models without an encoder");
    if (times) {
      const rule = timestampRule(this as LoadedModel<Seq2SeqLM>, config);
      options = { ...options, logits_processor: [rule, ...(options.logits_processor ?? [])] };
    }
    const encoder = "ids" in read ? withImpliedMask(read, options.attention_mask, config.prompt_padding) : read;
    checkProcessors(options.logits_processor);
    checkBeams(call, config, options);
    if (config.mode.guidance_scale !== undefined) {
      throw new OptionError(
        "guidance_scale is for models without an encoder: nothing says what an encoder reads instead",
        {
          details: { option: "guidance_scale" },
          hint: "leave it out, or pass guidance_scale: 1 where generation_config.json has it",
        },
      );
    }
    if (config.mode.dola) layeredDecoder(this.module, config.mode.dola);
    const constraint = structuredOption(options) && GRAMMAR.now.constraintOf(options, vocab, config.eos_token_ids);
    checkStructured(constraint?.option, config);
    checkOffloadedCache(options.cache_implementation, this.module.placement?.devices ?? [this.device]);
    if (options.prompt_lookup_num_tokens) {
      throw new OptionError("prompt_lookup_num_tokens is for models without an encoder", {
        details: { option: "prompt_lookup_num_tokens" },
      });
    }
    const cache_dtype = config.cache_dtype ?? cacheDType(this.dtype);
    const tokens = decoder.steps + config.max_new_tokens;
    // The last new token has no position, since nothing reads it but contrastive search. Whisper counts it, as in transformers.
    const reads = module.features !== undefined || config.mode.contrastive !== undefined;
    const placed = reads ? tokens : Math.max(decoder.steps, tokens - 1);
    checkDecoderPositions(this.module, placed, "lower max_new_tokens");
    this.#checkRoom(decoder.rows * rowsOf(config), shape.steps, tokens, cache_dtype);
    if (given.logits_processor?.length || options.prefix_allowed_tokens_fn) warnOfHostProcessors();
    warnOfDefaultLength(call, options, this.generation_config);
    return {
      encoder,
      decoder,
      languages,
      config,
      cache_dtype,
      ending: endingOf(config, options),
      constraint,
      numbers: numbersOf(options.sequence_numbers, decoder.rows),
      options,
      attention: this.attending(),
    };
  }

  #checkRoom(rows: number, steps: number, tokens: number, dtype: CacheDType): void {
    const { module } = this;
    const cross = { layers: module.cross_layers, rows, capacity: steps, dtype };
    const bytes = cacheBytes(cacheShape(module, rows, tokens, dtype)) + cacheBytes(cross);
    checkRoom(this, bytes, tokens, `caches of ${steps} and ${tokens} tokens`);
  }

  /** As that of PreTrainedModel. @throws OptionError, ShapeError for what does not fit */
  compute_transition_scores(
    sequences: readonly (readonly number[])[],
    scores: StepScores,
    options?: TransitionOptions,
  ): number[][] {
    return transitionScores(sequences, scores, options);
  }

  async *#steps(prepared: Prepared, kept?: Kept): AsyncGenerator<Step> {
    const { encoder, decoder, cache_dtype, ending, constraint, numbers, options, attention } = prepared;
    const { config, processors, masks, edits } = onHost(
      prepared.config,
      { ...options, kept, constraint },
      textsOf(encoder),
    );
    const { signal, logprobs: scores } = options;
    this.hold();
    try {
      const loop = {
        config,
        cache_dtype,
        ends: ending(),
        processors,
        masks,
        edits,
        numbers,
        scores,
        signal,
        attention,
      };
      for await (const step of seq2seqSteps(this.device, this.module, encoder, decoder, loop)) {
        this.checkUsable();
        yield step;
        this.checkUsable();
      }
    } finally {
      await this.release();
    }
  }
}

/** The texts that an encoder reads; none where it reads sound. */
function textsOf(encoder: EncoderInput): number[][] {
  if (!("ids" in encoder)) return [];
  return promptsOf(encoder).map((ids) => [...ids]);
}
