// The options by which models of sound transcribe: language and task, times, windows of long sound, and when a window is tried again
// at a higher temperature. Names and meanings are those of transformers' WhisperGenerationMixin.

import { isWhole, listOf } from "../core/checks.js";
import { callback, choice, type Entry, flag, number, type Options, such } from "../core/options.js";

const finite = (): Entry<number> => number(Number.isFinite, "a number");
const seconds = (): Entry<number> => number((n) => n > 0 && n < 3600, "a number of seconds above 0");
const isTemperature = (value: unknown): value is number =>
  typeof value === "number" && value >= 0 && Number.isFinite(Math.fround(value)) && (value === 0 || value >= 1e-30);

/** What a decoder's start says. */
const SPOKEN = {
  /**
   * The language that is spoken, as "de", "<|de|>" or "German", or one for each row; by default the model finds it out for each
   * row. Only for models that know several.
   */
  language: such<string | readonly string[]>(
    (value) =>
      typeof value === "string" || listOf(value, (one): one is string => typeof one === "string") !== undefined,
    'a language such as "de" or "German", or a list of them',
  ),
  /** "transcribe", the default with `language`, or "translate" to English. */
  task: choice(["transcribe", "translate"]),
};

/** With any of these a text is transcribed window by window (transcribe.ts), and the result is that of transformers 5. */
export const WINDOWS = {
  /** Also return the segments of each row, with their times: `{ sequences, segments }`. */
  return_segments: flag(),
  /** Also return a time for each token, from the model's alignment heads: `token_timestamps`. */
  return_token_timestamps: flag(),
  /** Ids of a text that comes before the transcript, as `tokenizer.get_prompt_ids(text)` gives them. */
  prompt_ids: such<readonly number[]>((value) => (listOf(value, isWhole)?.length ?? 0) > 0, "a list of token ids"),
  /** Each window continues the text of those before it. */
  condition_on_prev_tokens: flag(),
  /** A window is tried again at the next temperature if its tokens compress better than this (1.35 is usual). */
  compression_ratio_threshold: finite(),
  /** The same if the mean log-probability of its tokens is below this (-1 is usual). */
  logprob_threshold: finite(),
  /** With `logprob_threshold`: a window below it that is silent with more than this probability is left out (0.6 is usual). */
  no_speech_threshold: finite(),
};

export const TRANSCRIPTION = {
  ...SPOKEN,
  ...WINDOWS,
  /**
   * The model writes times between its words: `true`, or "word" for `return_token_timestamps` as well. Sound of more than one window
   * needs it, and has it by default.
   */
  return_timestamps: choice([true, false, "word"]),
  /** Where `prompt_ids` stand: before the first text ("first-segment"), or before each, with `condition_on_prev_tokens`. */
  prompt_condition_type: choice(["first-segment", "all-segments"]),
  /** One temperature, or those that are tried one after the other; above 0 tokens are drawn. */
  temperature: such<number | readonly number[]>(
    (value) => isTemperature(value) || (listOf(value, isTemperature)?.length ?? 0) > 0,
    "a number of at least 0, or a list of them",
  ),
  /** Seconds of a step of the times; 0.02. */
  time_precision: seconds(),
  /** Seconds of a frame of the spectrogram; 0.01. */
  time_precision_features: seconds(),
  /** Called before each window with `[frames done, frames]` of each row. */
  monitor_progress: callback<(progress: readonly (readonly [seek: number, frames: number])[]) => void>(),
};

export interface TranscriptionOptions extends Options<typeof TRANSCRIPTION> {}

/** What a stream takes of them: one window. */
export const STREAMED = { ...SPOKEN, return_timestamps: flag() };
