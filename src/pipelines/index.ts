// The types of pipelines that the package's entries export.

export type { Label, TextInput, ZeroShotLabels } from "./classify.js";
export type { SimilarityInput } from "./features.js";
export type { Filled } from "./fill-mask.js";
export type { MakePipeline, OpenPipeline, PipelineOptions } from "./pipeline.js";
export type { Answer, Question } from "./question-answering.js";
export type { FillMask, Pipelines, TaskName, TextClassification, TextGeneration } from "./signatures.js";
export type { Transcript, TranscriptChunk } from "./speech.js";
export type { GeneratedChat, GeneratedIds, GeneratedText } from "./text-generation.js";
export type { Entity, TokenLabel } from "./token-classification.js";
