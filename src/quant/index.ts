// The list of quantization schemes: from a BitsAndBytesConfig to the scheme that it asks for.

import type { Scheme } from "../nn/weight.js";
import type { BitsAndBytesConfig } from "./config.js";
import { fourBitScheme } from "./four-bit.js";
import { llmInt8Scheme } from "./llm-int8.js";

/** What the output head may be stored in: like the rest of the model says, or in 8 bits. */
export const HEAD_DTYPES = ["auto", "int8"] as const;
export type HeadDType = (typeof HEAD_DTYPES)[number];

/** The scheme of an output head of its own; undefined for "auto". LLM.int8() with its usual threshold. */
export function headScheme(dtype: HeadDType | undefined): Scheme | undefined {
  return dtype === "int8" ? llmInt8Scheme(6) : undefined;
}

/** The scheme for the linears of a model, or undefined if they stay as they are. */
export function schemeOf(config: BitsAndBytesConfig | undefined): Scheme | undefined {
  const method = config?.quantization_method();
  if (config === undefined || method === undefined) return undefined;
  if (method === "llm_int8") return llmInt8Scheme(config.llm_int8_threshold);
  return fourBitScheme({
    kind: method,
    blocksize: config.bnb_4bit_blocksize,
    double_quant: config.bnb_4bit_use_double_quant,
    compute: config.bnb_4bit_compute_dtype === "f16" ? "f32" : config.bnb_4bit_compute_dtype,
  });
}
