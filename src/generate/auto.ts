// The auto classes in Node: one for each task, and the tokenizer's.

import { NODE } from "../load/node.js";
import { type AutoModel, type AutoTokenizers, autoModel, autoTokenizer } from "./pretrained.js";

export type { FromPretrainedOptions, TokenizerOptions } from "./pretrained.js";

export const AutoModelForCausalLM: AutoModel<"causal-lm"> = autoModel(NODE, "causal-lm");
export const AutoModelForSeq2SeqLM: AutoModel<"seq2seq-lm"> = autoModel(NODE, "seq2seq-lm");
export const AutoModelForMaskedLM: AutoModel<"masked-lm"> = autoModel(NODE, "masked-lm");
export const AutoModelForSequenceClassification: AutoModel<"sequence-classification"> = autoModel(
  NODE,
  "sequence-classification",
);
export const AutoTokenizer: AutoTokenizers = autoTokenizer(NODE);
