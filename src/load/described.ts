// The SelectiveConfig that says how the linears of a tree are stored now: of a loaded model whose linears were replaced.

import { OptionError } from "../core/errors.js";
import type { Model } from "../nn/model.js";
import type { FloatDType, Weight } from "../nn/weight.js";
import { fourBitOperands } from "../quant/_four-bit-weight.js";
import { int8Threshold } from "../quant/llm-int8.js";
import { type SchemeName, SelectiveConfig, type SelectiveOptions } from "../quant/selective.js";
import { ownLinears } from "./linears.js";

type Computed = Pick<SelectiveOptions, "llm_int8_threshold" | "bnb_4bit_compute_dtype" | "bnb_4bit_blocksize">;

/** A scheme, and what a config says beside it. */
interface StoredAs {
  readonly scheme: SchemeName;
  readonly fields?: Computed;
}

/** How a weight is stored; undefined for codes that no config names. */
function storedAs(weight: Weight, dtype: FloatDType): StoredAs | undefined {
  const floats = weight.scheme === "dense" ? (weight.tensors[0]!.dtype as FloatDType) : undefined;
  if (floats) return { scheme: floats === dtype ? "auto" : floats };
  const threshold = int8Threshold(weight);
  if (threshold !== undefined) return { scheme: "int8", fields: { llm_int8_threshold: threshold } };
  const { kind, nested, blocksize, compute } = fourBitOperands(weight) ?? {};
  const bnb_4bit_compute_dtype = compute === "int8" ? compute : compute === "bf16" ? "bfloat16" : "float32";
  if (kind === "o4") return { scheme: kind, fields: { bnb_4bit_compute_dtype } };
  if (kind !== "nf4" && kind !== "fp4") return undefined;
  const fields = { bnb_4bit_blocksize: blocksize as 64, bnb_4bit_compute_dtype } as const;
  return { scheme: nested ? `${kind}-dq` : kind, fields };
}

/**
 * The config for a model in `dtype`; undefined if none of its linears but the output head holds codes.
 * @throws OptionError for what no config says: codes of other kinds, or one scheme with several thresholds or block sizes
 */
export function describeStored(model: Model, dtype: FloatDType): SelectiveConfig | undefined {
  const head = model.output_embeddings();
  const coded = ownLinears(model).some(([, one]) => one !== head && one.weight.inner?.scheme !== "dense");
  if (!coded) return undefined;
  const modules: [string, SchemeName][] = [];
  const fields: Record<string, unknown> = {};
  for (const [path, { weight }] of ownLinears(model)) {
    if (!weight.inner) continue;
    const stored = storedAs(weight.inner, dtype);
    if (!stored) return undefined;
    modules.push([path, stored.scheme]);
    for (const [name, value] of Object.entries(stored.fields ?? {})) {
      if ((fields[name] ??= value) === value) continue;
      throw new OptionError(
        `${path} has ${name} ${value}, other linears ${fields[name]}: no quantization_config says both`,
        {
          hint: "state_dict() gives the tensors, each in the layout of its scheme",
        },
      );
    }
  }
  // A path may be the end of another one: the longer one must come first to count.
  modules.sort(([a], [b]) => b.split(".").length - a.split(".").length);
  return new SelectiveConfig({ ...(fields as Computed), modules: Object.fromEntries(modules) });
}
