// The auto classes in Node: one for each task, and the tokenizer's.

import { NODE } from "../load/node.js";
import type { FeatureExtractor } from "../media/feature-extractor.js";
import type { ImageProcessor } from "../media/image-processor.js";
import { type AutoConfigs, autoConfig } from "./auto-config.js";
import { type Dispatch, dispatchFunctions } from "./dispatch.js";
import { type AutoBaseModel, type AutoClass, type AutoTokenizers, autoModel, autoTokenizer } from "./pretrained.js";
import {
  type AutoProcessors,
  autoFeatureExtractor,
  autoImageProcessor,
  autoProcessor,
  type Processor,
} from "./processors-auto.js";

export type { FromConfigOptions, FromPretrainedOptions, TokenizerOptions } from "./pretrained.js";

export const { load_checkpoint_and_dispatch, cpu_offload, disk_offload }: Dispatch = dispatchFunctions(NODE);
export const AutoModel: AutoBaseModel = autoModel(NODE, "base") as AutoBaseModel;
export const AutoModelForCausalLM: AutoClass<"causal-lm"> = autoModel(NODE, "causal-lm");
export const AutoModelForSeq2SeqLM: AutoClass<"seq2seq-lm"> = autoModel(NODE, "seq2seq-lm");
export const AutoModelForMaskedLM: AutoClass<"masked-lm"> = autoModel(NODE, "masked-lm");
export const AutoModelForSequenceClassification: AutoClass<"sequence-classification"> = autoModel(
  NODE,
  "sequence-classification",
);
export const AutoModelForTokenClassification: AutoClass<"token-classification"> = autoModel(
  NODE,
  "token-classification",
);
export const AutoModelForQuestionAnswering: AutoClass<"question-answering"> = autoModel(NODE, "question-answering");
export const AutoModelForSpeechSeq2Seq: AutoClass<"speech-seq2seq"> = autoModel(NODE, "speech-seq2seq");
/** Python's name for a model of texts and images with its embeddings. */
export const CLIPModel: AutoClass<"clip"> = autoModel(NODE, "clip");
export const AutoModelForCTC: AutoClass<"ctc"> = autoModel(NODE, "ctc");
export const AutoModelForImageClassification: AutoClass<"image-classification"> = autoModel(
  NODE,
  "image-classification",
);
export const AutoModelForAudioClassification: AutoClass<"audio-classification"> = autoModel(
  NODE,
  "audio-classification",
);
export const AutoConfig: AutoConfigs = autoConfig(NODE);
export const AutoImageProcessor: AutoProcessors<ImageProcessor> = autoImageProcessor(NODE);
export const AutoFeatureExtractor: AutoProcessors<FeatureExtractor> = autoFeatureExtractor(NODE);
export const AutoProcessor: AutoProcessors<Processor> = autoProcessor(NODE);
export const AutoTokenizer: AutoTokenizers = autoTokenizer(NODE);
