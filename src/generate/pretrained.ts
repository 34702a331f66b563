// from_pretrained of models and tokenizers, for any platform: options are checked, the model is found, loaded and held.

import { Device } from "../core/device.js";
import { type FloatName, parseDType } from "../core/dtype.js";
import { checkOptions, OptionError } from "../core/errors.js";
import type { ProgressEvent } from "../load/fill.js";
import { loadModel } from "../load/index.js";
import { type DeviceName, onAuto, type Platform, SOURCE_OPTIONS, type SourceOptions } from "../load/platform.js";
import type { Compute } from "../ops/linear.js";
import { BitsAndBytesConfig, type BitsAndBytesOptions } from "../quant/config.js";
import { HEAD_DTYPES, type HeadDType, headScheme } from "../quant/index.js";
import type { PreTrainedTokenizer } from "../tokenizer/api.js";
import { loadTokenizer } from "../tokenizer/load.js";
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
   * multiplied in bf16, as it is in Python, and every other one exactly; attention over keys and values in bf16 goes with
   * it. What is quantized to 4 bits has `bnb_4bit_compute_dtype` of its own.
   */
  compute_dtype?: FloatName;
  /**
   * "int8" keeps the output head in 8 bits (LLM.int8()), whatever the rest of the model is stored in. Every token reads the
   * whole head, which is a good part of a small model's bytes. A head that shares its matrix with the embedding gets one of
   * its own. "auto", the default, leaves it in full precision unless `llm_int8_skip_modules` says otherwise.
   */
  head_dtype?: HeadDType;
  /**
   * "cpu" (Node), "webgpu" (in Node also "webgpu:1" for the second GPU), "wasm", "reference", "auto" (a GPU if there is one
   * and the model fits it; `model.device.reason` says why), or a device that the caller opened and closes.
   */
  device?: DeviceName | Device;
  /** Threads of a CPU device of this model's own. */
  threads?: number;
  cache_dir?: SourceOptions["cache_dir"];
  /** A branch, a tag or a full commit, for ids of a hub. */
  revision?: SourceOptions["revision"];
  local_files_only?: SourceOptions["local_files_only"];
  /** Address of a hub that the id is fetched from; browsers ask Hugging Face's unless told otherwise. */
  hub?: SourceOptions["hub"];
  /** Access token for models that are private or gated. */
  token?: SourceOptions["token"];
  /** Keep downloaded files in the browser's storage: the default in browsers. Node keeps nothing. */
  cache?: SourceOptions["cache"];
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
  "head_dtype",
  "device",
  "threads",
  ...SOURCE_OPTIONS,
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
  for (const key of ["dtype", "torch_dtype", "compute_dtype", "cache_dir", "revision", "hub", "token"] as const) {
    want(key, "text", text);
  }
  for (const key of ["load_in_8bit", "load_in_4bit", "local_files_only", "cache"] as const) {
    want(key, "true or false", (value) => typeof value === "boolean");
  }
  want("device", "a name or a Device", (value) => text(value) || value instanceof Device);
  want("progress_callback", "a function", (value) => typeof value === "function");
  want("signal", "an AbortSignal", (value) => value instanceof AbortSignal);
  const { head_dtype = "auto" } = options;
  if (!HEAD_DTYPES.includes(head_dtype)) {
    throw new OptionError(`head_dtype must be "${HEAD_DTYPES.join('" or "')}", got ${JSON.stringify(head_dtype)}`, {
      details: { option: "head_dtype" },
    });
  }
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

export interface AutoModel {
  /**
   * Loads a causal language model: from a folder or the local Hugging Face cache by its id (Node), or from a server by
   * its folder's address or its id on a hub. It is quantized while it is read.
   * @throws OptionError, NotFoundError, ConfigError, UnsupportedModelError, FormatError, CheckpointError, NetworkError,
   * OutOfMemoryError, DeviceError, AbortError
   */
  from_pretrained(model: string, options?: FromPretrainedOptions): Promise<PreTrainedModel>;
}

export function autoModel(platform: Platform): AutoModel {
  return {
    async from_pretrained(model, options = {}) {
      checkOptions("from_pretrained", options, FIELDS);
      checkTypes(options);
      const quantization = quantizationOf(options);
      const compute = computeOf(options.compute_dtype);
      const { progress_callback, signal } = options;
      const warnings: string[] = [];
      const warn = (message: string): void => {
        warnings.push(message);
        progress_callback?.({ ...NOTHING_READ, status: "warning", name: model, message });
      };
      const source = await platform.source(model, { ...sourceOptions(options), signal, warn });
      const load = async (on: DeviceName | Device | undefined): Promise<PreTrainedModel> => {
        // Threads are meant for a CPU, should "auto" not find a GPU.
        const forGPU = options.device === "auto" && typeof on === "string" && on.startsWith("webgpu");
        const own = typeof on !== "object" && options.threads !== undefined && !forGPU;
        const device =
          typeof on === "object"
            ? on
            : own
              ? await platform.requestDevice(on, { threads: options.threads })
              : await platform.sharedDevice(on);
        try {
          const loaded = await loadModel(source, "causal-lm", {
            device,
            name: model,
            dtype: options.dtype ?? options.torch_dtype ?? "auto",
            quantization,
            compute,
            head: headScheme(options.head_dtype),
            progress_callback,
            signal,
          });
          return new PreTrainedModel({ ...loaded, warnings: [...warnings, ...loaded.warnings] }, device, own);
        } catch (error) {
          if (own) await device.close();
          throw error;
        }
      };
      try {
        return await (options.device === "auto" ? onAuto(platform.chooseDevice, load) : load(options.device));
      } finally {
        await source.close();
      }
    },
  };
}

const NOTHING_READ = { file: "", tensor: "", loaded: 0, total: 0, progress: 0, bytes_per_second: 0 };

function sourceOptions(options: SourceOptions): SourceOptions {
  return Object.fromEntries(SOURCE_OPTIONS.map((key) => [key, options[key]]));
}

export interface TokenizerOptions {
  cache_dir?: SourceOptions["cache_dir"];
  revision?: SourceOptions["revision"];
  local_files_only?: SourceOptions["local_files_only"];
  hub?: SourceOptions["hub"];
  token?: SourceOptions["token"];
  cache?: SourceOptions["cache"];
  signal?: AbortSignal;
  padding_side?: "left" | "right";
}

export interface AutoTokenizers {
  /**
   * Loads the tokenizer of a model, found as `AutoModelForCausalLM` finds the model.
   * @throws OptionError, NotFoundError, FormatError, UnsupportedModelError, NetworkError, AbortError
   */
  from_pretrained(model: string, options?: TokenizerOptions): Promise<PreTrainedTokenizer>;
}

export function autoTokenizer(platform: Platform): AutoTokenizers {
  return {
    async from_pretrained(model, options = {}) {
      checkOptions("from_pretrained", options, [...SOURCE_OPTIONS, "signal", "padding_side"]);
      const { padding_side, signal } = options;
      const source = await platform.source(model, { ...sourceOptions(options), signal });
      try {
        return await loadTokenizer(source, { padding_side });
      } finally {
        await source.close();
      }
    },
  };
}
