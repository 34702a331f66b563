// The storages that eval and bench compare, by name. Dense matrices are multiplied as their dtype implies: f32 and f16 exactly,
// bf16 in bf16 unless the name has "-f32". 4-bit products are exact unless the name ends in the dtype that they round to.
// "-kv8" stores keys and values in 8 bits, "-h8" the output head.

import { OptionError, suggestion } from "../core/errors.js";
import type { CacheDType } from "../nn/cache.js";
import type { Compute } from "../ops/linear.js";
import type { BitsAndBytesOptions } from "../quant/config.js";
import type { HeadDType } from "../quant/index.js";

export interface Variant {
  /** The kernel of most products, by its name in `octavo bench --kernels`. */
  readonly kernel: string;
  /** dtype of everything that is not quantized. */
  readonly dtype: "float32" | "bfloat16" | "float16";
  readonly quantization: BitsAndBytesOptions | undefined;
  /** Compute dtype of dense products, where it is not the default of `dtype`. */
  readonly compute?: Compute;
  /** Dtype of the output head, where it is not `dtype`. */
  readonly head?: HeadDType;
  /** Dtype of keys and values, where it is not the default of `dtype`. */
  readonly cache?: CacheDType;
}

const four = (bnb_4bit_quant_type: "nf4" | "fp4" | "o4", more: BitsAndBytesOptions = {}): BitsAndBytesOptions => ({
  load_in_4bit: true,
  bnb_4bit_quant_type,
  ...more,
});

export const VARIANTS: Readonly<Record<string, Variant>> = {
  f32: { kernel: "f32", dtype: "float32", quantization: undefined },
  bf16: { kernel: "bf16", dtype: "bfloat16", quantization: undefined },
  "bf16-f32": { kernel: "bf16 f32", dtype: "bfloat16", quantization: undefined, compute: "f32" },
  f16: { kernel: "f16", dtype: "float16", quantization: undefined },
  int8: { kernel: "int8", dtype: "bfloat16", quantization: { load_in_8bit: true } },
  "int8-h8": { kernel: "int8", dtype: "bfloat16", quantization: { load_in_8bit: true }, head: "int8" },
  "int8-kv8": { kernel: "int8", dtype: "bfloat16", quantization: { load_in_8bit: true }, cache: "i8" },
  nf4: { kernel: "nf4", dtype: "bfloat16", quantization: four("nf4") },
  "nf4-dq": { kernel: "nf4 dq", dtype: "bfloat16", quantization: four("nf4", { bnb_4bit_use_double_quant: true }) },
  "nf4-search": { kernel: "nf4", dtype: "bfloat16", quantization: four("nf4", { bnb_4bit_scale_search: true }) },
  "nf4-bf16": {
    kernel: "nf4 bf16",
    dtype: "bfloat16",
    quantization: four("nf4", { bnb_4bit_compute_dtype: "bfloat16" }),
  },
  "nf4-int8": { kernel: "nf4 int8", dtype: "bfloat16", quantization: four("nf4", { bnb_4bit_compute_dtype: "int8" }) },
  "nf4-int8-h8": {
    kernel: "nf4 int8",
    dtype: "bfloat16",
    quantization: four("nf4", { bnb_4bit_compute_dtype: "int8" }),
    head: "int8",
  },
  o4: { kernel: "o4", dtype: "bfloat16", quantization: four("o4") },
  "o4-int8": { kernel: "o4 int8", dtype: "bfloat16", quantization: four("o4", { bnb_4bit_compute_dtype: "int8" }) },
  fp4: { kernel: "nf4", dtype: "bfloat16", quantization: four("fp4") },
};

/** Names from a comma-separated list. @throws OptionError for an unknown one */
export function variantNames(list: string): string[] {
  const names = list
    .split(",")
    .map((name) => name.trim())
    .filter((name) => name !== "");
  for (const name of names) {
    if (VARIANTS[name]) continue;
    const near = suggestion(name, Object.keys(VARIANTS));
    throw new OptionError(`unknown storage "${name}"${near ? `; did you mean "${near}"?` : ""}`, {
      hint: `known: ${Object.keys(VARIANTS).join(", ")}`,
    });
  }
  if (names.length === 0) throw new OptionError("the list of storages is empty");
  return names;
}
