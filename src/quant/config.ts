// BitsAndBytesConfig: how the linears of a model are to be quantized. Fields, defaults and refusals are transformers'.

import { DTYPE_SPELLINGS, type FloatName, parseDType, torchName } from "../core/dtype.js";
import { checkOptions, OptionError, suggestion } from "../core/errors.js";
import type { FloatDType } from "../nn/weight.js";
import { BLOCK_SIZES, type BlockSize } from "../ops/four-bit.js";

export interface BitsAndBytesOptions {
  load_in_8bit?: boolean;
  load_in_4bit?: boolean;
  /** Activations of at least this size are multiplied in high precision; 0 for none. */
  llm_int8_threshold?: number;
  /**
   * Names of modules that stay in full precision; replaces the default (the output head). An entry that names nothing is
   * among the model's `warnings`.
   */
  llm_int8_skip_modules?: readonly string[] | null;
  bnb_4bit_quant_type?: "nf4" | "fp4";
  bnb_4bit_use_double_quant?: boolean;
  /**
   * Dtype of the products: "float32" is exact, "bfloat16" lets kernels round where that is faster. "float16" is computed
   * as "float32": no kernel rounds to f16, and bf16 would keep fewer digits than were asked for. "int8" is ours, Python
   * does not know it: activations in 8-bit codes per block of the weights, the fastest on CPUs (see ops/four-bit.ts).
   */
  bnb_4bit_compute_dtype?: FloatName | "int8";
  /** Elements per block of 4-bit codes. */
  bnb_4bit_blocksize?: BlockSize;
}

const FIELDS: readonly (keyof BitsAndBytesOptions)[] = [
  "load_in_8bit",
  "load_in_4bit",
  "llm_int8_threshold",
  "llm_int8_skip_modules",
  "bnb_4bit_quant_type",
  "bnb_4bit_use_double_quant",
  "bnb_4bit_compute_dtype",
  "bnb_4bit_blocksize",
];

/** Spellings that were in use once, and what they are called now. */
const OLD_NAMES: Readonly<Record<string, string>> = {
  load_in_8bit_threshold: "llm_int8_threshold",
  int8_threshold: "llm_int8_threshold",
  load_in_8bit_skip_modules: "llm_int8_skip_modules",
};

export class BitsAndBytesConfig {
  readonly load_in_8bit: boolean;
  readonly load_in_4bit: boolean;
  readonly llm_int8_threshold: number;
  readonly llm_int8_skip_modules: readonly string[] | null;
  readonly bnb_4bit_quant_type: "nf4" | "fp4";
  readonly bnb_4bit_use_double_quant: boolean;
  readonly bnb_4bit_compute_dtype: FloatDType | "int8";
  readonly bnb_4bit_blocksize: BlockSize;
  /** The fields that were set, and not left to their defaults. */
  readonly given: ReadonlySet<string>;

  /** @throws OptionError for unknown fields, wrong types, and both 8 and 4 bits at once */
  constructor(options: BitsAndBytesOptions = {}) {
    if (typeof options !== "object" || options === null) {
      throw new OptionError("BitsAndBytesConfig: the fields must be an object");
    }
    for (const key of Object.keys(options)) {
      const now = OLD_NAMES[key];
      if (now)
        throw new OptionError(`BitsAndBytesConfig: \`${key}\` is called \`${now}\``, { details: { option: key } });
    }
    checkOptions("BitsAndBytesConfig", options, FIELDS);
    this.given = new Set(FIELDS.filter((key) => options[key] !== undefined));
    this.load_in_8bit = boolean(options, "load_in_8bit");
    this.load_in_4bit = boolean(options, "load_in_4bit");
    if (this.load_in_8bit && this.load_in_4bit) {
      throw new OptionError("load_in_4bit and load_in_8bit are both true, but only one can be used at the same time");
    }
    const threshold = options.llm_int8_threshold ?? 6.0;
    if (typeof threshold !== "number" || !(threshold >= 0) || !Number.isFinite(threshold)) {
      throw new OptionError(`llm_int8_threshold must be a number of at least 0, got ${String(threshold)}`);
    }
    this.llm_int8_threshold = threshold;
    const skip = options.llm_int8_skip_modules ?? null;
    if (skip !== null && !(Array.isArray(skip) && skip.every((name) => typeof name === "string"))) {
      throw new OptionError("llm_int8_skip_modules must be a list of module names");
    }
    this.llm_int8_skip_modules = skip;
    const kind = options.bnb_4bit_quant_type ?? "fp4";
    if (kind !== "nf4" && kind !== "fp4") {
      const near = suggestion(String(kind), ["nf4", "fp4"]);
      throw new OptionError(
        `bnb_4bit_quant_type must be "nf4" or "fp4", got "${String(kind)}"${near ? `; did you mean "${near}"?` : ""}`,
      );
    }
    this.bnb_4bit_quant_type = kind;
    this.bnb_4bit_use_double_quant = boolean(options, "bnb_4bit_use_double_quant");
    const compute = options.bnb_4bit_compute_dtype ?? "float32";
    const dtype = typeof compute !== "string" ? undefined : compute === "int8" ? compute : parseDType(compute);
    if (!dtype) {
      throw new OptionError(
        `bnb_4bit_compute_dtype must be "int8" or a float dtype (${DTYPE_SPELLINGS.join(", ")}), got ${String(compute)}`,
      );
    }
    this.bnb_4bit_compute_dtype = dtype;
    const blocksize = options.bnb_4bit_blocksize ?? 64;
    if (!BLOCK_SIZES.includes(blocksize)) {
      throw new OptionError(`bnb_4bit_blocksize must be one of ${BLOCK_SIZES.join(", ")}, got ${String(blocksize)}`);
    }
    this.bnb_4bit_blocksize = blocksize;
  }

  /** "llm_int8", "nf4", "fp4", or undefined if nothing is to be quantized. */
  quantization_method(): "llm_int8" | "nf4" | "fp4" | undefined {
    if (this.load_in_8bit) return "llm_int8";
    return this.load_in_4bit ? this.bnb_4bit_quant_type : undefined;
  }

  /** The block that config.json carries. */
  to_dict(): Record<string, unknown> {
    return {
      quant_method: "bitsandbytes",
      load_in_8bit: this.load_in_8bit,
      load_in_4bit: this.load_in_4bit,
      llm_int8_threshold: this.llm_int8_threshold,
      llm_int8_skip_modules: this.llm_int8_skip_modules,
      bnb_4bit_quant_type: this.bnb_4bit_quant_type,
      bnb_4bit_use_double_quant: this.bnb_4bit_use_double_quant,
      bnb_4bit_compute_dtype: this.bnb_4bit_compute_dtype === "int8" ? "int8" : torchName(this.bnb_4bit_compute_dtype),
      bnb_4bit_blocksize: this.bnb_4bit_blocksize,
    };
  }
}

function boolean(
  options: BitsAndBytesOptions,
  key: "load_in_8bit" | "load_in_4bit" | "bnb_4bit_use_double_quant",
): boolean {
  const value = options[key] ?? false;
  if (typeof value !== "boolean") throw new OptionError(`${key} must be true or false, got ${String(value)}`);
  return value;
}
