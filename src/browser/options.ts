// Options of the calls that a page sends to its Worker: those of the library that can be sent, and where the model runs.

import type { LoraOptions } from "../adapters/config.js";
import { choice, type Needed, type Options, omit, such, text } from "../core/options.js";
import { GENERATION, type GenerationOptions } from "../generate/config.js";
import { STRUCTURED } from "../generate/grammar/options.js";
import { FROM_PRETRAINED, type FromPretrainedOptions } from "../generate/options.js";
import type { BitsAndBytesOptions } from "../quant/config.js";
import type { SelectiveOptions } from "../quant/selective.js";
import type { Feature } from "../train/data/types.js";
import type { SFTConfigOptions } from "../train/sft-trainer.js";

/** Options that are not sent: functions and signals cannot be cloned, caches on disk exist only in Node. */
const NOT_SENT = [
  ...(["progress_callback", "signal", "cache_dir", "local_files_only", "force_download", "torch_dtype"] as const),
  // The Worker has one device of its own, which `device` names.
  ...(["device_map", "max_memory"] as const),
] as const;

/** Options that have another form here. */
const WORKER = {
  /** How the linears are quantized, instead of `load_in_8bit` and `load_in_4bit`. */
  quantization_config: such<BitsAndBytesOptions | SelectiveOptions>(
    (value) => typeof value === "object" && value !== null,
    "the fields of a BitsAndBytesConfig or of a SelectiveConfig",
  ),
  /** Where the model runs; by default "auto": WebGPU where there is an adapter and the model fits it, else WebAssembly. */
  device: choice(["auto", "webgpu", "wasm", "reference"]),
  /** Address of octavo.wasm; by default where the bundler put it, or beside the Worker's script. */
  wasm: text(),
};

/** Options of `load` and `survey`. */
export const WORKER_LOAD = { ...omit(FROM_PRETRAINED, NOT_SENT), ...WORKER };

export interface WorkerLoadOptions
  extends Omit<FromPretrainedOptions, (typeof NOT_SENT)[number] | keyof typeof WORKER>,
    Options<typeof WORKER> {}

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
