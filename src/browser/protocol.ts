// The messages between a page and the Worker that runs the library. All of them can be cloned; errors travel as plain data
// and are revived as the same typed errors.

import type { Files } from "../checkpoints/folder-in-memory.js";
import { isOf } from "../core/checks.js";
import { ERROR_CLASSES, type ErrorDetails, OctavoError } from "../core/errors.js";
import { show } from "../core/show.js";
import type { ProgressEvent } from "../load/fill.js";
import type { Logs } from "../train/callbacks.js";
import type { WorkerGenerateOptions, WorkerTrainOptions } from "./call-options.js";
import type { WorkerLoadOptions } from "./options.js";

export type { WorkerGenerateOptions, WorkerTrainOptions } from "./call-options.js";
export type { WorkerLoadOptions } from "./options.js";

/** Bytes on the device. */
export interface WorkerMemory {
  readonly weights: number;
  /** Keys and values of the generation that runs; in a result, of the one that has ended. */
  readonly cache: number;
  readonly live: number;
  readonly peak: number;
  readonly budget: number;
}

/** A model that is loaded. */
export interface WorkerModel {
  /** "webgpu", "wasm", and so on. */
  readonly device: string;
  /** The device in words. */
  readonly description: string;
  /** Why "auto" chose this device; absent if the caller named it. */
  readonly reason?: string;
  readonly model_type: string;
  readonly dtype: string;
  /** Bytes of the tensors as published, and bytes that came over the network. */
  readonly checkpoint_bytes: number;
  readonly network_bytes: number;
  readonly seconds: number;
  readonly warnings: readonly string[];
  readonly memory: WorkerMemory;
}

/** The size of a model, known before it is loaded. */
export interface WorkerSurvey {
  readonly model_type: string;
  readonly parameters: number;
  readonly dtype: string;
  /** Bytes of the weight files, all of which are read. */
  readonly download_bytes: number;
  /** Bytes of the weights on the device by "float32", "bfloat16", "int8", "nf4", ... */
  readonly sizes: Readonly<Record<string, number>>;
  readonly cache_bytes_per_token: number;
  readonly context: number | undefined;
}

/** New text that is final (it may be empty), and the count of tokens so far. */
export interface WorkerStep {
  readonly text: string;
  readonly tokens: number;
  readonly memory: WorkerMemory;
}

export interface WorkerResult {
  /** All new text. */
  readonly text: string;
  readonly token_ids: readonly number[];
  readonly prompt_tokens: number;
  /** From the call to the first token, and from the first to the last. */
  readonly first_token_seconds: number;
  readonly decode_seconds: number;
  readonly memory: WorkerMemory;
}

/** An update of a training run, or an evaluation between two of them. */
export interface WorkerTrainingStep {
  /** Updates that are done, and all of the run. */
  readonly step: number;
  readonly steps: number;
  /** What was logged: `loss`, `grad_norm`, `learning_rate`, `epoch`; `eval_loss` and more of an evaluation. */
  readonly logs: Logs;
  readonly memory: WorkerMemory;
}

/** An adapter that was learned. */
export interface WorkerTrained {
  readonly adapter_name: string;
  readonly global_step: number;
  /** The mean of the losses of all updates. */
  readonly training_loss: number;
  readonly log_history: readonly Logs[];
  /** Parameters that learned, and all of the model. */
  readonly trainable_parameters: number;
  readonly parameters: number;
  readonly seconds: number;
  readonly memory: WorkerMemory;
  /** adapter_config.json and adapter_model.safetensors, as PEFT has them: to be kept, offered, and given to load_adapter. */
  readonly files: Files;
}

/** The adapters of the model that is loaded. */
export interface WorkerAdapters {
  readonly names: readonly string[];
  /** Those that work; none while they are disabled. */
  readonly active: readonly string[];
}

/** Facts about a WebGPU adapter, or why there is none. */
export interface WorkerAdapter {
  readonly available: boolean;
  /** Why there is none. */
  readonly reason?: string;
  readonly name?: string;
  /** True for a software adapter. */
  readonly fallback?: boolean;
  readonly features: readonly string[];
  readonly language: readonly string[];
  readonly limits: Readonly<Record<string, number>>;
  /** The device that "auto" chooses here, and why. */
  readonly choice: { readonly name: string; readonly reason: string };
}

/** Calls by name: their arguments, results and events. */
export interface Calls {
  load: { args: { model: string; options: WorkerLoadOptions }; result: WorkerModel; event: ProgressEvent };
  survey: { args: { model: string; options: WorkerLoadOptions }; result: WorkerSurvey; event: never };
  generate: { args: WorkerGenerateOptions; result: WorkerResult; event: WorkerStep };
  train: { args: WorkerTrainOptions; result: WorkerTrained; event: WorkerTrainingStep };
  load_adapter: { args: { which: string | Files; adapter_name: string }; result: WorkerAdapters; event: never };
  set_adapter: { args: string | readonly string[]; result: WorkerAdapters; event: never };
  disable_adapters: { args: undefined; result: WorkerAdapters; event: never };
  enable_adapters: { args: undefined; result: WorkerAdapters; event: never };
  delete_adapter: { args: string | readonly string[]; result: WorkerAdapters; event: never };
  memory: { args: undefined; result: WorkerMemory; event: never };
  adapter: { args: undefined; result: WorkerAdapter; event: never };
  cacheSize: { args: undefined; result: { bytes: number; files: number }; event: never };
  clearCache: { args: undefined; result: undefined; event: never };
  dispose: { args: undefined; result: undefined; event: never };
}
export type CallName = keyof Calls;

export type ToWorker =
  | { readonly [Name in CallName]: { id: number; call: Name; args: Calls[Name]["args"] } }[CallName]
  | { readonly id: number; readonly call: "abort" };

export type FromWorker =
  | { readonly id: number; readonly event: unknown }
  | { readonly id: number; readonly result: unknown }
  | { readonly id: number; readonly error: CarriedError };

export interface CarriedError {
  readonly name: string;
  readonly code: string;
  readonly message: string;
  readonly hint: string | undefined;
  readonly details: ErrorDetails;
}

/** Any error as plain data. */
export function carry(error: unknown): CarriedError {
  if (error instanceof OctavoError) {
    const { name, code, hint, details } = error;
    const message = hint === undefined ? error.message : error.message.slice(0, -`\n  hint: ${hint}`.length);
    return { name, code, message, hint, details };
  }
  const { name, message } = isOf(error, Error) ? error : { name: "Error", message: show(error) };
  return { name, code: "ERR_UNKNOWN", message, hint: undefined, details: {} };
}

/** Codes rather than names: minifiers rename classes. */
const CLASS_OF_CODE = new Map(ERROR_CLASSES.map((Class) => [new Class("").code, Class] as const));

/** The error from its plain data, with its class. */
export function revive({ name, code, message, hint, details }: CarriedError): Error {
  const Class = CLASS_OF_CODE.get(code);
  if (Class) return new Class(message, { hint, details });
  return Object.assign(new OctavoError(code, message, { hint, details }), { name });
}
