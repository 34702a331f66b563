// Puts quantized linears into a model, of one's own or loaded: what transformers and the announcement of LLM.int8() call
// replacing. Values that are on a device are quantized there now, others when they get one.

import { isOf, listOf } from "../core/checks.js";
import { torchName } from "../core/dtype.js";
import { OptionError } from "../core/errors.js";
import { number, type Options, readOptions, such } from "../core/options.js";
import { show } from "../core/show.js";
import { scope } from "../core/tensor.js";
import { LoadedModel } from "../generate/base.js";
import { choicesOf, names, unusedPatterns } from "../load/linears.js";
import { quantizedModules } from "../load/storage.js";
import type { Model } from "../nn/model.js";
import { Linear as BareLinear, type Matrix, Module } from "../nn/module.js";
import { type FloatDType, type Scheme, storeRows } from "../nn/weight.js";
import type { BnbKind } from "../ops/four-bit.js";
import { BitsAndBytesConfig } from "../quant/config.js";
import { codesConfig, type Quantization, type QuantizationOptions, quantizationOf } from "../quant/index.js";
import { isCodes, SelectiveConfig } from "../quant/selective.js";
import { Linear4bit, Linear8bitLt } from "./modules.js";
import { Int8Params, Params4bit } from "./parameters.js";

const NAMES = such<readonly string[] | null>(
  (value) => value === null || listOf(value, (name) => typeof name === "string") !== undefined,
  "a list of module names",
);

export const REPLACE = {
  /** Of LLM.int8(): activations of at least this size are multiplied in full precision (default: 6). */
  threshold: number((n) => n >= 0, "a number of at least 0"),
  /** Modules that stay as they are; whole components of a path ("lm_head", "layers.0"). Default: the output head. */
  skip_modules: NAMES,
  /** How they are quantized: a BitsAndBytesConfig, a SelectiveConfig, or the fields of one (default: in 8 bits). */
  quantization_config: such<QuantizationOptions>(
    (value) => typeof value === "object" && value !== null,
    "a BitsAndBytesConfig or a SelectiveConfig",
  ),
};
export interface ReplaceOptions extends Options<typeof REPLACE> {}

/** A model of one's own, or a loaded one. */
export type Replaceable = Module | LoadedModel<Model>;

/** The tree of a model. @throws OptionError */
function treeOf(call: string, model: unknown): Module {
  if (LoadedModel.is(model)) {
    model.checkUsable();
    return model.module;
  }
  if (isOf(model, Module)) return model;
  throw new OptionError(`${call}: it takes a Module or a loaded model, got ${show(model)}`);
}

/** The config that the options ask for. @throws OptionError */
function configOf({ threshold, quantization_config }: ReplaceOptions): Quantization {
  const given = quantizationOf(quantization_config ?? { load_in_8bit: true });
  if (given.quantization_method() === undefined) {
    throw new OptionError("quantization_config asks for no quantization", {
      hint: "{ load_in_8bit: true } or { load_in_4bit: true }",
    });
  }
  if (threshold === undefined) return given;
  if (SelectiveConfig.is(given)) return given.computed({ llm_int8_threshold: threshold });
  const { quant_method: _, ...fields } = given.to_dict();
  return new BitsAndBytesConfig({ ...fields, llm_int8_threshold: threshold });
}

/** How a linear is stored: quantized by a config, or in a float dtype. */
type Stored = BitsAndBytesConfig | FloatDType;

/** What becomes of the linears that change, by their paths. @throws OptionError, UnsupportedModelError */
function wantedOf(tree: Module, config: Quantization, skip: readonly string[] | undefined): Map<string, Stored> {
  if (config.quantization_method() === "o4" || (SelectiveConfig.is(config) && config.schemes.has("o4"))) {
    throw new OptionError("replace_with_bnb_linear: bitsandbytes has no linears in o4", {
      hint: "from_pretrained quantizes to o4 while it loads",
    });
  }
  if (!SelectiveConfig.is(config)) {
    const paths = quantizedModules(tree, skip ?? config.llm_int8_skip_modules);
    return new Map(paths.map((path) => [path, config]));
  }
  unusedPatterns(tree, config);
  const wanted = new Map<string, Stored>();
  for (const { path, scheme, linear } of choicesOf(tree, config)) {
    if (scheme === "auto" || (skip && [path, ...linear.published_paths].some((one) => names(skip, one)))) continue;
    wanted.set(path, isCodes(scheme) ? codesConfig(config, scheme) : scheme);
  }
  return wanted;
}

/**
 * Replaces the linears of a model by `Linear8bitLt` or `Linear4bit` with their values, and gives the model itself. With a
 * SelectiveConfig each becomes what its path says; those in a float dtype stay, and are converted. Linears that share their matrix
 * stay, as does what `skip_modules` names, and what is quantized already.
 * @throws OptionError, UnsupportedModelError (experts of a stack in different schemes), OutOfMemoryError
 */
export function replace_with_bnb_linear<M extends Replaceable>(model: M, options: ReplaceOptions = {}): M {
  const read = readOptions("replace_with_bnb_linear", REPLACE, options);
  const tree = treeOf("replace_with_bnb_linear", model);
  const config = configOf(read);
  const wanted = wantedOf(tree, config, read.skip_modules ?? undefined);
  for (const [path, parent] of [...tree.named_modules()]) {
    for (const [name, child] of [...parent.children()]) {
      const stored = wanted.get(path ? `${path}.${name}` : name);
      if (stored === undefined || !(child instanceof BareLinear)) continue;
      const { weight } = child;
      if (weight.filled && weight.weight.scheme !== "dense") continue;
      if (weight instanceof Int8Params || weight instanceof Params4bit) continue;
      if (typeof stored === "string") weight.to(undefined, stored);
      else parent.replace(name, quantized(child, stored));
    }
  }
  return model;
}

/** A linear in the quantization of a config, with the values of another, which gives them up. */
function quantized(linear: BareLinear, config: BitsAndBytesConfig): BareLinear {
  const { weight: before, bias, path, training } = linear;
  const { experts } = before;
  const [out, inputs] = [before.shape[0] / experts, before.shape[1]];
  const compute = config.bnb_4bit_compute_dtype;
  const made = config.load_in_8bit
    ? new Linear8bitLt(inputs, out, { has_fp16_weights: false, threshold: config.llm_int8_threshold })
    : new Linear4bit(inputs, out, {
        quant_type: config.bnb_4bit_quant_type as BnbKind,
        compute_dtype: compute === "int8" ? compute : torchName(compute),
        compress_statistics: config.bnb_4bit_use_double_quant,
        blocksize: config.bnb_4bit_blocksize,
        scale_search: config.bnb_4bit_scale_search,
      });
  if (experts > 1) made.weight = stackLike(made.weight, before);
  made.weight.pending = before.pending;
  made.weight.optional = before.optional;
  made.bias = bias;
  made.path = path;
  made.training = training;
  if (before.filled) {
    made.weight.dtype = before.dtype ?? (before.tensors[0]?.dtype as "f32" | undefined);
    fillFrom(made.weight, before, made.weight.scheme!);
    before.dispose();
  }
  return made;
}

/** The matrix of a layer as a stack of experts. */
function stackLike(weight: Int8Params | Params4bit, { shape, experts }: Matrix): Int8Params & Params4bit {
  const out = shape[0] / experts;
  const made =
    weight instanceof Int8Params
      ? new Int8Params(out, shape[1], { threshold: weight.threshold, has_fp16_weights: false, experts })
      : new Params4bit(out, shape[1], { ...weight.options, experts });
  return made as Int8Params & Params4bit;
}

/** Quantizes the floats of a matrix on its device into another. */
function fillFrom(into: Matrix, { weight, experts }: Matrix, scheme: Scheme): void {
  const made = scope(() => storeRows(scheme, weight.dense("f32"), scheme.name, experts));
  into.fill(made);
}

const REPLACE_8BIT = {
  threshold: REPLACE.threshold,
  /** Names of modules that stay, as in the announcement: one, or a list (default: "lm_head"). */
  module_to_not_convert: such<string | readonly string[]>(
    (value) => typeof value === "string" || listOf(value, (name) => typeof name === "string") !== undefined,
    "a module name, or a list of some",
  ),
};

/** The announcement's name: `replace_with_bnb_linear` in 8 bits. @throws as there */
export function replace_8bit_linear<M extends Replaceable>(model: M, options: Options<typeof REPLACE_8BIT> = {}): M {
  const { threshold = 6, module_to_not_convert = "lm_head" } = readOptions(
    "replace_8bit_linear",
    REPLACE_8BIT,
    options,
  );
  const skip_modules = typeof module_to_not_convert === "string" ? [module_to_not_convert] : module_to_not_convert;
  return replace_with_bnb_linear(model, { threshold, skip_modules });
}
