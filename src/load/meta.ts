// Models without weights: the tree that a config.json declares, with the size of every parameter in the form in which it would be
// stored. Making one allocates nothing on any device, at any size.

import { isFunction } from "../core/checks.js";
import { torchName } from "../core/dtype.js";
import { OctavoError } from "../core/errors.js";
import { flag, type Options, readOptions } from "../core/options.js";
import { architectureOf, taskOf } from "../models/index.js";
import type { ConfigJson, Task, TaskModels } from "../nn/architecture.js";
import { Matrix, type Module, type Parameter, plainBytes } from "../nn/module.js";
import { treeOf } from "../nn/print.js";
import { computeFor, type FloatDType } from "../nn/weight.js";
import { MXFP4_BLOCK } from "../quant/_mxfp4-files.js";
import { codesScheme } from "../quant/four-bit.js";
import { type Quantization, storedPacked, storedQuantization, storedSchemes } from "../quant/index.js";
import type { Source } from "../sources/source.js";
import { refuseExperts, watched } from "./config-keys.js";
import type { HasForm, StoredForm } from "./device-map/tree.js";
import { configDType, declareModel, declareTree, type Prepared, readConfigJson, weightsThere } from "./index.js";
import { unusedPatterns } from "./linears.js";
import type { WeightsOptions } from "./options.js";
import { type PlanItem, plan } from "./plan.js";
import { type StorageOptions, schemesOf, storageOf, unknownModules } from "./storage.js";
import { storedBytes } from "./survey.js";

export interface MetaOptions {
  /** "auto" (what config.json says, else float32) or a float dtype, of everything that is not quantized. */
  readonly dtype?: string;
  readonly quantization?: Quantization | undefined;
  /** Which weight files are looked at. */
  readonly files?: WeightsOptions;
}

/** What a meta model is made of. */
interface MetaParts<T extends Task> {
  readonly module: TaskModels[T];
  readonly config: ConfigJson;
  readonly task: T;
  readonly dtype: FloatDType;
  readonly quantization: Quantization | undefined;
  /** Bytes of parameters that are not plain elements of `dtype`. */
  readonly stored: ReadonlyMap<Parameter | Matrix, number>;
}

/** A parameter of a meta model. */
export interface MetaParameter {
  readonly shape: readonly number[];
  readonly device: "meta";
  /** Bytes in the form in which it would be stored. */
  readonly nbytes: number;
}

/** A model of which nothing is loaded: `from_pretrained` and `load_checkpoint_and_dispatch` fill one. */
export class MetaModel<T extends Task = Task> implements HasForm {
  /** The module tree, with the checkpoint's names. */
  readonly module: TaskModels[T];
  readonly config: ConfigJson;
  readonly task: T;
  /** Of everything that is not quantized. */
  readonly dtype: FloatDType;
  readonly quantization: Quantization | undefined;
  readonly device = "meta";
  readonly form: StoredForm;

  /** Use `from_config`. */
  constructor({ module, config, task, dtype, quantization, stored }: MetaParts<T>) {
    this.module = module;
    this.config = config;
    this.task = task;
    this.dtype = dtype;
    this.quantization = quantization;
    this.form = { dtype: torchName(dtype), bytesOf: (parameter) => stored.get(parameter) };
  }

  /** Classes of the blocks, which a device map does not split: a block adds its input to its output. */
  get no_split_module_classes(): readonly string[] {
    const blocks: readonly Module[] = this.module.blocks.flat();
    return [...new Set(blocks.map(({ class_name }) => class_name))];
  }

  /** transformers' name of the same. */
  get _no_split_modules(): readonly string[] {
    return this.no_split_module_classes;
  }

  /** Number of elements; tied parameters count once. */
  num_parameters(): number {
    let count = 0;
    for (const { shape } of this.module.parameters()) count += shape.reduce((n, size) => n * size, 1);
    return count;
  }

  /** Bytes of all parameters in the form in which they would be stored, statistics of quantized ones included. */
  get weight_bytes(): number {
    let bytes = 0;
    for (const parameter of this.module.parameters()) bytes += this.#bytesOf(parameter);
    return bytes;
  }

  /** `weight_bytes`. */
  get_memory_footprint(): number {
    return this.weight_bytes;
  }

  /** The parameters by the checkpoint's names; a tied one appears under each of its names. */
  *named_parameters(): Iterable<[string, MetaParameter]> {
    for (const [name, parameter] of this.module.named_parameters()) {
      yield [name, { shape: parameter.shape, device: this.device, nbytes: this.#bytesOf(parameter) }];
    }
  }

  /** The model itself: parameters that the config ties are tied from the start. */
  tie_weights(): this {
    return this;
  }

  /** The model itself. */
  eval(): this {
    return this;
  }

  /** @throws OctavoError except for "meta" */
  to(device: unknown): this {
    if (device === this.device) return this;
    throw new OctavoError("ERR_NOT_LOADED", "to: the model is on the meta device, where it has no weights to move", {
      hint: "load_checkpoint_and_dispatch(model, folder), or from_pretrained(name), loads them to where they belong",
    });
  }

  /** The tree of modules as Python prints it. */
  toString(): string {
    return `${this.module.class_name} on meta, ${torchName(this.dtype)}: ${treeOf(this.module)}`;
  }

  [Symbol.for("nodejs.util.inspect.custom")](): string {
    return this.toString();
  }

  #bytesOf(parameter: Parameter | Matrix): number {
    return this.form.bytesOf(parameter) ?? plainBytes(parameter, this.dtype);
  }
}

/** Bytes of the matrices that are not stored as plain elements of the dtype. */
function schemeBytes(module: TaskModels[Task], storage: StorageOptions): Map<Parameter | Matrix, number> {
  const stored = new Map<Parameter | Matrix, number>();
  for (const [matrix, scheme] of schemesOf(module, storage)) {
    const bytes = scheme.bytes(matrix.shape, matrix.experts);
    if (bytes !== plainBytes(matrix, storage.dtype)) stored.set(matrix, bytes);
  }
  return stored;
}

/**
 * Declares the model of a config.json.
 * @throws ConfigError, UnsupportedModelError; OptionError for an unknown dtype
 */
export async function metaModel<T extends Task>(
  config: ConfigJson,
  task: T,
  { dtype: wanted = "auto", quantization }: MetaOptions = {},
): Promise<MetaModel<T>> {
  const build = taskOf(await architectureOf(config), task);
  const own = quantization ?? storedQuantization(config.quantization_config, "config.json");
  const dtype = configDType(wanted, config) ?? "f32";
  const read = new Set<string>();
  const module = build(watched(config, read));
  refuseExperts(config, read);
  const storage = storageOf(module, own, dtype);
  if (own === quantization && storage.selective) unusedPatterns(module, storage.selective);
  const stored = schemeBytes(module, storage);
  if (!own && (await storedPacked(config.quantization_config, "config.json"))?.name === "mxfp4") {
    const scheme = codesScheme({
      kind: "e2m1",
      blocksize: MXFP4_BLOCK,
      compute: computeFor(dtype),
      zero_points: false,
    });
    // What its files hold so: the experts (transformers packs nothing else).
    for (const one of module.parameters()) {
      if (one instanceof Matrix && one.experts > 1) stored.set(one, scheme.bytes(one.shape, one.experts));
    }
  }
  return new MetaModel({ module, config, task, dtype, quantization: own, stored });
}

/** A declared model, what its files say of it, and what a caller should know. */
export interface MetaFiles<T extends Task> {
  readonly model: MetaModel<T>;
  readonly warnings: readonly string[];
}

/**
 * Declares the model of a folder, which may hold config.json alone; headers of weights are read if they are there, except with "none".
 * @throws what loading would throw before it reads a weight
 */
export async function metaFiles<T extends Task>(
  source: Source,
  taskOf: (config: ConfigJson) => Promise<T>,
  weights: "if there" | "none",
  { dtype: wanted = "auto", quantization, files }: MetaOptions = {},
): Promise<MetaFiles<T>> {
  const config = await readConfigJson(source);
  const task = await taskOf(config);
  if (weights === "none" || !(await weightsThere(source, config, files))) {
    const { ignored } = await declareTree(source, config, task);
    return {
      model: await metaModel(config, task, { dtype: wanted, quantization }),
      warnings: ignored ? [ignored] : [],
    };
  }
  const declared = await declareModel(source, config, task, wanted, files);
  const { model: module, architecture, checkpoint, dtype, stored: codes, ignored } = declared;
  const own = codes ?? quantization;
  const chosen = storageOf(module, own, dtype);
  const { skip, selective } = chosen;
  const storage = codes ? { ...chosen, scheme: undefined, skip: null, stored: storedSchemes(codes) } : chosen;
  const { items } = plan(module, architecture, checkpoint, storage);
  const model = new MetaModel({ module, config, task, dtype, quantization: own, stored: itemBytes(items, dtype) });
  const unknown = codes ? [] : unknownModules(module, skip ?? []);
  const unused = selective && !codes ? unusedPatterns(module, selective) : undefined;
  const warnings = [...checkpoint.warnings, ...(ignored ? [ignored] : []), ...(unused ? [unused] : [])];
  if (unknown.length > 0) warnings.push(`llm_int8_skip_modules matches no module of this model: ${unknown.join(", ")}`);
  return { model, warnings };
}

/** Bytes of planned parameters that are not plain elements of the dtype. */
function itemBytes(items: readonly PlanItem[], dtype: FloatDType): Map<Parameter | Matrix, number> {
  const stored = new Map<Parameter | Matrix, number>();
  for (const item of items) {
    const bytes = storedBytes(item, dtype);
    if (bytes !== plainBytes(item.parameter, dtype)) stored.set(item.parameter, bytes);
  }
  return stored;
}

/** The model of a load whose weights are not read yet. */
export function metaOf<T extends Task>(prepared: Prepared<T>, task: T): MetaModel<T> {
  const { model: module, config, dtype, quantization, planned } = prepared;
  return new MetaModel({ module, config, task, dtype, quantization, stored: itemBytes(planned.items, dtype) });
}

const EMPTY_WEIGHTS = {
  /** No effect: constants are made when a device needs them. */
  include_buffers: flag(),
};

/**
 * Python's way to declare a model without weights: `using _ = init_empty_weights()`, or a function that declares it. A declared model
 * never has weights here (`from_config`), with this or without.
 * @returns what the function returns; else what `using` takes
 * @throws OptionError
 */
export function init_empty_weights<R>(body: () => R): R;
export function init_empty_weights(options?: Options<typeof EMPTY_WEIGHTS>): Disposable;
export function init_empty_weights(given: unknown = {}): unknown {
  if (isFunction(given)) return (given as () => unknown)();
  readOptions("init_empty_weights", EMPTY_WEIGHTS, given);
  return { [Symbol.dispose]() {} };
}
