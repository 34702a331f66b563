// Options of the calls that a page sends to its Worker about the model that is loaded there.

import type { LoraOptions } from "../adapters/config.js";
import { type Needed, type Options, such, text } from "../core/options.js";
import { GENERATION, type GenerationOptions } from "../generate/config.js";
import { STRUCTURED } from "../generate/grammar/options.js";
import type { Feature } from "../train/data/types.js";
import type { SFTConfigOptions } from "../train/sft-trainer.js";

const PROMPT = {
  /** The text to continue. */
  prompt: text(),
};

/** Options of `generate`. */
export const WORKER_GENERATE = { ...GENERATION, ...STRUCTURED, ...PROMPT };

export interface WorkerGenerateOptions
  extends GenerationOptions,
    Options<typeof STRUCTURED>,
    Needed<typeof PROMPT, "prompt"> {}

const isObject = (value: unknown): boolean => typeof value === "object" && value !== null && !Array.isArray(value);
const examples = (facts: { hint?: string } = {}) =>
  such<readonly Feature[]>((value) => Array.isArray(value) && value.every(isObject), "a list of examples", facts);

/** Options of `train`, in the words of SFTTrainer. */
export const WORKER_TRAIN = {
  /** Examples: { text }, { prompt, completion } or { messages }. */
  train_dataset: examples({ hint: 'train_dataset: [{ text: "Once upon a time ..." }]' }),
  /** Examples to evaluate on. */
  eval_dataset: examples(),
  /** The options of an SFTConfig; each update is logged unless `logging_steps` says otherwise. */
  args: such<SFTConfigOptions>(isObject, "the options of an SFTConfig"),
  /** The options of the adapter that is learned; without it an adapter of that name learns more. */
  peft_config: such<LoraOptions>(isObject, "the options of a LoraConfig"),
  /** The adapter's name (default: "default"). */
  adapter_name: text(),
};

export interface WorkerTrainOptions
  extends Options<Omit<typeof WORKER_TRAIN, "train_dataset">>,
    Needed<typeof WORKER_TRAIN, "train_dataset"> {}
