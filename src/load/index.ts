// The loading part of from_pretrained: a folder becomes a filled module tree. Everything that can be wrong is found before
// the first weight is read.

import { type Checkpoint, hasWeights, openCheckpoint } from "../checkpoints/checkpoint.js";
import type { PackedFormat } from "../checkpoints/packed/format.js";
import type { Device } from "../core/device.js";
import { DTYPE_SPELLINGS, parseDType, torchName } from "../core/dtype.js";
import { CheckpointError, ConfigError, NotFoundError, OptionError, suggestion } from "../core/errors.js";
import { listed, show } from "../core/show.js";
import { architectureOf, taskOf } from "../models/index.js";
import type { Architecture, ConfigJson, Task, TaskModels } from "../nn/architecture.js";
import { Matrix } from "../nn/module.js";
import { computeFor, type FloatDType, type Scheme } from "../nn/weight.js";
import type { Compute } from "../ops/linear.js";
import { BitsAndBytesConfig } from "../quant/config.js";
import {
  agree,
  type Quantization,
  schemeOf,
  storedExact,
  storedPacked,
  storedQuantization,
  storedSchemes,
} from "../quant/index.js";
import { SelectiveConfig } from "../quant/selective.js";
import { readJsonFile, readJsonText } from "../sources/json.js";
import { editJson } from "../sources/json-edit.js";
import type { Source } from "../sources/source.js";
import { type AttnImplementation, checkFlash } from "./attn-implementation.js";
import { generationOf, ignoredKeys, refuseExperts, watched } from "./config-keys.js";
import { fill, type ProgressEvent, type SpreadModel } from "./fill.js";
import { withLanguage } from "./language.js";
import { unusedPatterns } from "./linears.js";
import type { WeightsOptions } from "./options.js";
import { checkStored, type Plan, plan } from "./plan.js";
import type { Origin } from "./save.js";
import { type SentenceEmbedding, sentenceEmbedding } from "./sentence.js";
import { type StorageOptions, settle, unknownModules, untieHead, wantsOwnHead } from "./storage.js";
import { ownHead, shareMissingHead } from "./tied.js";

export interface LoadOptions {
  /** Where the whole model goes; or what spreads a prepared one over devices. */
  readonly device: Device | ((prepared: Prepared<Task>) => Promise<SpreadModel>);
  /** The model's name in progress reports. */
  readonly name: string;
  /** "auto" (the checkpoint's own) or a float dtype in any of the field's spellings. */
  readonly dtype: string;
  readonly quantization: Quantization | undefined;
  /** How matrices that stay dense are multiplied; by default as the dtype implies (see `denseScheme`). */
  readonly compute?: Compute;
  /** How the output head is stored; by default like the rest, or in full precision if the rest is quantized. */
  readonly head?: Scheme;
  /** Instead of the folder's config.json. */
  readonly config?: ConfigJson;
  /** As if config.json said so. */
  readonly attn_implementation?: AttnImplementation | undefined;
  /** Which weight files are read. */
  readonly weights?: WeightsOptions;
  readonly progress_callback?: (event: ProgressEvent) => void;
  readonly signal?: AbortSignal;
}

export interface Loaded<T extends Task = "causal-lm"> {
  readonly model: TaskModels[T];
  readonly architecture: Architecture;
  /** What its class is for. */
  readonly task: T;
  /** How its linears are quantized, if they are. */
  readonly quantization: Quantization | undefined;
  readonly config: ConfigJson;
  /** The text of config.json. */
  readonly config_text: string;
  /** Where it came from, for saving. */
  readonly origin?: Origin;
  /** generation_config.json, or what config.json says of generation */
  readonly generation_config: ConfigJson;
  readonly dtype: FloatDType;
  /** Bytes of the checkpoint's tensors that the model uses. */
  readonly checkpoint_bytes: number;
  /** Oddities that are not errors: unexpected tensors, a wrong total size. */
  readonly warnings: readonly string[];
  /** How products with floats may round, and how attention is computed, if the caller chose it. */
  readonly compute?: Compute | undefined;
  readonly attn_implementation?: AttnImplementation | undefined;
  /** The devices, if they are several. */
  readonly spread?: SpreadModel;
  /** How a vector for a text is made; for the task `base`, if the folder says it. */
  readonly sentence?: SentenceEmbedding;
}

/** config.json of a model folder. @throws NotFoundError, FormatError */
export async function readConfigJson(source: Source): Promise<ConfigJson> {
  return (await readConfig(source)).json;
}

/** config.json of a model folder, and its text. @throws NotFoundError, FormatError */
export async function readConfig(source: Source): Promise<{ readonly json: ConfigJson; readonly text: string }> {
  return readJsonText(source, source.path("config.json"), { what: "config.json", python: true });
}

/**
 * The dtype that the caller or config.json names; undefined if neither does.
 * @throws OptionError, ConfigError for an unknown spelling
 */
export function configDType(dtype: string, config: ConfigJson): FloatDType | undefined {
  if (dtype !== "auto") {
    const parsed = parseDType(dtype);
    if (parsed) return parsed;
    throw new OptionError(`dtype must be "auto" or one of ${DTYPE_SPELLINGS.join(", ")}, got ${show(dtype)}`, {
      hint: /^(int8|q8|nf4|fp4|q4|bnb4)$/.test(dtype) ? "8 and 4 bits are load_in_8bit and load_in_4bit" : undefined,
    });
  }
  const named = config.dtype ?? config.torch_dtype;
  if (named !== undefined && named !== null) {
    const parsed = typeof named === "string" ? parseDType(named) : undefined;
    if (!parsed) {
      throw new ConfigError(`config.json: unknown dtype ${show(named)}`, {
        hint: `pass dtype: one of ${DTYPE_SPELLINGS.join(", ")}`,
      });
    }
    return parsed;
  }
  return undefined;
}

/** The dtype for this checkpoint. @throws OptionError, ConfigError for an unknown spelling */
function resolveDType(dtype: string, config: ConfigJson, checkpoint: Checkpoint): FloatDType {
  const named = configDType(dtype, config);
  if (named) return named;
  for (const { dtype: stored, packed } of checkpoint.tensors.values()) {
    if (packed) continue;
    if (stored === "F32" || stored === "F16" || stored === "BF16") return parseDType(stored.toLowerCase())!;
  }
  return "f32";
}

/** The tree that a config.json declares. */
export interface DeclaredTree<T extends Task> {
  readonly config: ConfigJson;
  readonly architecture: Architecture;
  readonly model: TaskModels[T];
  /** How the checkpoint is quantized, if it is. */
  readonly stored: Quantization | undefined;
  /** Names the keys of config.json that the tree was built without. */
  readonly ignored: string | undefined;
}

/** A declared model before loading: the tree, and where its tensors lie. */
export interface Declared<T extends Task> extends DeclaredTree<T> {
  readonly checkpoint: Checkpoint;
  readonly dtype: FloatDType;
  /** How others have packed its matrices, if they have. */
  readonly packed: PackedFormat | undefined;
}

/** Declares the tree of a config.json for a task; allocates nothing. @throws ConfigError, UnsupportedModelError */
export async function declareTree<T extends Task>(
  source: Source,
  config: ConfigJson,
  task: T,
): Promise<DeclaredTree<T>> {
  const architecture = await architectureOf(config);
  const build = taskOf(architecture, task);
  const stored = storedQuantization(config.quantization_config, source.location);
  const read = new Set<string>();
  const model = build(watched(config, read));
  refuseExperts(config, read);
  return { config, architecture, model, stored, ignored: ignoredKeys(config, read) };
}

/** False if the folder of a config.json holds none of the weights that would be loaded. */
export function weightsThere(source: Source, config: ConfigJson, { variant }: WeightsOptions = {}): Promise<boolean> {
  return hasWeights(source, { variant, named: config.transformers_weights });
}

/**
 * Reads the headers of a model folder and declares the tree for a task; allocates nothing on any device.
 * @param config the folder's config.json
 * @throws ConfigError, UnsupportedModelError, NotFoundError, FormatError, OptionError (an unknown dtype)
 */
export async function declareModel<T extends Task>(
  source: Source,
  config: ConfigJson,
  task: T,
  wanted: string,
  weights: WeightsOptions = {},
): Promise<Declared<T>> {
  const { target_lang, ...files } = weights;
  const named = { ...files, named: config.transformers_weights };
  if (target_lang !== undefined) {
    await declareTree(source, config, task); // what is wrong without a language comes first
    const own = await withLanguage(await openCheckpoint(source, named), config, target_lang, files);
    const tree = await declareTree(source, own.config, task);
    return { ...tree, ...own, dtype: resolveDType(wanted, config, own.checkpoint), packed: undefined };
  }
  const tree = await declareTree(source, config, task);
  const format = await storedPacked(config.quantization_config, source.location);
  const opened = await openCheckpoint(source, named);
  if (!format) return { ...tree, checkpoint: opened, dtype: resolveDType(wanted, config, opened), packed: undefined };
  const { unpackCheckpoint } = await import("../checkpoints/packed/index.js");
  const { checkpoint, matrices } = unpackCheckpoint(opened, format);
  if (matrices === 0) throw notQuantized(source, format.name);
  return { ...tree, checkpoint, dtype: resolveDType(wanted, config, checkpoint), packed: format };
}

/** A model whose files are checked: what remains is to read its weights. */
export interface Prepared<T extends Task> extends Declared<T> {
  readonly planned: Plan;
  /** How its linears are quantized, if they are. */
  readonly quantization: Quantization | undefined;
  /** The text of config.json. */
  readonly config_text: string;
  /** generation_config.json, or what config.json says of generation */
  readonly generation_config: ConfigJson;
  readonly sentence: SentenceEmbedding | undefined;
  readonly warnings: readonly string[];
}

/** The options of a load that decide what is read, and how it is stored. */
export type StorageChoice = Pick<
  LoadOptions,
  "config" | "dtype" | "quantization" | "compute" | "head" | "attn_implementation" | "weights"
>;

/**
 * Finds everything that can be wrong before the first weight is read; allocates nothing on any device.
 * @param task or what finds it from config.json
 * @throws ConfigError, UnsupportedModelError, NotFoundError, FormatError, CheckpointError, OptionError
 */
export async function prepareModel<T extends Task>(
  source: Source,
  task: T | ((config: ConfigJson) => Promise<T>),
  options: StorageChoice,
): Promise<Prepared<T>> {
  const { quantization, compute, head, attn_implementation } = options;
  const { json: file, text: config_text } = options.config
    ? { json: options.config, text: JSON.stringify(options.config, null, 2) }
    : await readConfig(source);
  const config = attn_implementation === undefined ? file : { ...file, attn_implementation };
  const purpose = typeof task === "function" ? await task(config) : task;
  // Small files first: a server without ranges may have no connection to spare once the weights are open.
  const generation_config = (await optionalJson(source, "generation_config.json")) ?? generationOf(file);
  const oddities: string[] = [];
  const sentence = purpose === "base" ? await sentenceEmbedding(source, (oddity) => oddities.push(oddity)) : undefined;
  const declared = await declareModel(source, config, purpose, options.dtype, options.weights);
  const { vocab_size } = declared.config;
  const spelled = vocab_size === config.vocab_size ? config_text : editJson(config_text, { vocab_size });
  const { architecture, model, checkpoint, dtype, stored, ignored } = declared;
  if (attn_implementation === "flash_attention_2") {
    // transformers computes in f16 what is quantized, unless a dtype is asked for.
    checkFlash(model.class_name, dtype, options.dtype === "auto" && (quantization ?? stored) !== undefined);
  }
  const scheme = stored ? undefined : schemeOf(quantization, compute ?? computeFor(dtype));
  const skip = (scheme && BitsAndBytesConfig.is(quantization) && quantization.llm_int8_skip_modules) || null;
  // A caller that asks for float32 does not want products in the checkpoint's bnb_4bit_compute_dtype.
  const exact = options.dtype !== "auto" && dtype === "f32" && !quantization?.given.has("bnb_4bit_compute_dtype");
  const agreed = stored && agree(stored, quantization, source.location);
  const chosen = agreed ?? quantization;
  const selective = SelectiveConfig.is(chosen) ? chosen : undefined;
  const asked: StorageOptions = {
    ...{ dtype, scheme, skip, selective, compute, head },
    stored:
      agreed && storedSchemes(agreed, exact, storedExact(config.quantization_config), compute ?? computeFor(dtype)),
  };
  shareMissingHead(model, architecture, checkpoint, asked);
  const apart = wantsOwnHead(model, selective, dtype);
  const own = apart ? undefined : await ownHead(model, architecture, checkpoint, asked);
  const storage: StorageOptions = { ...asked, shared: head || own || apart ? untieHead(model) : undefined };
  const planned = plan(model, architecture, checkpoint, storage);
  if (stored && selective) checkStored(model, selective, planned);
  if (stored && !planned.items.some(({ parts }) => parts.some((part) => part.stored))) {
    throw notQuantized(source, stored.quantization_method()!);
  }
  const warnings = [...checkpoint.warnings, ...(ignored ? [ignored] : []), ...model.notes, ...oddities];
  if (own) {
    warnings.push(
      `config.json says tie_word_embeddings, but ${own} differs from ${storage.shared}: the file's own ${own} is used`,
    );
  }
  const unused = selective && !stored ? unusedPatterns(model, selective) : undefined;
  if (unused) warnings.push(unused);
  const unknown = unknownModules(model, skip ?? []);
  if (unknown.length > 0) {
    const names = [...model.named_modules()].flatMap(([path]) => path.split(".").at(-1)!);
    const near = suggestion(unknown[0]!, [...new Set(names)]);
    warnings.push(
      `llm_int8_skip_modules matches no module of this model: ${listed(unknown)}${near ? `; did you mean ${near}?` : ""}`,
    );
  }
  if (planned.unexpected.length > 0) {
    warnings.push(
      `${planned.unexpected.length} tensors of the checkpoint were not used, such as ${listed(planned.unexpected, 3)}`,
    );
  }
  return {
    ...declared,
    planned,
    quantization: chosen,
    config_text: spelled,
    generation_config,
    sentence,
    warnings,
  };
}

/**
 * Loads a model for a task from a folder, quantizing while it reads.
 * @throws ConfigError, UnsupportedModelError, NotFoundError, FormatError, CheckpointError, OutOfMemoryError, AbortError
 */
export async function loadModel<T extends Task>(source: Source, task: T, options: LoadOptions): Promise<Loaded<T>> {
  const { device: where, compute } = options;
  const prepared = await prepareModel(source, task, options);
  const { model, architecture, planned, dtype, quantization, sentence } = prepared;
  const spread = typeof where === "function" ? await where(prepared) : undefined;
  const device = spread?.main ?? (where as Device);
  try {
    await fill(device, planned, { ...options, dtype, destination: spread });
    settle(device, model, compute ?? computeFor(dtype));
    spread?.finish(model);
  } catch (error) {
    model.dispose();
    await spread?.close();
    throw error;
  }
  const { config, config_text, generation_config } = prepared;
  const warnings = [...prepared.warnings, ...packedNote(prepared), ...(spread?.warnings ?? [])];
  return {
    ...{ model, architecture, task, quantization, config, config_text, generation_config, dtype, warnings },
    checkpoint_bytes: planned.bytes,
    ...{ compute, attn_implementation: options.attn_implementation },
    ...(sentence ? { sentence } : {}),
    ...(spread ? { spread } : {}),
  };
}

/** What became of the matrices that others had packed: one line. */
function packedNote({ planned, packed, quantization, dtype }: Prepared<Task>): string[] {
  if (!packed) return [];
  const matrices = planned.items.filter(({ parts }) => parts.some(({ from }) => from.packed));
  const kept = matrices.filter(
    ({ parameter }) => parameter instanceof Matrix && /^(int4|e2m1)$/.test(parameter.weight.scheme),
  );
  const decoded = `decoded into ${quantization?.quantization_method() ?? torchName(dtype)}`;
  if (kept.length === 0) return [`the file's matrices (${packed.name}) are ${decoded}`];
  if (kept.length === matrices.length) return [`the file's matrices (${packed.name}) are kept in 4 bits`];
  return [
    `${kept.length} of the file's ${matrices.length} matrices (${packed.name}) are kept in 4 bits; the others are ${decoded}`,
  ];
}

function notQuantized({ location }: Source, how: string): CheckpointError {
  return new CheckpointError(`${location}: config.json says ${how}, but no tensor is quantized that way`, {
    hint: "remove quantization_config from config.json, and load with load_in_8bit or load_in_4bit",
  });
}

async function optionalJson(source: Source, name: string): Promise<ConfigJson | undefined> {
  if (!(await source.names([name])).has(name)) return undefined;
  try {
    return await readJsonFile(source, source.path(name), { what: name, python: true });
  } catch (error) {
    if (error instanceof NotFoundError) return undefined; // a link to nothing
    throw error;
  }
}
