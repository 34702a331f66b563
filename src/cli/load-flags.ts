// What the commands that run a model share: the flags of how its weights are loaded and where it runs, and the load itself.

import { type Command, Option } from "commander";
import type { Device } from "../core/device.js";
import { parseDType } from "../core/dtype.js";
import { OptionError } from "../core/errors.js";
import { omit } from "../core/options.js";
import type { FromPretrainedOptions } from "../generate/auto.js";
import { FROM_PRETRAINED } from "../generate/loading-options.js";
import { NODE } from "../load/node.js";
import { SOURCE } from "../load/options.js";
import { onOwnDevice } from "../load/platform.js";
import { BITS_AND_BYTES, type BitsAndBytesOptions } from "../quant/config.js";
import { SelectiveConfig, type SelectiveOptions } from "../quant/selective.js";
import { parseJsonObject } from "../sources/json.js";
import { addFlags, deviceOption, flagOf, jsonOption, optionsOf, sourceOptions, threadsOption } from "./arguments.js";
import { EXIT, onInterrupt } from "./failures.js";
import { isInteractive } from "./output.js";
import { LoadingBar } from "./progress.js";
import { readText } from "./text.js";

/** Flags beside those of the library's options, which are read from the same object by their tables. */
export interface LoadFlags {
  computeDtype?: "float32" | "bfloat16" | "int8";
  device?: string;
  threads?: number;
  deterministic?: boolean;
  quiet?: boolean;
}

/** Options of from_pretrained that the group "Where" does not have. */
const WEIGHTS = omit(FROM_PRETRAINED, ["threads", "cache_dir", "revision", "subfolder", "hub"]);

/** Adds the group of flags that say how weights are loaded. */
export function addWeightFlags(command: Command): Command {
  command.optionsGroup("Weights:");
  const weights = addFlags(command, WEIGHTS);
  weights.load_in_8bit.conflicts("loadIn4bit");
  weights.dtype.default("auto");
  addFlags(command, BITS_AND_BYTES);
  return command.addOption(
    new Option(
      "--compute-dtype <name>",
      "products with bf16 weights (default: bfloat16) and 4-bit weights (default: the fastest, int8 on CPUs and bfloat16 on GPUs; exact: float32)",
    ).choices(["float32", "bfloat16", "int8"]),
  );
}

/** Adds the groups of flags that say where it runs, and what is printed. */
export function addRunFlags(command: Command): Command {
  command.optionsGroup("Where:").addOption(deviceOption()).addOption(threadsOption());
  return sourceOptions(command)
    .optionsGroup("Output:")
    .addOption(jsonOption())
    .option("-q, --quiet", "nothing on stderr but errors");
}

/** A signal for Ctrl-C; the second one ends the process. */
export function interruption(): AbortSignal {
  const abort = new AbortController();
  onInterrupt(() => {
    if (abort.signal.aborted) process.exit(EXIT.interrupted);
    abort.abort(new Error("interrupted"));
  });
  return abort.signal;
}

/** The plan in a file: the fields of a SelectiveConfig. @throws NotFoundError, FormatError, OptionError */
export async function readPlan(file: string): Promise<SelectiveConfig> {
  const text = await readText(file);
  const fields = parseJsonObject(new TextEncoder().encode(text), file, "plan of schemes");
  return new SelectiveConfig({ ...fields } as SelectiveOptions);
}

/** The flags of 4-bit codes. @throws OptionError for such a flag without them */
export function codesOf(command: string, flags: object, load_in_4bit: boolean): BitsAndBytesOptions {
  const codes = optionsOf(command, BITS_AND_BYTES, flags);
  if (load_in_4bit || Object.keys(codes).length === 0) return codes;
  const [name, entry] = Object.entries(BITS_AND_BYTES).find(([name]) => name in codes)!;
  throw new OptionError(`${flagOf(name, entry).long} needs --load-in-4bit`);
}

/** @throws OptionError for flags of 4-bit codes without them */
export function loadOptions(command: string, flags: LoadFlags): FromPretrainedOptions {
  const { load_in_8bit, load_in_4bit, ...load } = optionsOf(command, WEIGHTS, flags);
  const codes = codesOf(command, flags, load_in_4bit === true);
  const { computeDtype } = flags;
  if (!load_in_4bit && computeDtype === "int8") {
    throw new OptionError("--compute-dtype int8 is for 4-bit weights: it needs --load-in-4bit");
  }
  const common = {
    ...load,
    ...optionsOf(command, SOURCE, flags),
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
function withFastProducts(options: FromPretrainedOptions, { name }: Device): FromPretrainedOptions {
  const { quantization_config: config, dtype = "auto" } = options;
  if (!config || !("load_in_4bit" in config && config.load_in_4bit)) return options;
  if (config.bnb_4bit_compute_dtype !== undefined) return options;
  if (name === "reference" || parseDType(dtype) === "f32") return options;
  const bnb_4bit_compute_dtype = name.startsWith("webgpu") ? "bfloat16" : "int8";
  return { ...options, quantization_config: { ...config, bnb_4bit_compute_dtype } };
}

/**
 * Loads what `make` makes on a device of its own, with a bar. The caller closes the device.
 * @param options those of `loadOptions`; `make` gets them complete
 */
export async function loadOn<T extends { readonly device: Device }>(
  flags: LoadFlags,
  options: FromPretrainedOptions,
  signal: AbortSignal,
  make: (options: FromPretrainedOptions) => Promise<T>,
): Promise<T> {
  const { device, threads, deterministic, quiet } = flags;
  const bar = !quiet && isInteractive() ? new LoadingBar() : undefined;
  try {
    return await onOwnDevice(NODE, device, { threads, deterministic }, (device) =>
      make({
        ...withFastProducts(options, device),
        device,
        progress_callback: bar && ((event) => bar.hear(event)),
        signal,
      }),
    );
  } finally {
    bar?.stop();
  }
}
