// AutoModelForCausalLM and AutoTokenizer in Node.

import { NODE } from "../load/node.js";
import { type AutoModel, type AutoTokenizers, autoModel, autoTokenizer } from "./pretrained.js";

export type { FromPretrainedOptions, TokenizerOptions } from "./pretrained.js";

export const AutoModelForCausalLM: AutoModel = autoModel(NODE);
export const AutoTokenizer: AutoTokenizers = autoTokenizer(NODE);
