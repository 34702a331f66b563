// The options of from_pretrained and from_config: one table for each call. Those that find a model are in load/options.ts, those that say what
// a loaded model does in options.ts.

import { Device } from "../core/device.js";
import { DTYPE_SPELLINGS, type FloatName, parseDType } from "../core/dtype.js";
import { callback, choice, type Entry, flag, type Options, omit, signal, such, withoutFlags } from "../core/options.js";
import type { ProgressEvent } from "../load/fill.js";
import { deviceName } from "../load/names.js";
import { DEVICE, SOURCE, WEIGHTS, type WeightsOptions } from "../load/options.js";
import type { DeviceAlias, DeviceName } from "../load/platform.js";
import { BITS_AND_BYTES, type BitsAndBytesOptions } from "../quant/config.js";
import { HEAD_DTYPES, type QuantizationOptions } from "../quant/index.js";
import { LOAD_TOKENIZER } from "../tokenizer/options.js";
import { PYTHON, type PythonOptions } from "./python.js";

const isDType = (value: unknown): boolean => typeof value === "string" && parseDType(value) !== undefined;

const dtype = (help?: string): Entry<"auto" | FloatName> =>
  such((value) => value === "auto" || isDType(value), `"auto" or one of ${DTYPE_SPELLINGS.join(", ")}`, {
    hint: (value) =>
      typeof value === "string" && /^(int8|q8|nf4|fp4|q4|bnb4)$/.test(value)
        ? "8 and 4 bits are load_in_8bit and load_in_4bit"
        : undefined,
    value: "<name>",
    help,
  });

const MODEL = {
  /** Quantize the linears to LLM.int8() while loading. */
  load_in_8bit: flag({ help: "quantize to LLM.int8() while loading" }),
  /** Quantize the linears to 4 bits while loading: FP4, or as set by `quantization_config`. */
  load_in_4bit: flag({ help: "quantize to 4 bits while loading" }),
  /** How the linears are quantized, instead of `load_in_8bit` and `load_in_4bit`. */
  quantization_config: such<QuantizationOptions>(
    (value) => typeof value === "object" && value !== null,
    "a BitsAndBytesConfig, a SelectiveConfig, or the fields of one",
  ),
  /** "auto" (the checkpoint's own), or "float32", "bfloat16", "float16" in any usual spelling. */
  dtype: dtype("dtype of what is not quantized: auto, float32, bfloat16, float16"),
  /** The older name of `dtype`. */
  torch_dtype: dtype(),
  /**
   * Products with matrices that stay dense: "float32" is exact; "bfloat16" lets kernels round activations to bf16 before
   * multiplying with a bf16 matrix, which is faster on machines with bf16 units. By default a bf16 model is multiplied in
   * bf16, as in Python, and every other one exactly; attention over keys and values in bf16 follows it. Matrices in 4 bits
   * have `bnb_4bit_compute_dtype` instead; a checkpoint's own is ignored if `dtype` asks for float32.
   */
  compute_dtype: such<FloatName>(
    (value) => isDType(value) && parseDType(value as string) !== "f16",
    '"float32" or "bfloat16"',
  ),
  /**
   * "int8" stores the output head in 8 bits (LLM.int8()), whatever the rest of the model is in. Every token reads the whole
   * head, a large share of a small model's bytes. A head that shares its matrix with the embedding gets one of its own.
   * "auto", the default, leaves it in full precision unless `llm_int8_skip_modules` says otherwise.
   */
  head_dtype: choice(HEAD_DTYPES, {
    value: "<name>",
    help: "keep the output head in 8 bits, whatever the rest is in",
  }),
  /**
   * "cpu" (Node), "webgpu" (in Node also "webgpu:1" for the second GPU), "wasm", "reference", "auto" (a GPU if there is one
   * and the model fits it; `model.device.reason` says why), or a device that the caller opened and will close. Python's names
   * of GPUs, "cuda", "cuda:1", "mps" and numbers, mean WebGPU.
   */
  device: such<DeviceName | DeviceAlias | Device>(
    (value) => typeof value === "string" || deviceName(value) !== undefined || Device.is(value),
    "a name or a Device",
  ),
  /** Threads of a CPU device of this model's own. */
  threads: DEVICE.threads,
  /** Called while files are read, and with each warning. */
  progress_callback: callback<(event: ProgressEvent) => void>(),
  /** Aborts the load with an AbortError. */
  signal: signal(),
};

/** Fields of a BitsAndBytesConfig, which Python takes beside `load_in_8bit` and `load_in_4bit` as well. */
export const QUANTIZED = withoutFlags(omit(BITS_AND_BYTES, ["load_in_8bit", "load_in_4bit"]));

/** Options of a model's from_pretrained. */
export const FROM_PRETRAINED = { ...MODEL, ...WEIGHTS, ...PYTHON, ...QUANTIZED, ...SOURCE };

export interface FromPretrainedOptions
  extends Options<typeof MODEL>,
    Options<typeof SOURCE>,
    WeightsOptions,
    PythonOptions,
    Omit<BitsAndBytesOptions, "load_in_8bit" | "load_in_4bit"> {}

/** Options of a model's from_config. */
export const FROM_CONFIG = {
  ...{ load_in_8bit: MODEL.load_in_8bit, load_in_4bit: MODEL.load_in_4bit },
  ...{ quantization_config: MODEL.quantization_config, dtype: MODEL.dtype, torch_dtype: MODEL.torch_dtype },
  ...{ attn_implementation: PYTHON.attn_implementation, trust_remote_code: PYTHON.trust_remote_code },
  ...QUANTIZED,
};

export interface FromConfigOptions
  extends Pick<
      FromPretrainedOptions,
      "load_in_8bit" | "load_in_4bit" | "quantization_config" | "dtype" | "torch_dtype" | "attn_implementation"
    >,
    Pick<PythonOptions, "trust_remote_code">,
    Omit<BitsAndBytesOptions, "load_in_8bit" | "load_in_4bit"> {}

const TOKENIZER = {
  /** Aborts the load with an AbortError. */
  signal: signal(),
  /** No effect: there is one tokenizer, and it is the fast one. */
  use_fast: flag(),
  /** Only false: nothing in a model's files is ever executed. */
  trust_remote_code: PYTHON.trust_remote_code,
};

/** Options of a tokenizer's from_pretrained. */
export const TOKENIZER_FROM_PRETRAINED = { ...TOKENIZER, ...LOAD_TOKENIZER, ...SOURCE };

export interface TokenizerOptions
  extends Options<typeof TOKENIZER>,
    Options<typeof LOAD_TOKENIZER>,
    Options<typeof SOURCE> {}
