// AutoModelForCausalLM and AutoTokenizer: from a folder or a cached hub id to something that works.

import { Device } from "../core/device.js";
import { type FloatName, parseDType } from "../core/dtype.js";
import { checkOptions, OptionError, OutOfMemoryError } from "../core/errors.js";
import { resolveModel } from "../formats/hub.js";
import type { PreTrainedTokenizer } from "../formats/tokenizer-api.js";
import { loadTokenizer } from "../formats/tokenizer-load.js";
import { chooseDevice, type DeviceName, requestDevice, sharedDevice } from "../load/device.js";
import type { ProgressEvent } from "../load/fill.js";
import { loadCausalLM } from "../load/index.js";
import type { Compute } from "../ops/linear.js";
import { BitsAndBytesConfig, type BitsAndBytesOptions } from "../quant/config.js";
import { PreTrainedModel } from "./model.js";

export interface FromPretrainedOptions {
  /** Quantize the linears to LLM.int8() while loading. */
  load_in_8bit?: boolean;
  /** Quantize the linears to 4 bits while loading: FP4, or what `quantization_config` says. */
  load_in_4bit?: boolean;
  quantization_config?: BitsAndBytesConfig | BitsAndBytesOptions;
  /** "auto" (the checkpoint's own), or "float32", "bfloat16", "float16" in any usual spelling. */
  dtype?: "auto" | FloatName;
  /** The older name of `dtype`. */
  torch_dtype?: "auto" | FloatName;
  /**
   * Products with matrices that stay dense: "float32" is exact; "bfloat16" lets kernels round activations to bf16 before
   * they meet a bf16 matrix, which is faster where the machine multiplies such pairs. By default a bf16 model is
   * multiplied in bf16, as it is in Python, and every other one exactly. What is quantized to 4 bits has
   * `bnb_4bit_compute_dtype` of its own.
   */
  compute_dtype?: FloatName;
  /**
   * "cpu", "webgpu" (or "webgpu:1" for the second GPU), "wasm", "reference", "auto" (a GPU if there is one and the model
   * fits it; `model.device.reason` says why), or a device that the caller opened and closes.
   */
  device?: DeviceName | Device;
  /** Threads of a CPU device of this model's own. */
  threads?: number;
  cache_dir?: string;
  revision?: string;
  local_files_only?: boolean;
  progress_callback?: (event: ProgressEvent) => void;
  signal?: AbortSignal;
}

const FIELDS: readonly (keyof FromPretrainedOptions)[] = [
  "load_in_8bit",
  "load_in_4bit",
  "quantization_config",
  "dtype",
  "torch_dtype",
  "compute_dtype",
  "device",
  "threads",
  "cache_dir",
  "revision",
  "local_files_only",
  "progress_callback",
  "signal",
];

function quantizationOf(options: FromPretrainedOptions): BitsAndBytesConfig | undefined {
  const { quantization_config: config, load_in_8bit, load_in_4bit } = options;
  if (config === null)
    throw new OptionError("quantization_config must be a BitsAndBytesConfig or its fields, got null");
  if (config === undefined) {
    if (!load_in_8bit && !load_in_4bit) return undefined;
    return new BitsAndBytesConfig({ load_in_8bit, load_in_4bit });
  }
  if (load_in_8bit !== undefined || load_in_4bit !== undefined) {
    throw new OptionError("load_in_4bit or load_in_8bit cannot be passed together with quantization_config", {
      hint: "set it inside the BitsAndBytesConfig",
    });
  }
  return config instanceof BitsAndBytesConfig ? config : new BitsAndBytesConfig(config);
}

/** @throws OptionError for a value of the wrong type */
function checkTypes(options: FromPretrainedOptions): void {
  const want = (key: keyof FromPretrainedOptions, type: string, right: (value: unknown) => boolean): void => {
    const value = options[key];
    if (value === undefined || right(value)) return;
    throw new OptionError(`${key} must be ${type}, got ${value === null ? "null" : typeof value}`, {
      details: { option: key },
    });
  };
  const text = (value: unknown): boolean => typeof value === "string";
  for (const key of ["dtype", "torch_dtype", "compute_dtype", "cache_dir", "revision"] as const)
    want(key, "text", text);
  for (const key of ["load_in_8bit", "load_in_4bit", "local_files_only"] as const) {
    want(key, "true or false", (value) => typeof value === "boolean");
  }
  want("device", "a name or a Device", (value) => text(value) || value instanceof Device);
  want("progress_callback", "a function", (value) => typeof value === "function");
  want("signal", "an AbortSignal", (value) => value instanceof AbortSignal);
  if (options.threads !== undefined && options.device instanceof Device) {
    throw new OptionError("threads cannot be chosen for a device that is open already", {
      details: { option: "threads" },
      hint: "pass threads to openDevice() or requestDevice()",
    });
  }
}

/** @throws OptionError unless `dtype` means f32 or bf16 */
function computeOf(dtype: string | undefined): Compute | undefined {
  if (dtype === undefined) return undefined;
  const parsed = parseDType(dtype);
  if (parsed === "f32" || parsed === "bf16") return parsed;
  throw new OptionError(`compute_dtype must be "float32" or "bfloat16", got "${dtype}"`);
}

export const AutoModelForCausalLM = {
  /**
   * Loads a causal language model from a folder, or from the local Hugging Face cache by its id.
   * @throws OptionError, NotFoundError, ConfigError, UnsupportedModelError, FormatError, CheckpointError, OutOfMemoryError, AbortError
   */
  async from_pretrained(model: string, options: FromPretrainedOptions = {}): Promise<PreTrainedModel> {
    checkOptions("from_pretrained", options, FIELDS);
    checkTypes(options);
    const quantization = quantizationOf(options);
    const compute = computeOf(options.compute_dtype);
    const { cache_dir, revision, local_files_only } = options;
    const { folder } = await resolveModel(model, { cache_dir, revision, local_files_only });
    const own = typeof options.device !== "object" && options.threads !== undefined;
    const load = async (on: DeviceName | Device | undefined): Promise<PreTrainedModel> => {
      const { threads } = options;
      const device = typeof on === "object" ? on : own ? await requestDevice(on, { threads }) : await sharedDevice(on);
      try {
        const loaded = await loadCausalLM(folder, {
          device,
          name: model,
          dtype: options.dtype ?? options.torch_dtype ?? "auto",
          quantization,
          compute,
          progress_callback: options.progress_callback,
          signal: options.signal,
        });
        return new PreTrainedModel(loaded, device, own);
      } catch (error) {
        if (own) await device.close();
        throw error;
      }
    };
    if (options.device !== "auto") return load(options.device);
    const choice = await chooseDevice();
    try {
      const loaded = await load(choice.name);
      loaded.device.reason = choice.reason;
      return loaded;
    } catch (error) {
      // WebGPU does not say how much memory a GPU has: a model that does not fit is found out by loading it.
      if (!(error instanceof OutOfMemoryError) || !choice.name.startsWith("webgpu")) throw error;
      const loaded = await load("cpu");
      loaded.device.reason = `the model does not fit ${choice.reason.replace(/ is a GPU$/, "")}`;
      return loaded;
    }
  },
};

export interface TokenizerOptions {
  cache_dir?: string;
  revision?: string;
  local_files_only?: boolean;
  padding_side?: "left" | "right";
}

export const AutoTokenizer = {
  /**
   * Loads the tokenizer of a model, by folder or cached id.
   * @throws OptionError, NotFoundError, FormatError, UnsupportedModelError
   */
  async from_pretrained(model: string, options: TokenizerOptions = {}): Promise<PreTrainedTokenizer> {
    checkOptions("from_pretrained", options, ["cache_dir", "revision", "local_files_only", "padding_side"]);
    const { cache_dir, revision, local_files_only, ...own } = options;
    const { folder } = await resolveModel(model, { cache_dir, revision, local_files_only });
    return loadTokenizer(folder, own);
  },
};
