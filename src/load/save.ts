// Writes a loaded model as transformers and bitsandbytes do: the same names, dtypes, shapes and bytes of tensors, the same
// config.json. Weights are read from the device one tensor at a time.

import type { FolderFiles, FolderWriter } from "../checkpoints/folder.js";
import { elementsOf, STORED_BITS } from "../checkpoints/stored.js";
import { parseDType, torchName } from "../core/dtype.js";
import { FormatError, OctavoError, OptionError, throwIfAborted } from "../core/errors.js";
import { readOptions } from "../core/options.js";
import type { PushWritten } from "../hub/push-options.js";
import type { Architecture, ConfigJson } from "../nn/architecture.js";
import type { Model } from "../nn/model.js";
import { Matrix } from "../nn/module.js";
import type { FloatDType, WeightPart } from "../nn/weight.js";
import { BitsAndBytesConfig } from "../quant/config.js";
import { codesConfig, type Quantization, quantizationJson, selectiveJson, storedQuantization } from "../quant/index.js";
import { isCodes, SelectiveConfig } from "../quant/selective.js";
import { editJson } from "../sources/json-edit.js";
import { filesBelow, MODEL_FILES } from "../sources/model-files.js";
import { type Source, withFile } from "../sources/source.js";
import { describeStored } from "./described.js";
import { choicesOf, oneScheme } from "./linears.js";
import type { SourceOptions } from "./options.js";
import { publishedParameters, storedParts } from "./published.js";
import { SAVE, type SaveOptions } from "./save-options.js";
import { bytesOf } from "./sizes.js";

/** What was written. */
export interface Saved {
  /** Names of the files, in the order in which they were written. */
  readonly files: readonly string[];
  /** Bytes of the weights. */
  readonly bytes: number;
  /** Oddities that are not errors. */
  readonly warnings: readonly string[];
}

/** Where a model came from, for what is saved beside its weights. */
export interface Origin {
  /** The text of config.json. */
  readonly config: string;
  /** The name that it was loaded by. */
  readonly name?: string | undefined;
  /** Opens the folder again. */
  reopen(): Promise<Source>;
  /** Opens another folder, by any name that the platform has. */
  source?(model: string, options: SourceOptions): Promise<Source>;
  /** Absent where a program cannot write files. */
  readonly folders?: FolderWriter | undefined;
  /** Uploads what is saved; absent where a program cannot write files. */
  readonly push?: PushWritten | undefined;
}

/** What saving needs of a loaded model. */
export interface Savable {
  readonly model: Model;
  /** The fields of config.json. */
  readonly config: ConfigJson;
  readonly architecture: Architecture;
  readonly dtype: FloatDType;
  readonly quantization: Quantization | undefined;
  readonly origin: Origin;
  /** Its tokens, if there are no longer as many as in the file. */
  readonly vocab_size?: number | undefined;
}

/**
 * The files of weights that a save replaces: those of the same variant, whatever the number of shards, and their index, which would
 * name files that are gone. Weights of other variants stay.
 */
export function weightsOf(variant: string | undefined): (name: string) => boolean {
  const word = variant?.replaceAll(".", "\\.");
  const [inner, end] = word === undefined ? ["", ""] : [`\\.${word}`, `${word}\\.`];
  const shard = "-\\d{5}-of-\\d{5}";
  // Older programs put the variant behind the number.
  const name = new RegExp(
    `^model(${inner}(${shard})?\\.safetensors|${shard}${inner}\\.safetensors|\\.safetensors\\.index\\.${end}json)$`,
  );
  return (file) => name.test(file);
}

/** @throws OctavoError where files cannot be written */
function writerOf({ folders }: Pick<Origin, "folders">, what: string): FolderWriter {
  if (folders) return folders;
  throw new OctavoError("ERR_UNSUPPORTED", `${what} writes a folder, which a page cannot do`, {
    hint: "state_dict() gives the tensors, to be sent or stored where the page likes",
  });
}

/**
 * Saves a model into a folder: weights, config.json, and the files beside them that its tokenizer, its processors and
 * generation read. The folder changes as a whole (see FolderWriter).
 * @throws OptionError for options and for weights that no quantization_config describes; AbortError; OctavoError in a page;
 * FileError
 */
export async function saveModel(loaded: Savable, folder: string, given: SaveOptions): Promise<Saved> {
  const options = readOptions("save_pretrained", SAVE, given);
  const writer = writerOf(loaded.origin, "save_pretrained");
  throwIfAborted(options.signal, "saving");
  // Linears may have been replaced since it was loaded.
  const quantization = loaded.quantization ?? describeStored(loaded.model, loaded.dtype);
  const model = { ...loaded, quantization };
  const quantized = checkSchemes(model);
  const files = await companions(model.origin);
  const parts: WeightPart[] = [];
  for (const one of publishedParameters(model.model, model.architecture)) {
    parts.push(...(await storedParts(model.model, one, model.dtype)));
  }
  const shards = groupsOf(parts, (part) => sizeOf([part]), bytesOf(options.max_shard_size ?? "50GB")!);
  const { files: names, index } = shardNames(shards.length, options.variant);
  const written: string[] = [];
  await writer.replace(folder, weightsOf(options.variant), async (out) => {
    for (const [i, shard] of shards.entries()) await writeShard(out, names[i]!, shard, options.signal);
    written.push(...names);
    if (shards.length > 1) {
      await out.bytes(index, new TextEncoder().encode(indexJson(shards, names)));
      written.push(index);
    }
    written.push(
      ...(await writeRest(out, configOf({ ...model, config_text: model.origin.config }, quantized), files.contents)),
    );
  });
  return { files: written, bytes: sizeOf(parts), warnings: files.warnings };
}

/** The method that config.json names for the codes of its files. */
function methodOf({ quantization_config: block }: ConfigJson): unknown {
  return typeof block === "object" && block !== null ? (block as ConfigJson).quant_method : undefined;
}

/** Every matrix must be stored as quantization_config says. @returns whether any is quantized */
function checkSchemes(savable: Savable): boolean {
  const { model, architecture, quantization, config } = savable;
  if (SelectiveConfig.is(quantization)) return checkChoices(savable, quantization);
  const method = quantization?.quantization_method();
  // Codes that the file held in its own format go back into it.
  const own = quantization === undefined && methodOf(config) === "mxfp4" ? "e2m1" : undefined;
  const skips = BitsAndBytesConfig.is(quantization) && quantization.llm_int8_skip_modules !== null;
  let quantized = false;
  for (const { name, parameter } of publishedParameters(model, architecture)) {
    if (!(parameter instanceof Matrix) || parameter.weight.scheme === "dense") continue;
    quantized = true;
    if (parameter.weight.scheme === own) continue;
    if (parameter.weight.scheme === method && parameter !== model.output_embeddings()?.weight) continue;
    if (parameter.weight.scheme === method && skips) continue;
    const { scheme } = parameter.weight;
    throw new OptionError(`${name} is stored as ${scheme}, which no quantization_config of bitsandbytes can say`, {
      hint: /^(int4|e2m1)$/.test(scheme)
        ? "dequantize() turns it into floats; with load_in_8bit or load_in_4bit it is loaded as bitsandbytes has it"
        : "load the model without head_dtype to save it",
    });
  }
  return quantized;
}

/** Every linear must be stored as a SelectiveConfig says, unless all are floats again (`dequantize`). @returns whether they are codes */
function checkChoices({ model, dtype }: Savable, config: SelectiveConfig): boolean {
  const choices = choicesOf(model, config);
  if (choices.every(({ linear }) => linear.weight.inner?.scheme === "dense"))
    return choices.every(({ scheme }) => !isCodes(scheme));
  for (const { path, linear, scheme } of choices) {
    const { inner } = linear.weight;
    const is = inner?.scheme === "dense" ? inner.tensors[0]?.dtype : inner?.scheme;
    const wanted = isCodes(scheme)
      ? codesConfig(config, scheme).quantization_method()
      : scheme === "auto"
        ? dtype
        : scheme;
    if (is === wanted || inner === undefined) continue;
    throw new OptionError(`${path} is stored as ${is}, but the model's quantization_config says ${scheme}`, {
      hint: "save it as it was loaded",
    });
  }
  return true;
}

/** config.json of a model as it is now. @param quantized whether any matrix is */
export function configOf(
  {
    config,
    config_text,
    dtype,
    quantization,
    model,
    vocab_size,
  }: Pick<Savable, "config" | "dtype" | "quantization" | "model" | "vocab_size"> & { readonly config_text: string },
  quantized: boolean,
): string {
  const key = config.dtype === undefined && config.torch_dtype !== undefined ? "torch_dtype" : "dtype";
  const named = config[key];
  const changes: Record<string, unknown> = {};
  if (typeof named !== "string" || parseDType(named) !== dtype) changes[key] = torchName(dtype);
  if (vocab_size !== undefined) changes.vocab_size = vocab_size;
  // The weights now have their usual names.
  if (config.transformers_weights !== undefined) changes.transformers_weights = undefined;
  // What the file says of its own codes stays.
  if (!quantized) changes.quantization_config = undefined;
  else if (quantization && !storedQuantization(config.quantization_config, "config.json"))
    changes.quantization_config = SelectiveConfig.is(quantization)
      ? selectiveJson(quantization, dtype, oneScheme(model, quantization, config.tie_word_embeddings !== false))
      : quantizationJson(quantization, dtype);
  return editJson(config_text, changes);
}

/** Groups of at most `most` bytes, filled in order one after the other; what is larger gets a group for itself. */
export function groupsOf<T>(items: readonly T[], bytesOf: (item: T) => number, most: number): T[][] {
  const groups: T[][] = [];
  let current: T[] = [];
  let size = 0;
  for (const item of items) {
    const bytes = bytesOf(item);
    if (bytes > most) {
      groups.push([item]);
      continue;
    }
    if (size + bytes > most) {
      groups.push(current);
      current = [];
      size = 0;
    }
    current.push(item);
    size += bytes;
  }
  if (current.length > 0) groups.push(current);
  return groups;
}

/** Bytes of tensors in a file. */
export function sizeOf(parts: readonly Pick<WeightPart, "dtype" | "shape">[]): number {
  return parts.reduce((sum, { dtype, shape }) => sum + (elementsOf(shape) * STORED_BITS.get(dtype)!) / 8, 0);
}

/** Names of the files of weights, as transformers gives them. */
export function shardNames(count: number, variant: string | undefined): { files: string[]; index: string } {
  const base = variant === undefined ? "model" : `model.${variant}`;
  const number = (n: number): string => String(n).padStart(5, "0");
  const files = Array.from({ length: count }, (_, i) => `${base}-${number(i + 1)}-of-${number(count)}.safetensors`);
  const index = `model.safetensors.index.${variant === undefined ? "" : `${variant}.`}json`;
  return { files: count === 1 ? [`${base}.safetensors`] : files, index };
}

/** The index of several shards, as transformers writes it. */
export function indexJson(shards: readonly (readonly Omit<WeightPart, "bytes">[])[], files: readonly string[]): string {
  const entries = shards.flatMap((parts, i) => parts.map(({ name }) => [name, files[i]!] as const));
  entries.sort(([a], [b]) => (a < b ? -1 : 1));
  const metadata = { total_size: sizeOf(shards.flat()) };
  return `${JSON.stringify({ metadata, weight_map: Object.fromEntries(entries) }, undefined, 2)}\n`;
}

/** Writes one file of weights. */
export async function writeShard(
  out: FolderFiles,
  name: string,
  parts: readonly WeightPart[],
  signal: AbortSignal | undefined,
): Promise<void> {
  const tensors = parts.map(({ bytes, ...part }) => ({
    ...part,
    data: () => {
      throwIfAborted(signal, "saving");
      return bytes();
    },
  }));
  await out.tensors(name, tensors, { format: "pt" });
}

/** config.json and the files beside it. */
export async function writeRest(
  out: FolderFiles,
  config: string,
  contents: ReadonlyMap<string, Uint8Array>,
): Promise<string[]> {
  const written: string[] = [];
  for (const [name, content] of [...contents, ["config.json", new TextEncoder().encode(config)] as const]) {
    await out.bytes(name, content);
    written.push(name);
  }
  return written;
}

/** What the folder of a model holds beside config.json and weights. */
interface Companions {
  readonly contents: ReadonlyMap<string, Uint8Array>;
  readonly warnings: readonly string[];
}

/** Larger files are no files of tokenizers. */
const MOST = 256 * 2 ** 20;

/** Reads the small files of the folder that a model came from. A folder that has gone is a warning: its weights are here. */
async function companions({ reopen }: Pick<Origin, "reopen">): Promise<Companions> {
  let source: Source;
  try {
    source = await reopen();
  } catch (error) {
    if (!(error instanceof OctavoError)) throw error;
    return {
      contents: new Map(),
      warnings: [`files of the tokenizer and of generation are not saved: ${error.message}`],
    };
  }
  try {
    return await filesBeside(source);
  } finally {
    await source.close();
  }
}

/**
 * The small files of a model's folder by name.
 * @throws FormatError for one that is too large to be what its name says: a part of it would be no copy
 */
export async function filesBeside(source: Source): Promise<Companions> {
  const contents = new Map<string, Uint8Array>();
  const warnings: string[] = [];
  const there = await source.names(MODEL_FILES);
  const below = await filesBelow(source, there, (message) => warnings.push(message));
  for (const name of [...MODEL_FILES.filter((one) => there.has(one)), ...below]) {
    const path = source.path(name);
    const content = await withFile(source, path, "file", (file) => {
      if (file.size <= MOST) return file.read(0, file.size);
      throw new FormatError(`${path}: ${file.size} bytes, at most ${MOST} are saved beside the weights`, {
        details: { file: path, expected: MOST, got: file.size },
        hint: "move the file out of the model's folder, and copy it by hand if it is needed",
      });
    });
    contents.set(name, content);
  }
  return { contents, warnings };
}
