// Options of the calls that a page sends to its Worker to load a model: those of the library that can be sent, and where the model runs.

import { choice, type Options, omit, such, text } from "../core/options.js";
import { FROM_PRETRAINED, type FromPretrainedOptions } from "../generate/loading-options.js";
import type { BitsAndBytesOptions } from "../quant/config.js";
import type { SelectiveOptions } from "../quant/selective.js";

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
