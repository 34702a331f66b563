// The options of forward, generate and stream: one table for each call. Options that generation_config.json may hold are in config.ts,
// those of from_pretrained in loading-options.ts.

import {
  callback,
  checkedLater,
  flag,
  type Needed,
  number,
  type Options,
  omit,
  option,
  signal,
  such,
  whole,
} from "../core/options.js";
import * as z from "../core/schema.js";
import type { CausalLM } from "../nn/decoder.js";
import type { PreTrainedTokenizer } from "../tokenizer/api.js";
import type { LoadedModel } from "./base.js";
import { GENERATION, type GenerationOptions } from "./config.js";
import { DynamicCache } from "./dynamic-cache.js";
import type { StoppingRule } from "./ending.js";
import type { FeatureValues } from "./features.js";
import { STRUCTURED } from "./grammar/options.js";
import { RETURNS } from "./host-options.js";
import { type Ids, PACKED, type PackedInputs } from "./inputs.js";
import type { PromptProgress } from "./prefill.js";
import type { HostProcessor, PrefixAllowedTokens } from "./processors/host-processor.js";
import type { StepScores } from "./scores.js";
import { STREAMED, TRANSCRIPTION, type TranscriptionOptions } from "./speech-options.js";
import { isTokenizer, type Streamer } from "./streamers.js";

/** The output of a tokenizer, and the input of every call of a model. */
const INPUTS = {
  /** Token ids [B,T]; one flat list is one row. */
  input_ids: checkedLater<Ids>(),
  /** [B,T]: 1 for real tokens, 0 for padding; by default all are real. */
  attention_mask: checkedLater<Ids>(),
  /** [B,T]: which of a pair of texts a token belongs to; decoders have no token types and ignore them. */
  token_type_ids: checkedLater<Ids>(),
};

export interface ModelInputs extends Omit<Options<typeof INPUTS>, "input_ids">, Needed<typeof INPUTS, "input_ids"> {}

/** Additional outputs of a forward pass. */
const OUTPUTS = {
  /** Return the hidden states as well: the embeddings, then the output of each block, the last after the final norm. */
  output_hidden_states: flag(),
  /**
   * Return the weights of attention as well, f32[B,heads,T,S] of each layer: of the queries T over the keys S, in the exact path.
   * They take memory that grows with the square of the longest text.
   */
  output_attentions: flag(),
};

/** Of models with experts. */
const ROUTERS = {
  /**
   * Return the scores of the experts, `router_logits` [B·T,experts] of each layer that has some, and `aux_loss` [1], which is small where all
   * are used alike; a `loss` has it added, times `router_aux_loss_coef`. By default what config.json says, as far as the loss goes.
   */
  output_router_logits: flag(),
  /** Default: that of config.json. */
  router_aux_loss_coef: number(() => true, "a number"),
};

/** Which logits of a decoder are returned. */
const LOGITS = {
  /** Logits of this many positions at the end of each row; 0, the default, for all. */
  logits_to_keep: whole(0),
};

/** How the losses of labels become one. */
const LOSS = {
  /** What the sum of the losses is divided by: labels that count in all batches of an update (default: those of this batch). */
  num_items_in_batch: whole(1),
  /** Share of each label that is spread over all of them (default: 0). */
  label_smoothing: number((n) => n >= 0 && n < 1, "a number of at least 0, below 1"),
};

/** What a language model learns from. */
const TRAINING = {
  /**
   * [B,T]: the ids that the model should give, at their own places (usually the inputs themselves); -100 does not count. The result then
   * has a `loss`.
   */
  labels: checkedLater<Ids>(),
  ...LOSS,
  /** The loss alone: the head runs on some tokens after the others, and the logits of all of them are never in memory. */
  skip_logits: flag(),
};

const ADAPTERS = {
  /** The adapter of each row of the inputs, "__base__" for none; others than those of set_adapter, for this call alone. */
  adapter_names: checkedLater<readonly string[]>(),
};

/** All options of a causal language model's forward. */
export const FORWARD = { ...INPUTS, ...PACKED, ...OUTPUTS, ...ROUTERS, ...LOGITS, ...TRAINING, ...ADAPTERS };

export interface ForwardOptions
  extends ModelInputs,
    PackedInputs,
    Options<typeof OUTPUTS>,
    Options<typeof ROUTERS>,
    Options<typeof LOGITS>,
    Options<typeof TRAINING>,
    Options<typeof ADAPTERS> {}

/** What the heads of encoders learn from. */
const ENCODER_TRAINING = {
  /**
   * Of masked language models and classifiers of tokens [B,T], an id or a class for each token; of classifiers of texts [B], or [B,labels]
   * if a text may have several or they are numbers (`problem_type` of config.json says which). -100 does not count. The result then has a
   * `loss`.
   */
  labels: checkedLater<Ids>(),
  /** [B]: the first tokens of answers; those behind the text do not count. */
  start_positions: checkedLater<Ids>(),
  /** [B]: the last tokens of answers. */
  end_positions: checkedLater<Ids>(),
  ...LOSS,
};

/** All options of an encoder's forward. */
export const ENCODER_FORWARD = { ...INPUTS, ...OUTPUTS, ...ENCODER_TRAINING };

export interface EncoderForwardOptions extends ModelInputs, Options<typeof OUTPUTS>, Options<typeof ENCODER_TRAINING> {}

const FEATURES = {
  /** [B,channels,height,width]: images, as an image processor makes them. */
  pixel_values: checkedLater<FeatureValues>(),
  /** [B,T]: sound at the model's rate, as a feature extractor makes it. */
  input_values: checkedLater<FeatureValues>(),
  /** [B,T] of samples: 1 for real ones, 0 for padding. */
  attention_mask: checkedLater<Ids>(),
};

/** What the heads of models of images and sound learn from. */
const FEATURE_TRAINING = {
  /** Of classifiers as those of texts; of CTC [B,letters], the text of each sound behind which -100 fills rows. The result then has a `loss`. */
  labels: checkedLater<Ids>(),
  ...LOSS,
};

/** All options of the forward of a model of images or sound; each reads one of the inputs. */
export const FEATURE_FORWARD = { ...FEATURES, ...OUTPUTS, ...FEATURE_TRAINING };

export interface FeatureForwardOptions
  extends Options<typeof FEATURES>,
    Options<typeof OUTPUTS>,
    Options<typeof FEATURE_TRAINING> {}

/** All options of a model of texts and images, and of the calls of its towers. */
export const CLIP_TEXT = omit(INPUTS, ["token_type_ids"]);
export const CLIP_IMAGE = omit(FEATURES, ["input_values", "attention_mask"]);
export const CLIP_FORWARD = { ...CLIP_TEXT, ...CLIP_IMAGE, ...OUTPUTS };

export interface ClipTextOptions extends Omit<ModelInputs, "token_type_ids"> {}
export interface ClipImageOptions extends Needed<typeof FEATURES, "pixel_values"> {}
export interface ClipForwardOptions extends ClipTextOptions, ClipImageOptions, Options<typeof OUTPUTS> {}

const DECODER_INPUTS = {
  /** [B,T]: the decoder's input. */
  decoder_input_ids: checkedLater<Ids>(),
};

/** What an encoder-decoder learns from. */
const DECODER_TRAINING = {
  ...TRAINING,
  /**
   * [B,T]: the ids that the decoder should give; -100 does not count. The result then has a `loss`. Without decoder_input_ids the
   * decoder reads them one place later, behind its `decoder_start_token_id`.
   */
  labels: checkedLater<Ids>(),
};

/** All options of an encoder-decoder's forward. */
export const SEQ2SEQ_FORWARD = { ...INPUTS, ...DECODER_INPUTS, ...OUTPUTS, ...LOGITS, ...DECODER_TRAINING };

export interface Seq2SeqForwardOptions
  extends ModelInputs,
    Options<typeof DECODER_INPUTS>,
    Options<typeof OUTPUTS>,
    Options<typeof LOGITS>,
    Options<typeof DECODER_TRAINING> {}

/** An assistant: a causal language model from from_pretrained. */
export interface AssistantModel extends LoadedModel<CausalLM> {}

const hasMethods = (value: unknown, ...names: readonly string[]): boolean =>
  typeof value === "object" &&
  value !== null &&
  names.every((name) => typeof (value as Record<string, unknown>)[name] === "function");

/** Options of generate and stream beside those of config.ts. */
const RUN = {
  /** Gets the prompt and then each token; one row only. */
  streamer: such<Streamer>((value) => hasMethods(value, "put", "end"), "an object with the methods put and end"),
  /** Aborts the generation with an AbortError. */
  signal: signal(),
  /**
   * Change the logits on the host, in this order, after the penalties and before the temperature. They disable pipelining:
   * each step waits for the logits of all rows to be read from the device and written back.
   */
  logits_processor: checkedLater<readonly HostProcessor[]>(),
  /**
   * Gives the ids that may follow a text: gets the number of its prompt in the batch and all ids so far. Called on the host in each
   * step, like `logits_processor`.
   */
  prefix_allowed_tokens_fn: callback<PrefixAllowedTokens>(),
  /**
   * End texts, beside `eos_token_id`, `stop_strings` and the lengths: StoppingCriteria, or functions that get all ids of a text after
   * each new token.
   */
  stopping_criteria: checkedLater<readonly StoppingRule[]>(),
  /**
   * Numbers of the prompts, which key their random numbers beside the seed; by default their places in the batch. A prompt with the
   * same number and seed gives the same text in any batch.
   */
  sequence_numbers: checkedLater<readonly number[]>(),
  /** What `stop_strings` are looked for with, and `json_schema` and the like write with. Of `stream`, it also gives each step its `text`. */
  tokenizer: such<PreTrainedTokenizer>(isTokenizer, "a tokenizer, as from AutoTokenizer.from_pretrained"),
  /** [B,T]: what a guided text is led away from, one for each prompt; by default the last token of the prompt. */
  negative_prompt_ids: checkedLater<Ids>(),
  /** [B,T]: 1 for real tokens of the negative prompts, 0 for padding. */
  negative_prompt_attention_mask: checkedLater<Ids>(),
  /** A smaller model with the same tokenizer, on the same device, that guesses tokens; the text is the same as without. */
  assistant_model: checkedLater<AssistantModel>(),
  /** Give the log-probability of each token: `scores` of a step. */
  logprobs: flag(),
  /**
   * Called while the prompt is read, which takes a while for a long one, and once with the first new tokens. What it throws
   * ends the generation.
   */
  progress_callback: callback<(event: PromptProgress) => void>(),
  /**
   * Keys and values of earlier calls: what a text shares with the one that the cache holds is not read again. For one text of each
   * prompt, without beams and guidance.
   */
  past_key_values: such<DynamicCache>(DynamicCache.is, "a DynamicCache", { hint: "new DynamicCache()" }),
  /** Only true: keys and values are always kept. */
  use_cache: option<true>(z.literal(true), "true", { hint: "keys and values are always kept; leave it out" }),
};

/** All options of generate. */
export const GENERATE = {
  ...INPUTS,
  ...GENERATION,
  ...STRUCTURED,
  ...RUN,
  ...ADAPTERS,
  ...RETURNS,
};

export interface GenerateOptions
  extends ModelInputs,
    GenerationOptions,
    Options<typeof STRUCTURED>,
    Options<typeof RUN>,
    Options<typeof ADAPTERS>,
    Options<typeof RETURNS> {}

/** Options with which `generate` returns an object. */
export interface AsDict {
  readonly return_dict_in_generate: true;
}

/** What `generate` returns with `return_dict_in_generate: true`. */
export interface GenerateOutput {
  /** [B · num_return_sequences][T + new] */
  readonly sequences: number[][];
  /** That of the call, if it had one. */
  readonly past_key_values?: DynamicCache;
  /** With `output_scores` and beams: the score of each sequence. */
  readonly sequences_scores?: number[];
  /** With `output_scores`: [steps][rows], f32[V] each, after all processors; of beams, log-probabilities of each beam. */
  readonly scores?: StepScores;
  /** With `output_logits`: the same as the model gives them. */
  readonly logits?: StepScores;
  /** With `output_scores` and beams: the row of `scores` that each new token comes from; -1 behind a text's end. */
  readonly beam_indices?: number[][];
}

/** Options of stream alone. */
const STREAM_ONLY = {
  /** Leave special tokens out of `text`; true by default. */
  skip_special_tokens: flag(),
};

/** All options of stream. */
const OF_RETURNS = ["streamer", "return_dict_in_generate", "output_scores", "output_logits"] as const;
export const STREAM = { ...omit(GENERATE, OF_RETURNS), ...STREAM_ONLY };

export interface StreamOptions
  extends Omit<GenerateOptions, "streamer" | keyof typeof RETURNS>,
    Options<typeof STREAM_ONLY> {}

/** Options of stream with which the steps have text. */
export type TextStreamOptions = StreamOptions & Needed<typeof RUN, "tokenizer">;

/** All options of an encoder-decoder's generate: its encoder reads the text in one pass. */
const OF_DECODERS = [
  "assistant_model",
  "past_key_values",
  "adapter_names",
  "progress_callback",
  "negative_prompt_ids",
  "negative_prompt_attention_mask",
] as const;
export const SEQ2SEQ_GENERATE = { ...omit(GENERATE, OF_DECODERS), ...DECODER_INPUTS };

export interface Seq2SeqGenerateOptions
  extends Omit<GenerateOptions, (typeof OF_DECODERS)[number]>,
    Options<typeof DECODER_INPUTS> {}

/** All options of an encoder-decoder's stream. */
export const SEQ2SEQ_STREAM = {
  ...omit(SEQ2SEQ_GENERATE, OF_RETURNS),
  ...STREAM_ONLY,
};

export interface Seq2SeqStreamOptions
  extends Omit<Seq2SeqGenerateOptions, "streamer" | keyof typeof RETURNS>,
    Options<typeof STREAM_ONLY> {}

export type Seq2SeqTextStreamOptions = Seq2SeqStreamOptions & Needed<typeof RUN, "tokenizer">;

const SPEECH = {
  /** [B,mels,frames]: log-mel spectrograms, as a feature extractor makes them. */
  input_features: checkedLater<FeatureValues>(),
};

/** Options about token ids that a model of sound does not have. */
const OF_TEXT = ["input_ids", "token_type_ids"] as const;
type OfText = (typeof OF_TEXT)[number];

/** All options of the forward of an encoder-decoder of sound. An `attention_mask` has no effect, as in transformers. */
export const SPEECH_FORWARD = { ...omit(SEQ2SEQ_FORWARD, OF_TEXT), ...SPEECH };

export interface SpeechForwardOptions
  extends Omit<Seq2SeqForwardOptions, OfText>,
    Needed<typeof SPEECH, "input_features"> {}

/** All options of its generate. */
export const SPEECH_GENERATE = { ...omit(SEQ2SEQ_GENERATE, OF_TEXT), ...SPEECH, ...TRANSCRIPTION };

export interface SpeechGenerateOptions
  extends Omit<Seq2SeqGenerateOptions, OfText | "temperature">,
    Needed<typeof SPEECH, "input_features">,
    TranscriptionOptions {}

/** All options of its stream. */
export const SPEECH_STREAM = { ...omit(SEQ2SEQ_STREAM, OF_TEXT), ...SPEECH, ...STREAMED };

export interface SpeechStreamOptions
  extends Omit<Seq2SeqStreamOptions, OfText>,
    Needed<typeof SPEECH, "input_features">,
    Options<typeof STREAMED> {}

export type SpeechTextStreamOptions = SpeechStreamOptions & Needed<typeof RUN, "tokenizer">;
