// Transcripts of sound of any length: window by window, each beginning where the times of the one before end (Radford et al. 2022,
// section 3.8), with the results of transformers' WhisperGenerationMixin. What happens in a window is in window.ts.

import { isWhole } from "../core/checks.js";
import { OptionError } from "../core/errors.js";
import type { Tensor } from "../core/tensor.js";
import { type CacheDType, cacheDType } from "../nn/cache.js";
import type { AttentionChoice } from "../nn/pass.js";
import type { Seq2SeqLM } from "../nn/seq2seq.js";
import type { LoadedModel } from "./base.js";
import { type GenerationConfig, generationConfig, givenLengths } from "./config.js";
import { endingOf } from "./ending.js";
import { type FeatureBatch, hosted } from "./features.js";
import { numbersOf, promptsOf, readMask } from "./inputs.js";
import type { GenerateOutput } from "./options.js";
import { checkProcessors } from "./processors/host-processor.js";
import { type Segment, segmentsOf } from "./segments.js";
import { checkDecoderPositions } from "./seq2seq-inputs.js";
import { LANGUAGE_AT, likeliestLanguages, type SpeechStart } from "./speech.js";
import { fieldOf, firstTime, type SpeechCall, timestampRule, writesTimes } from "./speech-call.js";
import type { WINDOWS } from "./speech-options.js";
import { alignmentHeads, Windows } from "./window.js";

/** What `generate` of a model of sound returns with `return_segments`, times of tokens, or `return_dict_in_generate`. */
export interface SpeechOutput extends GenerateOutput {
  /** The segments of each row. */
  readonly segments?: readonly (readonly Segment[])[];
  /** [B][T] of seconds, each from the beginning of its own window. */
  readonly token_timestamps?: readonly (readonly number[])[];
  /** How the decoder began with each row: its language and task. */
  readonly decoder_input_ids?: readonly (readonly number[])[];
}

/** Times of a step and of a frame. */
const PRECISION = 0.02;
const FRAME_PRECISION = 0.01;
/** From this temperature on, the next window does not continue the text. */
const HOT = 0.5;
/** That of Whisper's configs without a `median_filter_width`. */
const MEDIAN = 7;

/** Options that say something of one window's steps. */
const OF_STEPS = ["streamer", "output_scores", "output_logits", "prompt_lookup_num_tokens"] as const;

/** A row while it is transcribed. */
interface Row {
  readonly number: number;
  /** The decoder's start, without text before it. */
  start: readonly number[];
  /** Where in the features it is. */
  readonly item: number;
  readonly frames: number;
  seek: number;
  /** The next window continues its text. */
  conditioned: boolean;
  readonly segments: Segment[];
  /** Of the tokens of its segments, from the beginning of their windows. */
  readonly times: number[];
}

export class Transcription {
  readonly #model: LoadedModel<Seq2SeqLM>;
  readonly #options: SpeechCall;
  readonly #features: FeatureBatch;
  readonly #window: number;
  /** True if times are written. */
  readonly times: boolean;
  /** Rows of the features. */
  readonly rows: number;
  /** Frames of each that are no padding, by the attention mask. */
  readonly #sounds: readonly number[] | undefined;
  readonly #begin: number;
  readonly #conditions: boolean;
  readonly #attention: AttentionChoice;
  readonly #windows: Windows;
  /** The length that texts have at most, prompts included; it grows by those of each window. */
  #length: number | undefined;

  /**
   * @param features f32[B,mels,frames]
   * @throws OptionError, ConfigError
   */
  constructor(model: LoadedModel<Seq2SeqLM>, options: SpeechCall, features: FeatureBatch) {
    const { module, generation_config: file, config, dtype } = model;
    this.#model = model;
    this.#options = options;
    this.#features = features;
    this.#window = module.features!.fixed.frames!;
    this.rows = features.shape[0]!;
    this.times = writesTimes(options, file, features.shape[2]!, this.#window);
    this.#sounds = soundsOf(options.attention_mask, features.shape, this.#window);
    const { vocab, max_positions } = module.geometry;
    this.#begin = firstTime(file, vocab);
    this.#conditions = fieldOf(options, file, "condition_on_prev_tokens") ?? false;
    this.#attention = model.attending();
    this.#check(vocab);
    checkProcessors(options.logits_processor);
    const first = this.#config(0, 1, max_positions, undefined);
    const { cache_dtype = cacheDType(dtype) as CacheDType } = first;
    const words = this.#wordTimes();
    const { median_filter_width } = config;
    this.#windows = new Windows(model.device, module, {
      ...this.#thresholds(),
      attention: this.#attention,
      cache_dtype,
      logits_processor: [...(this.times ? [timestampRule(model, first)] : []), ...(options.logits_processor ?? [])],
      prefix_allowed_tokens_fn: options.prefix_allowed_tokens_fn,
      signal: options.signal,
      ends: endingOf(first, options),
      alignment_heads: words ? alignmentHeads(file.alignment_heads, module.geometry) : undefined,
      median_filter_width: typeof median_filter_width === "number" ? median_filter_width : MEDIAN,
      time_precision: options.time_precision ?? PRECISION,
      silence: this.#begin - 2,
    });
  }

  #wordTimes(): boolean {
    const { return_timestamps, return_token_timestamps } = this.#options;
    return return_timestamps === "word" || return_token_timestamps === true;
  }

  #thresholds(): Record<
    "compression_ratio_threshold" | "logprob_threshold" | "no_speech_threshold",
    number | undefined
  > {
    const of = (name: keyof typeof WINDOWS): number | undefined =>
      fieldOf(this.#options, this.#model.generation_config, name);
    return {
      compression_ratio_threshold: of("compression_ratio_threshold"),
      logprob_threshold: of("logprob_threshold"),
      no_speech_threshold: of("no_speech_threshold"),
    };
  }

  /** @throws OptionError */
  #check(vocab: number): void {
    const { prompt_ids, prompt_condition_type } = this.#options;
    const refuse = (option: string, message: string, hint?: string): never => {
      throw new OptionError(message, { details: { option }, hint });
    };
    for (const option of OF_STEPS) {
      if (this.#options[option]) {
        refuse(option, `${option} is for one window without times`, "leave it out, or those that ask for times");
      }
    }
    const odd = prompt_ids?.find((id) => id >= vocab);
    if (odd !== undefined) refuse("prompt_ids", `prompt_ids: ${odd} is not a token id below ${vocab}`);
    if (prompt_condition_type === "all-segments" && !this.#conditions) {
      refuse("prompt_condition_type", 'prompt_condition_type "all-segments" needs condition_on_prev_tokens: true');
    }
    const { no_speech_threshold, logprob_threshold } = this.#thresholds();
    if (no_speech_threshold !== undefined && this.#begin === Number.POSITIVE_INFINITY) {
      refuse("no_speech_threshold", "no_speech_threshold: this model's files name no token of silence");
    }
    if (no_speech_threshold !== undefined && logprob_threshold === undefined) {
      refuse(
        "no_speech_threshold",
        "no_speech_threshold counts only below logprob_threshold",
        "pass logprob_threshold: -1",
      );
    }
  }

  /**
   * How tokens of a window are chosen.
   * @param longest tokens of the longest prompt
   */
  #config(window: number, longest: number, max_new_tokens: number, temperature: number | undefined): GenerationConfig {
    const { generation_config, config, module } = this.#model;
    const { temperature: _, return_timestamps: __, ...given } = this.#options;
    const drawn = temperature !== undefined && temperature > 0;
    const options = {
      ...given,
      max_new_tokens,
      num_return_sequences: 1,
      ...(temperature === undefined ? {} : { do_sample: drawn, temperature: drawn ? temperature : 1 }),
      ...(drawn ? { num_beams: 1 } : {}),
    };
    const made = generationConfig(options, generation_config, config, longest, module.geometry.vocab);
    const tries = window * 64 + Math.round((temperature ?? 0) * 50);
    return { ...made, seed: (made.seed + Math.imul(tries, 0x9e3779b1)) | 0 };
  }

  /** Tokens that a window's texts have at most. @throws OptionError if they do not fit the decoder */
  #newTokens(longest: number): number {
    const { module, generation_config: file } = this.#model;
    const { max_positions } = module.geometry;
    const { max_new_tokens, max_length } = givenLengths(this.#options, file);
    const fits = (tokens: number): void =>
      checkDecoderPositions(module, tokens, "lower max_new_tokens, or shorten prompt_ids");
    if (max_new_tokens !== undefined) {
      fits(longest + max_new_tokens);
      return max_new_tokens;
    }
    fits(longest + 1);
    const room = Math.min(Math.floor(max_positions / 2) - 1, longest);
    this.#length = Math.min((this.#length ?? max_length) + room, max_positions);
    return Math.max(1, this.#length - longest);
  }

  /** The tokens before a window of a row, and where in them its start is. */
  #prompt({ start, segments, conditioned }: Row): { readonly prompt: readonly number[]; readonly start: number } {
    const { prompt_ids, prompt_condition_type = "first-segment", suppress_tokens } = this.#options;
    const { max_positions, vocab } = this.#model.module.geometry;
    const file = this.#model.generation_config;
    const suppressed = suppress_tokens ?? (file.suppress_tokens as readonly number[] | null | undefined) ?? [];
    const named = file.prev_sot_token_id ?? suppressed.at(-2);
    const previous = isWhole(named) && named < vocab ? named : undefined;
    const first = prompt_condition_type === "first-segment";
    const own = first && prompt_ids ? [prompt_ids.slice(prompt_ids[0] === previous ? 1 : 0)] : [];
    const texts = [...own, ...segments.map(({ tokens }) => this.#withoutDouble(tokens))];
    let before: readonly number[] = prompt_ids ?? [];
    if (conditioned && texts.length > 0) {
      const head = first || !prompt_ids ? (previous === undefined ? [] : [previous]) : prompt_ids;
      before = [...head, ...texts.flat().slice(-(Math.floor(max_positions / 2) - 1))];
    }
    return { prompt: [...before, ...start], start: before.length };
  }

  /** A segment's tokens, of two times at its end only the first. */
  #withoutDouble(tokens: readonly number[]): readonly number[] {
    return tokens.length > 2 && tokens.at(-2)! >= this.#begin ? tokens.slice(0, -1) : tokens;
  }

  /**
   * Transcribes.
   * @param start of the decoder, for each row of the features
   * @throws AbortError, KernelError, OutOfMemoryError; what processors and criteria throw
   */
  async run({ decoder, languages }: SpeechStart): Promise<number[][] | SpeechOutput> {
    const rows = this.#rows(promptsOf(decoder));
    const [, mels = 0, all = 0] = this.#features.shape;
    const values = await this.#features.values();
    const { temperature, monitor_progress } = this.#options;
    const temperatures = typeof temperature === "object" ? temperature : [temperature];
    const stride = this.#window / this.#model.module.encoder_positions!;
    const time_precision = this.#options.time_precision ?? PRECISION;
    const time_precision_features = this.#options.time_precision_features ?? FRAME_PRECISION;
    for (let window = 0; ; window++) {
      const active = rows.filter(({ seek, frames }) => seek < frames);
      if (active.length === 0) break;
      monitor_progress?.(rows.map(({ seek, frames }) => [seek, frames] as const));
      using hidden = this.#windows.encode(windowOf(values, mels, all, this.#window, active));
      if (window === 0 && languages) await this.#find(active, hidden, languages);
      const parts = active.map((row) => ({
        ...this.#prompt(row),
        number: row.number,
        positions: this.#positions(row, stride),
      }));
      const longest = parts.reduce((most, { prompt }) => Math.max(most, prompt.length), 0);
      const limit = this.#newTokens(longest);
      const configs = temperatures.map((one) => this.#config(window, longest, limit, one));
      const texts = await this.#windows.texts(parts, hidden, configs);
      this.#model.checkUsable();
      for (const [n, row] of active.entries()) {
        const { tokens, silent, temperature: tried, times } = texts[n]!;
        const frames = Math.min(row.frames - row.seek, this.#window);
        row.conditioned = this.#conditions && tried < HOT;
        const at = { begin: this.#begin, offset: (row.seek * time_precision) / stride, frames, stride };
        const found = silent
          ? { segments: [], advance: frames }
          : segmentsOf(tokens, { ...at, time_precision, time_precision_features }, times);
        row.segments.push(...found.segments);
        const written = found.segments.reduce((sum, one) => sum + one.tokens.length, 0);
        row.times.push(...(times ?? []).slice(0, written));
        // Processors of the caller's may write what no time comes of; the next window still comes.
        row.seek += found.advance > 0 ? found.advance : frames;
      }
    }
    return this.#output(rows);
  }

  /**
   * Positions of the encoder's output that hold sound. Behind the sound's end nothing is said; if the model hears it all the same, the
   * times are those that transformers reads from such a window without its last positions.
   */
  #positions(row: Row, stride: number): number {
    if (!this.#sounds) return Number.POSITIVE_INFINITY;
    const left = Math.floor((this.#sounds[row.item]! - row.seek) / stride);
    return Math.max(1, left >= 0 ? left : this.#model.module.encoder_positions! + 2 * left);
  }

  /** Sets the languages of rows, by their first window. */
  async #find(rows: readonly Row[], hidden: Tensor, languages: readonly number[]): Promise<void> {
    const { device, module } = this.#model;
    const first = rows[0]!.start[0]!;
    const found = await likeliestLanguages(device, module, hidden, first, languages, this.#attention);
    for (const [n, row] of rows.entries()) row.start = row.start.with(LANGUAGE_AT, found[n]!);
  }

  #rows(starts: readonly (readonly number[])[]): Row[] {
    const [items = 0, , frames = 0] = this.#features.shape;
    const { num_return_sequences: copies = 1, sequence_numbers } = this.#options;
    const long = frames > this.#window && items > 1;
    const numbers = numbersOf(sequence_numbers, items);
    return Array.from({ length: items * copies }, (_, n): Row => {
      const item = Math.floor(n / copies);
      const row = { item, number: numbers[item]! * copies + (n % copies), start: starts[item]! };
      const own = { frames: long ? this.#sounds![item]! : frames, seek: 0, conditioned: this.#conditions };
      return { ...row, ...own, segments: [], times: [] };
    });
  }

  #output(rows: readonly Row[]): number[][] | SpeechOutput {
    const { return_segments, return_dict_in_generate } = this.#options;
    const { pad_token_id } = this.#config(0, 1, 1, undefined);
    const sequences = padded(
      rows.map(({ segments }) => segments.flatMap(({ tokens }) => tokens)),
      () => pad_token_id,
    );
    const words = this.#wordTimes();
    const all = return_segments || return_dict_in_generate;
    if (!all && !words) return sequences;
    const times = rows.map((row) => row.times);
    return {
      sequences,
      ...(words ? { token_timestamps: padded(times, (list) => list.at(-1) ?? 0) } : {}),
      ...(all ? { segments: rows.map(({ segments }) => segments) } : {}),
      decoder_input_ids: rows.map(({ start }) => [...start]),
    };
  }
}

/**
 * Frames of each row of features [B,mels,frames] that are no padding; undefined without a mask.
 * @throws OptionError, ShapeError
 */
function soundsOf(
  mask: SpeechCall["attention_mask"],
  [rows = 0, , frames = 0]: readonly number[],
  window: number,
): number[] | undefined {
  if (mask === undefined) {
    if (rows === 1 || frames <= window) return undefined;
    throw new OptionError("several sounds of more than one window need an attention_mask", {
      details: { option: "attention_mask" },
      hint: "the feature extractor gives it with return_attention_mask: true",
    });
  }
  const values = readMask(mask, rows, frames);
  return Array.from({ length: rows }, (_, row) =>
    values.subarray(row * frames, (row + 1) * frames).reduce((sum, one) => sum + one, 0),
  );
}

/** Lists of the length of the longest one. */
function padded<T>(lists: readonly (readonly T[])[], filler: (list: readonly T[]) => T): T[][] {
  const longest = lists.reduce((most, { length }) => Math.max(most, length), 0);
  return lists.map((list) => [...list, ...new Array<T>(longest - list.length).fill(filler(list))]);
}

/**
 * The window of each row from its own frame on, filled with zeros.
 * @param values f32[B,mels,all]
 */
function windowOf(
  values: Float32Array,
  mels: number,
  all: number,
  window: number,
  rows: readonly Pick<Row, "item" | "seek" | "frames">[],
): FeatureBatch {
  const data = new Float32Array(rows.length * mels * window);
  for (const [n, { item, seek, frames }] of rows.entries()) {
    for (let mel = 0; mel < mels; mel++) {
      const from = (item * mels + mel) * all;
      data.set(values.subarray(from + seek, from + Math.min(frames, seek + window)), (n * mels + mel) * window);
    }
  }
  return hosted(data, [rows.length, mels, window]);
}
