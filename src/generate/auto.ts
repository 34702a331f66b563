// The auto classes in Node: one for each task, and the tokenizer's.

import { NODE } from "../load/node.js";
import { type AutoModel as AutoModels, type AutoTokenizers, autoModel, autoTokenizer } from "./pretrained.js";

export type { FromPretrainedOptions, TokenizerOptions } from "./pretrained.js";

export const AutoModelForCausalLM: AutoModels<"causal-lm"> = autoModel(NODE, "causal-lm");
export const AutoModelForSeq2SeqLM: AutoModels<"seq2seq-lm"> = autoModel(NODE, "seq2seq-lm");
export const AutoModelForMaskedLM: AutoModels<"masked-lm"> = autoModel(NODE, "masked-lm");
export const AutoModelForSequenceClassification: AutoModels<"sequence-classification"> = autoModel(
  NODE,
  "sequence-classification",
);
export const AutoModelForSpeechSeq2Seq: AutoModels<"speech-seq2seq"> = autoModel(NODE, "speech-seq2seq");
export const AutoModelForImageClassification: AutoModels<"image-classification"> = autoModel(
  NODE,
  "image-classification",
);
export const AutoModel: AutoModels<"base"> = autoModel(NODE, "base");
export const AutoTokenizer: AutoTokenizers = autoTokenizer(NODE);
