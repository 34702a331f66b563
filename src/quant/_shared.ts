// What every configuration of quantized linears says beside their schemes.

import { DTYPE_SPELLINGS, type FloatName, parseDType, torchName } from "../core/dtype.js";
import { choice, flag, number, type Options, such } from "../core/options.js";
import type { FloatDType } from "../nn/weight.js";
import { BLOCK_SIZES } from "../ops/four-bit.js";

/** The `quant_method` of a config.json that only Octavo understands. */
export const OWN_METHOD = "octavo";

export const SHARED = {
  /** Activations of at least this size are multiplied in high precision; 0 for none. */
  llm_int8_threshold: number((n) => n >= 0, "a number of at least 0"),
  /**
   * Dtype of the products: "float32" is exact, "bfloat16" lets kernels round where that is faster. "float16" is computed
   * as "float32": no kernel rounds to f16, and bf16 would keep fewer digits than requested. "int8" is Octavo's own and
   * unknown to Python: activations in 8-bit codes per block of the weights, the fastest on CPUs (see ops/four-bit.ts).
   */
  bnb_4bit_compute_dtype: such<FloatName | "int8">(
    (value) => typeof value === "string" && (value === "int8" || parseDType(value) !== undefined),
    `"int8" or a float dtype (${DTYPE_SPELLINGS.join(", ")})`,
  ),
  /** Elements per block of 4-bit codes. */
  bnb_4bit_blocksize: choice(BLOCK_SIZES),
  /**
   * Octavo's own: the scale of a 4-bit block is not its absmax, but that of 16 about it with the least squared error (default: false,
   * the bits of bitsandbytes). Codes and files stay bitsandbytes'.
   */
  bnb_4bit_scale_search: flag({
    flag: "scale-search",
    help: "choose the scale of each 4-bit block by its error: closer to the original, slower to quantize",
  }),
};

export interface Shared {
  readonly llm_int8_threshold: number;
  readonly bnb_4bit_compute_dtype: FloatDType | "int8";
  readonly bnb_4bit_blocksize: (typeof BLOCK_SIZES)[number];
  readonly bnb_4bit_scale_search: boolean;
}

/** The values of checked fields, with Python's defaults. */
export function sharedOf(fields: Options<typeof SHARED>): Shared {
  const compute = fields.bnb_4bit_compute_dtype ?? "float32";
  return {
    llm_int8_threshold: fields.llm_int8_threshold ?? 6.0,
    bnb_4bit_compute_dtype: compute === "int8" ? compute : parseDType(compute)!,
    bnb_4bit_blocksize: fields.bnb_4bit_blocksize ?? 64,
    bnb_4bit_scale_search: fields.bnb_4bit_scale_search ?? false,
  };
}

/** The fields of a config.json. */
export function sharedFields(shared: Shared): Required<Options<typeof SHARED>> {
  const { llm_int8_threshold, bnb_4bit_compute_dtype: compute, bnb_4bit_blocksize, bnb_4bit_scale_search } = shared;
  return {
    llm_int8_threshold,
    bnb_4bit_compute_dtype: compute === "int8" ? compute : torchName(compute),
    bnb_4bit_blocksize,
    bnb_4bit_scale_search,
  };
}
