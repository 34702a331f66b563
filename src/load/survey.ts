// The size of a model before it is loaded: parameters, files, and bytes of the weights under every scheme, from the headers and
// the declared tree alone. Reads no weights and opens no device; a device that pads its panels may use slightly more.

import type { FloatName } from "../core/dtype.js";
import { listed, sentence } from "../core/show.js";
import { type ConfigJson, trainedContext } from "../nn/architecture.js";
import { cacheBytesPerToken, cacheDType } from "../nn/cache.js";
import type { DecoderGeometry } from "../nn/decoder.js";
import { Matrix, plainBytes } from "../nn/module.js";
import type { FloatDType } from "../nn/weight.js";
import { BitsAndBytesConfig, type BitsAndBytesOptions } from "../quant/config.js";
import { schemeOf, storedSchemes } from "../quant/index.js";
import { type Source, withFile } from "../sources/source.js";
import { declareModel, readConfigJson } from "./index.js";
import { type Plan, type PlanItem, partBytes, plan } from "./plan.js";

/** Bytes of the weights for one way to load them. */
export interface SchemeSize {
  /** "float32", "bfloat16", "int8", "nf4", "nf4 double quant", "fp4"; for a quantized checkpoint only its own. */
  readonly name: string;
  /** Options of `from_pretrained` for it. */
  readonly options: { readonly dtype?: FloatName; readonly quantization_config?: BitsAndBytesOptions };
  readonly bytes: number;
}

export interface ModelSurvey {
  readonly config: ConfigJson;
  readonly model_type: string;
  readonly geometry: DecoderGeometry;
  /** Tokens of the longest text it was trained on, if its config says so. */
  readonly context: number | undefined;
  /** Number of elements in the model; tied ones count once. */
  readonly parameters: number;
  /** The float dtype of "auto" for this checkpoint, used for everything that is not quantized. */
  readonly dtype: FloatDType;
  readonly files: readonly { readonly file: string; readonly bytes: number }[];
  /** Bytes of the tensors that the model uses, as published. */
  readonly checkpoint_bytes: number;
  readonly sizes: readonly SchemeSize[];
  /** Bytes of keys and values of one token, in the cache's dtype. */
  readonly cache_bytes_per_token: number;
  readonly cache_dtype: FloatDType;
  readonly warnings: readonly string[];
}

const QUANTIZED: readonly [name: string, options: BitsAndBytesOptions][] = [
  ["int8", { load_in_8bit: true }],
  ["nf4", { load_in_4bit: true, bnb_4bit_quant_type: "nf4" }],
  ["nf4 double quant", { load_in_4bit: true, bnb_4bit_quant_type: "nf4", bnb_4bit_use_double_quant: true }],
  ["fp4", { load_in_4bit: true, bnb_4bit_quant_type: "fp4" }],
];

/** Bytes of a plan's weights when loaded in `dtype`; matrices quantized in the files take about their size there. */
export function plannedBytes({ items }: Plan, dtype: FloatDType): number {
  const bytesOf = ({ parameter, scheme, parts }: PlanItem): number => {
    if (!scheme || !(parameter instanceof Matrix)) return plainBytes(parameter, dtype);
    const stored = parts.some((part) => part.stored);
    if (stored) return parts.reduce((sum, part) => sum + partBytes(part), 0);
    return scheme.bytes(parameter.shape, parameter.experts);
  };
  return items.reduce((sum, item) => sum + bytesOf(item), 0);
}

/**
 * Surveys the model in a folder.
 * @param wanted dtype of everything that is not quantized, "auto" for the checkpoint's own
 * @throws what loading would throw before it reads a weight
 */
export async function surveyModel(source: Source, wanted = "auto"): Promise<ModelSurvey> {
  const config = await readConfigJson(source);
  const { architecture, model, checkpoint, dtype, stored } = await declareModel(source, config, "causal-lm", wanted);
  const schemes = stored && storedSchemes(stored);
  const dense = (as: FloatDType): Plan => plan(model, architecture, checkpoint, { dtype: as, stored: schemes });
  // Matrices quantized in the files stay quantized.
  const sizes: SchemeSize[] = stored
    ? [{ name: stored.quantization_method()!, options: {}, bytes: plannedBytes(dense(dtype), dtype) }]
    : [
        { name: "float32", options: { dtype: "float32" }, bytes: plannedBytes(dense("f32"), "f32") },
        { name: "bfloat16", options: { dtype: "bfloat16" }, bytes: plannedBytes(dense("bf16"), "bf16") },
      ];
  for (const [name, options] of stored ? [] : QUANTIZED) {
    const scheme = schemeOf(new BitsAndBytesConfig(options));
    const bytes = plannedBytes(plan(model, architecture, checkpoint, { dtype, scheme }), dtype);
    sizes.push({ name, options: { quantization_config: options }, bytes });
  }
  let parameters = 0;
  for (const { shape } of model.parameters()) parameters += shape.reduce((n, size) => n * size, 1);
  const published = dense(dtype);
  const warnings = [...checkpoint.warnings];
  if (published.unexpected.length > 0) {
    warnings.push(
      `${published.unexpected.length} tensors of the checkpoint are not used, such as ${listed(published.unexpected, 3)}`,
    );
  }
  const cache_dtype = cacheDType(dtype);
  return {
    config,
    model_type: architecture.model_type,
    geometry: model.geometry,
    context: trainedContext(config),
    parameters,
    dtype,
    files: await Promise.all(
      checkpoint.files.map((file) => withFile(source, file, "checkpoint", async ({ size }) => ({ file, bytes: size }))),
    ),
    checkpoint_bytes: published.bytes,
    sizes,
    cache_bytes_per_token: cacheBytesPerToken(model.geometry, cache_dtype),
    cache_dtype,
    warnings: warnings.map((text) => sentence(text)),
  };
}
