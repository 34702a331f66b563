// The flags of `octavo generate` as options of the library: how the weights are loaded, and how tokens are chosen.

import type { Device } from "../core/device.js";
import { parseDType, torchName } from "../core/dtype.js";
import { OptionError } from "../core/errors.js";
import { omit } from "../core/options.js";
import type { FromPretrainedOptions } from "../generate/auto.js";
import type { GenerationOptions } from "../generate/config.js";
import type { PreTrainedModel } from "../generate/model.js";
import { FROM_PRETRAINED } from "../generate/options.js";
import { SOURCE } from "../load/options.js";
import { BITS_AND_BYTES, type BitsAndBytesOptions } from "../quant/config.js";
import { flagOf, type KVCacheName, optionsOf } from "./arguments.js";

/** Flags of the command itself; the library's options are read from the same object by their tables. */
export interface GenerateFlags {
  prompt?: string;
  batchFile?: string;
  chat?: boolean;
  escape?: boolean;
  echo: boolean;
  computeDtype?: "float32" | "bfloat16" | "int8";
  greedy?: boolean;
  kvCache?: KVCacheName;
  device?: string;
  threads?: number;
  deterministic?: boolean;
  json?: boolean;
  quiet?: boolean;
}

/** Options of from_pretrained that the group "Where" does not have. */
export const WEIGHTS = omit(FROM_PRETRAINED, ["threads", "cache_dir", "revision", "subfolder"]);

/** Flags that only sampling has; a temperature above 0 is one more. */
export const SAMPLING = ["doSample", "topK", "topP", "minP"];
/** New tokens if neither the caller nor the model sets a number. */
export const DEFAULT_NEW_TOKENS = 128;

/** The flags of 4-bit codes. @throws OptionError for such a flag without them */
export function codesOf(command: string, flags: object, load_in_4bit: boolean): BitsAndBytesOptions {
  const codes = optionsOf(command, BITS_AND_BYTES, flags);
  if (load_in_4bit || Object.keys(codes).length === 0) return codes;
  const [name, entry] = Object.entries(BITS_AND_BYTES).find(([name]) => name in codes)!;
  throw new OptionError(`${flagOf(name, entry).long} needs --load-in-4bit`);
}

/** @throws OptionError for flags of 4-bit codes without them */
export function loadOptions(flags: GenerateFlags): FromPretrainedOptions {
  const { load_in_8bit, load_in_4bit, ...load } = optionsOf("generate", WEIGHTS, flags);
  const codes = codesOf("generate", flags, load_in_4bit === true);
  const { computeDtype } = flags;
  if (!load_in_4bit && computeDtype === "int8") {
    throw new OptionError("--compute-dtype int8 is for 4-bit weights: it needs --load-in-4bit");
  }
  const common = {
    ...load,
    ...optionsOf("generate", SOURCE, flags),
    compute_dtype: computeDtype === "int8" ? undefined : computeDtype,
  };
  if (load_in_8bit) return { ...common, load_in_8bit };
  if (!load_in_4bit) return common;
  // The library's default is FP4, because Python's is; NF4 takes the same bytes and stays closer to the original.
  const own: BitsAndBytesOptions = { bnb_4bit_quant_type: "nf4", ...codes, load_in_4bit: true };
  return { ...common, quantization_config: { ...own, bnb_4bit_compute_dtype: computeDtype } };
}

/**
 * The options with the fastest 4-bit products of a device, where the caller left that open: integers on CPUs, 16-bit floats on
 * GPUs. Weights that stay in float32 ask for exact products.
 */
export function withFastProducts(options: FromPretrainedOptions, { name }: Device): FromPretrainedOptions {
  const { quantization_config: config, dtype = "auto" } = options;
  if (!config?.load_in_4bit || config.bnb_4bit_compute_dtype !== undefined) return options;
  if (name === "reference" || parseDType(dtype) === "f32") return options;
  const bnb_4bit_compute_dtype = name.startsWith("webgpu") ? "bfloat16" : "int8";
  return { ...options, quantization_config: { ...config, bnb_4bit_compute_dtype } };
}

/** @throws OptionError for a temperature above 0 where no token is sampled */
export function checkTemperature(
  { temperature, prompt_lookup_num_tokens }: GenerationOptions,
  flags: GenerateFlags,
): void {
  if (!temperature || !(flags.greedy || prompt_lookup_num_tokens)) return;
  const other = flags.greedy ? "--greedy" : "--prompt-lookup";
  throw new OptionError(`--temperature ${temperature} samples, and cannot be used with ${other}`, {
    hint: "leave one of them out; temperature 0 takes the likeliest token",
  });
}

/** @param room tokens that the model reads after the prompt */
export function generationOptions(
  given: GenerationOptions,
  flags: GenerateFlags,
  model: PreTrainedModel,
  room: number,
): GenerationOptions & { readonly seed: number } {
  const { temperature, top_k, top_p, min_p, prompt_lookup_num_tokens } = given;
  const tuned = [temperature, top_k, top_p, min_p].some((value) => value !== undefined);
  return {
    ...given,
    num_return_sequences: 1, // whatever generation_config.json says: each prompt has one text
    max_new_tokens:
      given.max_new_tokens ??
      (typeof model.generation_config.max_new_tokens === "number"
        ? undefined
        : Math.max(1, Math.min(DEFAULT_NEW_TOKENS, room))),
    do_sample: flags.greedy || prompt_lookup_num_tokens ? false : given.do_sample || tuned ? true : undefined,
    ...cacheOptions(flags.kvCache),
    // Drawn here, so that the report can name it.
    seed: given.seed ?? Math.floor(Math.random() * 2 ** 31),
  };
}

function cacheOptions(name: KVCacheName | undefined): GenerationOptions {
  if (name === "int8") return { cache_implementation: "quantized", cache_config: { nbits: 8 } };
  return { cache_dtype: name && torchName(name) };
}
