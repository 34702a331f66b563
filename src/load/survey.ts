// The size of a model before it is loaded: parameters, files, and bytes of the weights under every scheme, from the declared tree
// and the headers, or from config.json alone where there are no weights. Reads no weights and opens no device; a device that
// pads its panels may use slightly more.

import { type FloatName, torchName } from "../core/dtype.js";
import { listed, sentence } from "../core/show.js";
import { architectureOf, taskFor } from "../models/index.js";
import { type ConfigJson, type Task, trainedContext } from "../nn/architecture.js";
import { cacheBytesPerToken, cacheDType } from "../nn/cache.js";
import type { DecoderGeometry } from "../nn/decoder.js";
import { EncoderModel } from "../nn/encoder.js";
import type { Model } from "../nn/model.js";
import { Matrix, plainBytes } from "../nn/module.js";
import type { FloatDType, MatrixShape } from "../nn/weight.js";
import { BitsAndBytesConfig, type BitsAndBytesOptions } from "../quant/config.js";
import { agree, schemeOf, storedSchemes } from "../quant/index.js";
import { isCodes, type SelectiveConfig } from "../quant/selective.js";
import { type Source, withFile } from "../sources/source.js";
import { configDType, declareModel, declareTree, readConfigJson, weightsThere } from "./index.js";
import { choicesOf, schemeFor, unusedPatterns } from "./linears.js";
import type { WeightsOptions } from "./options.js";
import { type Part, type Plan, type PlanItem, plan } from "./plan.js";
import { type StorageOptions, schemesOf, storageOf } from "./storage.js";

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
  readonly task: Task;
  /** Blocks that each stack runs: an encoder's, a decoder's. */
  readonly stacks: readonly number[];
  /** Of the decoder, if there is one. */
  readonly geometry: DecoderGeometry | undefined;
  /** Tokens of the longest text it was trained on, if its config says so. */
  readonly context: number | undefined;
  /** Number of elements in the model; tied ones count once. */
  readonly parameters: number;
  /** The float dtype of "auto" for this checkpoint, used for everything that is not quantized. */
  readonly dtype: FloatDType;
  /** Files of the weights; none if they are not there. */
  readonly files: readonly { readonly file: string; readonly bytes: number }[];
  /** Bytes of the tensors that the model uses, as published; without files those of its parameters in `dtype`. */
  readonly checkpoint_bytes: number;
  readonly sizes: readonly SchemeSize[];
  /** What is stored in which scheme, of a model that is quantized selectively, or as a plan says. */
  readonly shares: readonly SchemeShare[];
  /** Bytes of keys and values of one of the decoder's tokens, in the cache's dtype; 0 without a decoder. */
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

/** The tensors of a quantized matrix in a file that memory holds as they are. */
const KEPT = ["weight", "SCB", "absmax", "nested_absmax"];

/** Bytes of a matrix in memory whose codes a file holds. */
function codedBytes(parts: readonly Part[], [, inputs]: MatrixShape): number {
  let bytes = 0;
  for (const { stored } of parts) for (const role of KEPT) bytes += stored?.tensors.get(role)?.bytes ?? 0;
  const roles = parts[0]?.stored?.tensors;
  if (roles?.has("SCB")) return bytes + inputs; // marks of columns with outliers
  // One map for all experts, and an offset for each.
  return bytes + (roles?.has("nested_absmax") ? 1024 + 4 * parts.length : 0);
}

/** Bytes of a planned parameter when it is loaded in `dtype`. */
export function storedBytes({ parameter, scheme, parts }: PlanItem, dtype: FloatDType): number {
  if (!scheme || !(parameter instanceof Matrix)) return plainBytes(parameter, dtype);
  if (parts.some((part) => part.stored)) return codedBytes(parts, parameter.shape);
  return scheme.bytes(parameter.shape, parameter.experts);
}

/** Bytes of a plan's weights when loaded in `dtype`. */
function plannedBytes({ items }: Plan, dtype: FloatDType): number {
  return items.reduce((sum, item) => sum + storedBytes(item, dtype), 0);
}

/** Bytes of all parameters of a tree in these schemes. */
function declaredBytes(model: Model, storage: StorageOptions): number {
  const schemes = schemesOf(model, storage);
  let sum = 0;
  for (const parameter of model.parameters()) {
    const scheme = parameter instanceof Matrix ? schemes.get(parameter) : undefined;
    sum += scheme
      ? scheme.bytes(parameter.shape as MatrixShape, (parameter as Matrix).experts)
      : plainBytes(parameter, storage.dtype);
  }
  return sum;
}

/** Sizes for each way to load a model that is not quantized, by what `bytesOf` says of one of them. */
function sizesOf(dtype: FloatDType, bytesOf: (storage: StorageOptions) => number): SchemeSize[] {
  return [
    { name: "float32", options: { dtype: "float32" }, bytes: bytesOf({ dtype: "f32" }) },
    { name: "bfloat16", options: { dtype: "bfloat16" }, bytes: bytesOf({ dtype: "bf16" }) },
    ...QUANTIZED.map(([name, options]) => {
      const scheme = schemeOf(new BitsAndBytesConfig(options));
      return { name, options: { quantization_config: options }, bytes: bytesOf({ dtype, scheme }) };
    }),
  ];
}

/** The linears of a model that a SelectiveConfig stores in one scheme. */
export interface SchemeShare {
  /** "int8", "nf4-dq", "bfloat16", ... */
  readonly scheme: string;
  readonly linears: number;
  readonly parameters: number;
  readonly bytes: number;
}

/** What a config stores in which scheme. */
export function sharesOf(model: Model, config: SelectiveConfig, dtype: FloatDType): SchemeShare[] {
  const shares = new Map<string, { linears: number; parameters: number; bytes: number }>();
  for (const choice of choicesOf(model, config)) {
    const { shape, experts } = choice.linear.weight;
    const name = isCodes(choice.scheme) ? choice.scheme : torchName(choice.scheme === "auto" ? dtype : choice.scheme);
    const { linears = 0, parameters = 0, bytes = 0 } = shares.get(name) ?? {};
    shares.set(name, {
      linears: linears + 1,
      parameters: parameters + shape[0] * shape[1],
      bytes: bytes + schemeFor(choice, config, dtype).bytes(shape, experts),
    });
  }
  return [...shares].map(([scheme, share]) => ({ scheme, ...share }));
}

export interface SurveyOptions {
  /** Of everything that is not quantized; "auto", the default, for the checkpoint's own. */
  readonly dtype?: string;
  /** Default: what config.json says. */
  readonly task?: Task;
  /** "required": a folder without weights is an error, as for loading. */
  readonly weights?: "required";
  /** Which weight files are read. */
  readonly files?: WeightsOptions;
  /** A way to load it beside the usual ones. */
  readonly plan?: SelectiveConfig | undefined;
}

/**
 * Surveys the model in a folder, which may hold config.json alone.
 * @throws what loading would throw before it reads a weight
 */
export async function surveyModel(source: Source, options: SurveyOptions = {}): Promise<ModelSurvey> {
  const { dtype: wanted = "auto", plan: asked } = options;
  const config = await readConfigJson(source);
  const task = options.task ?? taskFor(config, await architectureOf(config));
  const there = options.weights === "required" || (await weightsThere(source, config, options.files));
  const declared = there
    ? await declareModel(source, config, task, wanted, options.files)
    : { ...(await declareTree(source, config, task)), dtype: configDType(wanted, config) ?? ("f32" as const) };
  const { architecture, model, dtype, stored } = declared;
  const checkpoint = "checkpoint" in declared ? declared.checkpoint : undefined;
  const planOf = (storage: StorageOptions): Plan => {
    const { scheme, ...rest } = storage;
    return plan(model, architecture, checkpoint!, stored ? rest : { ...rest, scheme });
  };
  const bytesOf = (storage: StorageOptions): number =>
    checkpoint ? plannedBytes(planOf(storage), storage.dtype) : declaredBytes(model, storage);
  let parameters = 0;
  for (const { shape } of model.parameters()) parameters += shape.reduce((n, size) => n * size, 1);
  const declared_bytes = declaredBytes(model, { dtype });
  const usual = stored ? [] : sizesOf(dtype, bytesOf);
  const plain = checkpoint && !stored ? planOf({ dtype }) : undefined;
  if (stored) agree(stored, asked, source.location);
  const chosen = stored ?? asked;
  const unused = asked && !stored ? unusedPatterns(model, asked) : undefined;
  // From here on the head may be a matrix of its own.
  const storage = { ...storageOf(model, chosen, dtype), stored: stored && storedSchemes(stored) };
  const own = chosen ? [{ name: chosen.quantization_method()!, options: {}, bytes: bytesOf(storage) }] : [];
  const published = checkpoint && (plain ?? planOf(storage));
  const warnings = [...(checkpoint?.warnings ?? []), ...(unused ? [unused] : [])];
  if (published && published.unexpected.length > 0) {
    warnings.push(
      `${published.unexpected.length} tensors of the checkpoint are not used, such as ${listed(published.unexpected, 3)}`,
    );
  }
  const cache_dtype = cacheDType(dtype);
  const geometry = "geometry" in model && "head_dim" in model.geometry ? model.geometry : undefined;
  return {
    config,
    model_type: architecture.model_type,
    task,
    stacks: model instanceof EncoderModel ? [model.geometry.layers] : model.blocks.map((blocks) => blocks.length),
    geometry,
    context: trainedContext(config),
    parameters,
    dtype,
    files: await Promise.all(
      (checkpoint?.files ?? []).map((file) =>
        withFile(source, file, "checkpoint", async ({ size }) => ({ file, bytes: size })),
      ),
    ),
    checkpoint_bytes: published?.bytes ?? declared_bytes,
    sizes: [...usual, ...own],
    shares: storage.selective ? sharesOf(model, storage.selective, dtype) : [],
    cache_bytes_per_token: geometry ? cacheBytesPerToken(geometry, cache_dtype) : 0,
    cache_dtype,
    warnings: warnings.map((text) => sentence(text)),
  };
}
