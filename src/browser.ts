// The exports of `import ... from "octavo"` in a browser (and "octavo/browser" anywhere): the same names, except those that
// need a disk or an add-on. It depends only on `navigator.gpu` and `fetch`, which Deno and Bun have.

import { BROWSER } from "./browser/platform.js";
import { type AutoConfigs, autoConfig } from "./generate/auto-config.js";
import {
  type AutoBaseModel,
  type AutoClass,
  type AutoTokenizers,
  autoModel,
  autoTokenizer,
} from "./generate/pretrained.js";
import {
  type AutoProcessors,
  autoFeatureExtractor,
  autoImageProcessor,
  autoProcessor,
  type Processor,
} from "./generate/processors-auto.js";
import type { FeatureExtractor } from "./media/feature-extractor.js";
import type { ImageProcessor } from "./media/image-processor.js";
import { type MakePipeline, pipelineOf } from "./pipelines/pipeline.js";

export * from "./anywhere.js";
export { WorkerHost, type WorkerLike } from "./browser/client.js";
export { chooseDevice, requestDevice } from "./browser/platform.js";
export type {
  WorkerAdapter,
  WorkerAdapters,
  WorkerGenerateOptions,
  WorkerLoadOptions,
  WorkerMemory,
  WorkerModel,
  WorkerResult,
  WorkerStep,
  WorkerSurvey,
  WorkerTrained,
  WorkerTrainingStep,
  WorkerTrainOptions,
} from "./browser/protocol.js";
export { cacheSize, clearCache } from "./browser/storage.js";
export type { FromPretrainedOptions, TokenizerOptions } from "./generate/pretrained.js";
export { Trainer } from "./train/trainer.js";

export const AutoModel: AutoBaseModel = /* @__PURE__ */ autoModel(BROWSER, "base") as AutoBaseModel;
export const AutoModelForCausalLM: AutoClass<"causal-lm"> = /* @__PURE__ */ autoModel(BROWSER, "causal-lm");
export const AutoModelForSeq2SeqLM: AutoClass<"seq2seq-lm"> = /* @__PURE__ */ autoModel(BROWSER, "seq2seq-lm");
export const AutoModelForMaskedLM: AutoClass<"masked-lm"> = /* @__PURE__ */ autoModel(BROWSER, "masked-lm");
export const AutoModelForSequenceClassification: AutoClass<"sequence-classification"> = /* @__PURE__ */ autoModel(
  BROWSER,
  "sequence-classification",
);
export const AutoModelForTokenClassification: AutoClass<"token-classification"> = /* @__PURE__ */ autoModel(
  BROWSER,
  "token-classification",
);
export const AutoModelForQuestionAnswering: AutoClass<"question-answering"> = /* @__PURE__ */ autoModel(
  BROWSER,
  "question-answering",
);
export const AutoModelForSpeechSeq2Seq: AutoClass<"speech-seq2seq"> = /* @__PURE__ */ autoModel(
  BROWSER,
  "speech-seq2seq",
);
export const CLIPModel: AutoClass<"clip"> = /* @__PURE__ */ autoModel(BROWSER, "clip");
export const AutoModelForCTC: AutoClass<"ctc"> = /* @__PURE__ */ autoModel(BROWSER, "ctc");
export const AutoModelForImageClassification: AutoClass<"image-classification"> = /* @__PURE__ */ autoModel(
  BROWSER,
  "image-classification",
);
export const AutoModelForAudioClassification: AutoClass<"audio-classification"> = /* @__PURE__ */ autoModel(
  BROWSER,
  "audio-classification",
);
export const AutoConfig: AutoConfigs = /* @__PURE__ */ autoConfig(BROWSER);
export const AutoImageProcessor: AutoProcessors<ImageProcessor> = /* @__PURE__ */ autoImageProcessor(BROWSER);
export const AutoFeatureExtractor: AutoProcessors<FeatureExtractor> = /* @__PURE__ */ autoFeatureExtractor(BROWSER);
export const AutoProcessor: AutoProcessors<Processor> = /* @__PURE__ */ autoProcessor(BROWSER);
export const AutoTokenizer: AutoTokenizers = /* @__PURE__ */ autoTokenizer(BROWSER);
export const pipeline: MakePipeline = /* @__PURE__ */ pipelineOf(BROWSER);
