// BitsAndBytesConfig: how the linears of a model are quantized. Fields, defaults and checks follow transformers.

import { listOf } from "../core/checks.js";
import { entriesOf, namesOf, OptionError } from "../core/errors.js";
import { choice, flag, type Options, option, readOptions, such } from "../core/options.js";
import * as z from "../core/schema.js";
import { O4_BLOCK } from "../ops/o4.js";
import { OWN_METHOD, SHARED, type Shared, sharedFields, sharedOf } from "./_shared.js";

const OWN = {
  /** Quantize the linears to LLM.int8(). */
  load_in_8bit: flag(),
  /** Quantize the linears to 4 bits. */
  load_in_4bit: flag(),
  /**
   * Names of modules that stay in full precision; replaces the default (the output head). An entry that matches no module
   * is reported in the model's `warnings`.
   */
  llm_int8_skip_modules: such<readonly string[] | null>(
    (value) => value === null || listOf(value, (name) => typeof name === "string") !== undefined,
    "a list of module names",
  ),
  /** No effect: all modules are on the model's device, and none is kept in 32 bits beside it. */
  llm_int8_enable_fp32_cpu_offload: flag(),
  /** Only false: weights are kept in 8 bits alone. */
  llm_int8_has_fp16_weight: option<false>(z.literal(false), "false", {
    hint: "weights are kept in 8 bits alone; leave it out",
  }),
  /**
   * The code of 4-bit elements. The default is "fp4", because Python's is; "nf4" takes the same bytes and stays closer to the
   * original, so it is the default of the command line. "o4" is Octavo's own and unknown to Python: smaller, and closer still. It has
   * blocks of 32, a table for each matrix, scales in 8 bits that are always searched, and a `quant_method` that Python refuses.
   */
  bnb_4bit_quant_type: choice(["nf4", "fp4", "o4"], {
    flag: "quant-type",
    value: "<type>",
    help: "4-bit code: nf4, fp4 or Octavo's own o4, the most precise (default: nf4; the library's is fp4, as Python's)",
  }),
  /** Only "uint8", Python's default: the type that files give to codes. Files that give them another one are read. */
  bnb_4bit_quant_storage: option<"uint8">(z.literal("uint8"), '"uint8"', {
    hint: "other types are for FSDP in Python, which cuts floats alone; leave it out",
  }),
  /** Quantize the scales of 4-bit blocks as well. */
  bnb_4bit_use_double_quant: flag({ flag: "double-quant", help: "quantize the scales of 4-bit blocks as well" }),
};

/** The fields of a BitsAndBytesConfig. */
export const BITS_AND_BYTES = { ...OWN, ...SHARED };

export interface BitsAndBytesOptions extends Options<typeof OWN>, Options<typeof SHARED> {}

/** What O4 has always. */
const O4_FIELDS = {
  bnb_4bit_blocksize: O4_BLOCK,
  bnb_4bit_scale_search: true,
  bnb_4bit_use_double_quant: false,
} as const;

/** Old spellings, and their current names. */
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
  readonly bnb_4bit_quant_type: "nf4" | "fp4" | "o4";
  readonly bnb_4bit_use_double_quant: boolean;
  readonly bnb_4bit_compute_dtype: Shared["bnb_4bit_compute_dtype"];
  readonly bnb_4bit_blocksize: Shared["bnb_4bit_blocksize"];
  readonly bnb_4bit_scale_search: boolean;
  /** The fields that were set explicitly. */
  readonly given: ReadonlySet<string>;
  readonly #own = true;

  /** True for a config itself, which a proxy of one is not. */
  static is(value: unknown): value is BitsAndBytesConfig {
    return typeof value === "object" && value !== null && #own in value && value.#own;
  }

  /**
   * A null field gets its default, as in Python.
   * @throws OptionError for unknown fields, wrong values, both 8 and 4 bits at once, and what "o4" has otherwise
   */
  constructor(options: BitsAndBytesOptions = {}) {
    for (const key of namesOf("BitsAndBytesConfig", options)) {
      const now = Object.hasOwn(OLD_NAMES, key) ? OLD_NAMES[key] : undefined;
      if (now)
        throw new OptionError(`BitsAndBytesConfig: \`${key}\` is called \`${now}\``, { details: { option: key } });
    }
    const given = entriesOf("BitsAndBytesConfig", options, Object.keys(BITS_AND_BYTES));
    const set = Object.fromEntries(given.filter(([, value]) => value !== null));
    const fields = readOptions("BitsAndBytesConfig", BITS_AND_BYTES, set);
    this.given = new Set(Object.keys(fields));
    this.load_in_8bit = fields.load_in_8bit ?? false;
    this.load_in_4bit = fields.load_in_4bit ?? false;
    if (this.load_in_8bit && this.load_in_4bit) {
      throw new OptionError("load_in_4bit and load_in_8bit are both true, but only one can be used at the same time");
    }
    this.llm_int8_skip_modules = fields.llm_int8_skip_modules ?? null;
    this.bnb_4bit_quant_type = fields.bnb_4bit_quant_type ?? "fp4";
    this.bnb_4bit_use_double_quant = fields.bnb_4bit_use_double_quant ?? false;
    const shared = sharedOf(fields);
    this.llm_int8_threshold = shared.llm_int8_threshold;
    this.bnb_4bit_compute_dtype = shared.bnb_4bit_compute_dtype;
    this.bnb_4bit_blocksize = shared.bnb_4bit_blocksize;
    this.bnb_4bit_scale_search = shared.bnb_4bit_scale_search;
    if (this.bnb_4bit_quant_type !== "o4") return;
    for (const [option, only] of Object.entries(O4_FIELDS)) {
      const value = fields[option as keyof typeof O4_FIELDS];
      if (value === undefined || value === only) continue;
      throw new OptionError(
        `BitsAndBytesConfig: ${option} is always ${only} for bnb_4bit_quant_type "o4", not ${value}`,
        {
          details: { option },
          hint: `leave ${option} out`,
        },
      );
    }
    this.bnb_4bit_blocksize = O4_FIELDS.bnb_4bit_blocksize;
    this.bnb_4bit_scale_search = O4_FIELDS.bnb_4bit_scale_search;
  }

  /** "llm_int8", "nf4", "fp4", "o4", or undefined for no quantization. */
  quantization_method(): "llm_int8" | "nf4" | "fp4" | "o4" | undefined {
    if (this.load_in_8bit) return "llm_int8";
    return this.load_in_4bit ? this.bnb_4bit_quant_type : undefined;
  }

  /** The block for config.json. */
  to_dict(): Record<string, unknown> {
    const shared = sharedFields(this);
    return {
      quant_method: this.bnb_4bit_quant_type === "o4" && this.load_in_4bit ? OWN_METHOD : "bitsandbytes",
      load_in_8bit: this.load_in_8bit,
      load_in_4bit: this.load_in_4bit,
      llm_int8_threshold: shared.llm_int8_threshold,
      llm_int8_skip_modules: this.llm_int8_skip_modules,
      bnb_4bit_quant_type: this.bnb_4bit_quant_type,
      bnb_4bit_use_double_quant: this.bnb_4bit_use_double_quant,
      bnb_4bit_compute_dtype: shared.bnb_4bit_compute_dtype,
      bnb_4bit_blocksize: shared.bnb_4bit_blocksize,
      bnb_4bit_scale_search: shared.bnb_4bit_scale_search,
    };
  }
}
