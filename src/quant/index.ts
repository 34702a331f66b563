// The list of quantization schemes: from a BitsAndBytesConfig to the scheme that it asks for.

import type { Scheme } from "../nn/weight.js";
import type { BitsAndBytesConfig } from "./config.js";
import { fourBitScheme } from "./four-bit.js";
import { llmInt8Scheme } from "./llm-int8.js";

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
