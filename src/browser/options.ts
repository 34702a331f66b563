// Options of the calls that a page sends to its Worker: those of the library that can be sent, and where the model runs.

import { choice, type Needed, type Options, such, text } from "../core/options.js";
import { GENERATION, type GenerationOptions } from "../generate/config.js";
import { FROM_PRETRAINED } from "../generate/options.js";
import { UNSUPPORTED_OPTIONS } from "../generate/unsupported.js";
import type { BitsAndBytesOptions } from "../quant/config.js";

// Functions and signals stay on the page; caches on disk are Node's; the others have a sendable form below.
const {
  progress_callback: _progress,
  signal: _signal,
  cache_dir: _folder,
  local_files_only: _local,
  torch_dtype: _older,
  ...sendable
} = FROM_PRETRAINED;

/** Options of `load` and `survey`. */
export const WORKER_LOAD = {
  ...sendable,
  /** How the linears are quantized, in place of `load_in_8bit` and `load_in_4bit`. */
  quantization_config: such<BitsAndBytesOptions>(
    (value) => typeof value === "object" && value !== null,
    "the fields of a BitsAndBytesConfig",
  ),
  /** Where the model runs; by default "auto": WebGPU where there is an adapter and the model fits it, else WebAssembly. */
  device: choice(["auto", "webgpu", "wasm", "reference"]),
  /** Address of octavo.wasm; by default where the bundler put it, or beside the Worker's script. */
  wasm: text(),
};

export interface WorkerLoadOptions extends Options<typeof WORKER_LOAD> {}

const PROMPT = {
  /** The text to continue. */
  prompt: text(),
};

/** Options of `generate`. */
export const WORKER_GENERATE = { ...GENERATION, ...UNSUPPORTED_OPTIONS, ...PROMPT };

export interface WorkerGenerateOptions extends GenerationOptions, Needed<typeof PROMPT, "prompt"> {}
