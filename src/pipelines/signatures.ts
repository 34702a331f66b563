// What the pipeline of each task takes and gives.

import type { SchemaInput } from "../generate/grammar/standard-schema.js";
import type { SoundInput } from "../media/feature-extractor.js";
import type { ImageInput } from "../media/image-processor.js";
import type { Conversation } from "../tokenizer/api.js";
import type {
  AudioClassificationOptions,
  ImageClassificationOptions,
  Label,
  TextClassificationOptions,
  TextInput,
  ZeroShotImageOptions,
  ZeroShotLabels,
  ZeroShotOptions,
} from "./classify.js";
import type {
  FeatureExtractionOptions,
  ImageFeatureOptions,
  SentenceSimilarityOptions,
  SimilarityInput,
} from "./features.js";
import type { Filled, FillMaskOptions } from "./fill-mask.js";
import type { Answer, Question, QuestionAnsweringOptions } from "./question-answering.js";
import type { SpeechRecognitionOptions, Transcript } from "./speech.js";
import type { GeneratedChat, GeneratedIds, GeneratedText, Parsed, TextGenerationOptions } from "./text-generation.js";
import type { Text2TextOptions } from "./text2text.js";
import type { Entity, TokenClassificationOptions, TokenLabel } from "./token-classification.js";

/** Options of a call, and how many inputs go through the model together. */
type Call<O> = O & { readonly batch_size?: number };

/** A pipeline whose results are the same for one input and for each of a list. */
interface Each<Input, Output, O> {
  (input: Input, options?: Call<O>): Promise<Output>;
  (inputs: readonly Input[], options?: Call<O>): Promise<Output[]>;
}

/** Options with which results are token ids. */
interface Ids {
  readonly return_tensors: true;
}

/** Options with which texts are JSON of a schema. */
type Typed<S extends SchemaInput> = Call<TextGenerationOptions> & { readonly json_schema: S };

export interface TextGeneration {
  (input: string | Conversation, options: Call<TextGenerationOptions> & Ids): Promise<GeneratedIds[]>;
  (
    inputs: readonly string[] | readonly Conversation[],
    options: Call<TextGenerationOptions> & Ids,
  ): Promise<GeneratedIds[][]>;
  /** With the value of each new text. */
  <S extends SchemaInput>(text: string, options: Typed<S>): Promise<(GeneratedText & Parsed<S>)[]>;
  <S extends SchemaInput>(texts: readonly string[], options: Typed<S>): Promise<(GeneratedText & Parsed<S>)[][]>;
  <S extends SchemaInput>(chat: Conversation, options: Typed<S>): Promise<(GeneratedChat & Parsed<S>)[]>;
  <S extends SchemaInput>(chats: readonly Conversation[], options: Typed<S>): Promise<(GeneratedChat & Parsed<S>)[][]>;
  (text: string, options?: Call<TextGenerationOptions>): Promise<GeneratedText[]>;
  (texts: readonly string[], options?: Call<TextGenerationOptions>): Promise<GeneratedText[][]>;
  /** Chats: messages with `role` and `content`. */
  (chat: Conversation, options?: Call<TextGenerationOptions>): Promise<GeneratedChat[]>;
  (chats: readonly Conversation[], options?: Call<TextGenerationOptions>): Promise<GeneratedChat[][]>;
}

export interface TextClassification {
  /** The best labels of a text or a pair. */
  (input: TextInput, options: Call<TextClassificationOptions> & { readonly top_k: number | null }): Promise<Label[]>;
  /** Without `top_k`: of a text a list with its label, of a pair its label alone, as in Python. */
  (input: string, options?: Call<TextClassificationOptions>): Promise<Label[]>;
  (input: Exclude<TextInput, string>, options?: Call<TextClassificationOptions>): Promise<Label>;
  /** Of a list, with `top_k`: the best labels of each text. */
  (
    inputs: readonly TextInput[],
    options: Call<TextClassificationOptions> & { readonly top_k: number | null },
  ): Promise<Label[][]>;
  /** Of a list, without: the label of each text. */
  (inputs: readonly TextInput[], options?: Call<TextClassificationOptions>): Promise<Label[]>;
}

type Strategy = NonNullable<TokenClassificationOptions["aggregation_strategy"]>;
interface Joined {
  readonly aggregation_strategy: Exclude<Strategy, "none">;
}

export interface TokenClassification {
  /** Entities: with every strategy but "none", which is the default and gives each token. */
  (text: string, options: Call<TokenClassificationOptions> & Joined): Promise<Entity[]>;
  (texts: readonly string[], options: Call<TokenClassificationOptions> & Joined): Promise<Entity[][]>;
  /** Tokens, unless `pipeline` was given another strategy. */
  (text: string, options?: Call<TokenClassificationOptions>): Promise<TokenLabel[]>;
  (texts: readonly string[], options?: Call<TokenClassificationOptions>): Promise<TokenLabel[][]>;
}

type Several = Call<QuestionAnsweringOptions> & { readonly top_k: number };

export interface QuestionAnswering {
  /** With `top_k` above 1 several answers, the best first. */
  (question: Question, options: Several): Promise<Answer | Answer[]>;
  (questions: readonly Question[], options: Several): Promise<(Answer | Answer[])[]>;
  /** The best answer. */
  (question: Question, options?: Call<QuestionAnsweringOptions>): Promise<Answer>;
  (questions: readonly Question[], options?: Call<QuestionAnsweringOptions>): Promise<Answer[]>;
}

interface Text2Text<Name extends "generated" | "summary" | "translation"> {
  (text: string, options: Call<Text2TextOptions> & Ids): Promise<{ [N in `${Name}_token_ids`]: number[] }[]>;
  (
    texts: readonly string[],
    options: Call<Text2TextOptions> & Ids & One,
  ): Promise<{ [N in `${Name}_token_ids`]: number[] }[]>;
  /** A list with one text, or as many as `num_return_sequences`. */
  (text: string, options?: Call<Text2TextOptions>): Promise<{ [N in `${Name}_text`]: string }[]>;
  /** One text for each of a list; lists of them where `num_return_sequences` is above 1. */
  (texts: readonly string[], options?: Call<Text2TextOptions> & One): Promise<{ [N in `${Name}_text`]: string }[]>;
  (
    texts: readonly string[],
    options: Call<Text2TextOptions> & { readonly num_return_sequences: number },
  ): Promise<{ [N in `${Name}_text`]: string }[] | { [N in `${Name}_text`]: string }[][]>;
}

/** Options with which each text has one result. */
interface One {
  readonly num_return_sequences?: 1;
}

export interface FillMask {
  /** The likeliest tokens at a text's mask; for each of several masks. */
  (text: string, options?: Call<FillMaskOptions>): Promise<Filled[] | Filled[][]>;
  (texts: readonly string[], options?: Call<FillMaskOptions>): Promise<(Filled[] | Filled[][])[]>;
}

interface FeatureExtraction {
  /** One vector. */
  (
    text: string,
    options: Call<FeatureExtractionOptions> & { readonly pooling: "mean" | "cls" | "last" },
  ): Promise<number[]>;
  (
    texts: readonly string[],
    options: Call<FeatureExtractionOptions> & { readonly pooling: "mean" | "cls" | "last" },
  ): Promise<number[][]>;
  /** [1][T][hidden] */
  (text: string, options?: Call<FeatureExtractionOptions>): Promise<number[][][]>;
  (texts: readonly string[], options?: Call<FeatureExtractionOptions>): Promise<number[][][][]>;
}

interface ImageFeatureExtraction {
  (image: ImageInput, options: Call<ImageFeatureOptions> & { readonly pool: true }): Promise<number[]>;
  (images: readonly ImageInput[], options: Call<ImageFeatureOptions> & { readonly pool: true }): Promise<number[][]>;
  /** [1][T][hidden] */
  (image: ImageInput, options?: Call<ImageFeatureOptions>): Promise<number[][][]>;
  (images: readonly ImageInput[], options?: Call<ImageFeatureOptions>): Promise<number[][][][]>;
}

/** By task: the options of its calls, and the call itself. */
export interface Pipelines {
  "text-generation": { options: TextGenerationOptions; call: TextGeneration };
  "text2text-generation": { options: Text2TextOptions; call: Text2Text<"generated"> };
  summarization: { options: Text2TextOptions; call: Text2Text<"summary"> };
  translation: { options: Text2TextOptions; call: Text2Text<"translation"> };
  "fill-mask": { options: FillMaskOptions; call: FillMask };
  "text-classification": { options: TextClassificationOptions; call: TextClassification };
  "token-classification": { options: TokenClassificationOptions; call: TokenClassification };
  "question-answering": { options: QuestionAnsweringOptions; call: QuestionAnswering };
  "zero-shot-classification": { options: ZeroShotOptions; call: Each<string, ZeroShotLabels, ZeroShotOptions> };
  "feature-extraction": { options: FeatureExtractionOptions; call: FeatureExtraction };
  "sentence-similarity": {
    options: SentenceSimilarityOptions;
    call: Each<SimilarityInput, number[], SentenceSimilarityOptions>;
  };
  "image-classification": {
    options: ImageClassificationOptions;
    call: Each<ImageInput, Label[], ImageClassificationOptions>;
  };
  "zero-shot-image-classification": {
    options: ZeroShotImageOptions;
    call: Each<ImageInput, Label[], ZeroShotImageOptions>;
  };
  "image-feature-extraction": { options: ImageFeatureOptions; call: ImageFeatureExtraction };
  "automatic-speech-recognition": {
    options: SpeechRecognitionOptions;
    call: Each<SoundInput, Transcript, SpeechRecognitionOptions>;
  };
  "audio-classification": {
    options: AudioClassificationOptions;
    call: Each<SoundInput, Label[], AudioClassificationOptions>;
  };
}

export type TaskName = keyof Pipelines;
