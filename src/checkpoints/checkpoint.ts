// Opens a checkpoint: finds its weight files and the place of every tensor, without reading a weight. It does not know models
// (it renames no keys; the loader handles missing ones) and does not download.

import { checkOptions, FormatError, NotFoundError, type OctavoError, OptionError } from "../core/errors.js";
import { listed, show } from "../core/show.js";
import { quote } from "../sources/files.js";
import { readSmall } from "../sources/json.js";
import type { Source } from "../sources/source.js";
import { badShardName, INDEX_WHAT, parseIndex, type ShardIndex, type WeightsEnd } from "./index-file.js";
import { MAX_HEADER_BYTES, readSafetensorsHeader } from "./safetensors.js";
import { elementsOf, STORED_BITS, type StoredHeader, type StoredTensor } from "./stored.js";

export interface CheckpointOptions {
  /** As in transformers: "fp16" reads model.fp16.safetensors or model.safetensors.index.fp16.json, and so on. */
  readonly variant?: string | undefined;
  /** As in transformers: true reads safetensors only, false .bin only; by default safetensors are preferred. */
  readonly use_safetensors?: boolean | undefined;
  /**
   * `transformers_weights` of config.json: the weights' file or index, instead of model.safetensors. It comes from the model,
   * so it may be anything.
   */
  readonly named?: unknown;
}

/** Where the tensors of a checkpoint lie. Nothing is held open. */
export interface Checkpoint {
  readonly source: Source;
  /** Weight files as paths, in the order of their names. */
  readonly files: readonly string[];
  /** Every tensor by its name in the file, in the order of files and data. */
  readonly tensors: ReadonlyMap<string, StoredTensor>;
  /** `__metadata__` of the files; for a key that differs between shards, the first shard's value. */
  readonly metadata: ReadonlyMap<string, string>;
  /** Bytes of all tensors; those of several names count once. */
  readonly totalBytes: number;
  /** Oddities of the checkpoint that are not errors. */
  readonly warnings: readonly string[];
}

/** A format of weight files: the names of a single file and of the index of several, and how one is read. */
interface Format {
  readonly single: string;
  readonly index: string;
  readonly end: WeightsEnd;
  readonly read: (source: Source, file: string) => Promise<StoredHeader>;
}

const SAFETENSORS: Format = {
  single: "model.safetensors",
  index: "model.safetensors.index.json",
  end: ".safetensors",
  read: readSafetensorsHeader,
};
const BIN: Format = {
  single: "pytorch_model.bin",
  index: "pytorch_model.bin.index.json",
  end: ".bin",
  // Most checkpoints are safetensors, and never load this reader.
  read: async (source, file) => (await import("./torch.js")).readTorchHeader(source, file),
};
/** The preferred one first. */
const FORMATS = [SAFETENSORS, BIN];
const KNOWN_FORMATS = ["pt", "np", "tf", "flax", "mlx"];
// Enough to hide latency; more would only hold more headers at once.
const HEADERS_AT_ONCE = 8;

/** Puts the variant before the last extension, as transformers does. */
function withVariant(name: string, variant: string | undefined): string {
  const dot = name.lastIndexOf(".");
  return variant === undefined ? name : `${name.slice(0, dot)}.${variant}${name.slice(dot)}`;
}

/** Ends of the names of files that hold weights, in any format. */
const WEIGHTS = /\.(safetensors(\.index\.json)?|bin(\.index\.json)?|h5|msgpack|gguf|onnx|pth?)$/;

/** What trainers and adapters leave beside weights, by the same ends of names. */
const NOT_WEIGHTS = /^(training_args|optimizer|scheduler|scaler|rng_state[\w-]*|adapter_model)\./;

/** True for the name of a file of a model's weights, in any format. */
function isWeights(name: string): boolean {
  return WEIGHTS.test(name) && !NOT_WEIGHTS.test(name);
}

type Choice = Pick<CheckpointOptions, "variant" | "use_safetensors">;

function formatsOf({ use_safetensors }: Choice): Format[] {
  return FORMATS.filter((format) => use_safetensors === undefined || use_safetensors === (format === SAFETENSORS));
}

/** Names that one of the formats gives to weights: of a single file, and of an index. */
function namesOf(formats: readonly Format[], variant?: string): string[] {
  return formats.flatMap(({ single, index }) => [withVariant(single, variant), withVariant(index, variant)]);
}

/** Beginnings of a checkpoint: names for each format, the preferred one first. */
export function weightFiles(choice: Choice = {}): string[][] {
  return formatsOf(choice).map((format) => namesOf([format], choice.variant));
}

/** Names of the file with a language's parts of a model of many, the preferred one first. */
export function languageFiles(language: string, { use_safetensors }: Pick<Choice, "use_safetensors"> = {}): string[] {
  return formatsOf({ use_safetensors }).map(({ end }) => `adapter.${language}${end}`);
}

/**
 * Files of a folder, and of those below it where the source knows them, that hold weights in any format. A source that cannot
 * list a folder is asked for the usual names.
 */
export async function allWeights(source: Source, variant?: string): Promise<string[]> {
  const usual = [...namesOf(FORMATS, variant), ...namesOf(FORMATS)];
  const names = new Set([...(await source.names(usual)), ...((await source.all?.()) ?? [])]);
  return [...names].filter(isWeights).sort();
}

/**
 * False if a folder itself holds no weights in any format, and config.json names none. A source that cannot list a folder is
 * asked for the usual names, and for those of the variant.
 */
export async function hasWeights(
  source: Source,
  { variant, named }: Pick<CheckpointOptions, "variant" | "named"> = {},
): Promise<boolean> {
  if (named) return true; // if it is not there, opening it says so
  const names = await source.names([...namesOf(FORMATS, variant), ...namesOf(FORMATS)]);
  return [...names].some(isWeights);
}

/**
 * Opens the checkpoint in a folder: model[.variant].safetensors, or the shards that model.safetensors.index[.variant].json
 * names, else pytorch_model[.variant].bin or its index. Reads the index and the headers only. Names in the index are checked
 * before anything is opened; links on disk are followed. Where index and shards disagree, every tensor of every named shard
 * counts, and of several of one name that of the last shard, as in Python; a warning says so.
 * @throws NotFoundError if the folder, any weight file or a shard is missing, or the only ones are of the format that
 * `use_safetensors` excludes; FormatError if a file is malformed or `named` is not the name of a file in the folder;
 * OptionError for a bad option; NetworkError, AbortError
 */
export async function openCheckpoint(source: Source, options: CheckpointOptions = {}): Promise<Checkpoint> {
  checkOptions("openCheckpoint", options, ["variant", "named", "use_safetensors"]);
  const { variant, named, use_safetensors } = options;
  if (variant !== undefined && !isVariant(variant)) {
    throw new OptionError(`openCheckpoint: variant must be ${A_VARIANT}, got ${show(variant)}`);
  }
  if (use_safetensors !== undefined && typeof use_safetensors !== "boolean") {
    throw new OptionError(`openCheckpoint: use_safetensors must be true or false, got ${show(use_safetensors)}`);
  }
  const formats = formatsOf(options);
  if (named !== undefined && named !== null) return openNamed(source, named, formats);
  const absent = () => noWeights(source, options);
  for (const format of formats) {
    const single = withVariant(format.single, variant);
    if (await isThere(source, single)) {
      return openFiles(source, format, [source.path(single)]);
    }
    const index = withVariant(format.index, variant);
    if (await isThere(source, index)) {
      return openSharded(source, format, source.path(index));
    }
  }
  throw await absent();
}

/** What a variant must be, for messages. */
export const A_VARIANT = 'a short word such as "fp16"';

/** True for a word that may be put into the names of files. */
export function isVariant(variant: unknown): boolean {
  return typeof variant === "string" && /^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$/.test(variant);
}

/** Opens the file that config.json names. Others beside it are not looked for: they may hold another layout. */
async function openNamed(source: Source, named: unknown, formats: readonly Format[]): Promise<Checkpoint> {
  const where = `${source.path("config.json")}: transformers_weights`;
  const details = { file: source.path("config.json"), key: "transformers_weights" };
  const text = typeof named === "string" ? named : "";
  const format = FORMATS.find(({ end }) => text.endsWith(end) || text.endsWith(`${end}.index.json`)) ?? SAFETENSORS;
  const sharded = text.endsWith(".index.json");
  const problem =
    typeof named === "string"
      ? badShardName(sharded ? text.slice(0, -".index.json".length) : text, format.end)
      : "no text";
  if (problem) {
    throw new FormatError(
      `${where} must name a .safetensors or .bin file below the folder or its index, got ${problem}`,
      {
        details,
        hint: "get the config.json from the model's original source",
      },
    );
  }
  if (!formats.includes(format)) {
    throw new NotFoundError(`${where} names ${quote(text)}, but use_safetensors is ${format === BIN}`, {
      details: { ...details, expected: formats[0]!.end, got: text },
      hint: "leave use_safetensors out",
    });
  }
  const absent = () =>
    new NotFoundError(`${where} names ${quote(text)}, which is not there`, {
      details,
      hint: "the download is not complete; download the folder again",
    });
  // A folder on disk lists no files of folders below it.
  if (source.absent) await checkThere(source, [text], absent);
  else if (!(await source.names([text])).has(text)) throw source.forbidden?.([text]) ?? absent();
  const file = source.path(text);
  return sharded ? openSharded(source, format, file) : openFiles(source, format, [file]);
}

async function openFiles(source: Source, { read }: Format, files: string[]): Promise<Checkpoint> {
  return assemble(source, files, await inOrder(files, (file) => read(source, file)), []);
}

/** False for a link whose file is gone, too: as in Python, the next name is looked for. */
async function isThere(source: Source, name: string): Promise<boolean> {
  return (await source.names([name])).has(name) && ((await source.absent?.([name])) ?? []).length === 0;
}

/** @throws the error of `absent` for missing files; FormatError for what cannot be reached */
async function checkThere(
  source: Source,
  names: readonly string[],
  absent: (names: string[]) => Error | Promise<Error>,
): Promise<void> {
  const gone = (await source.absent?.(names)) ?? [];
  if (gone.length > 0) throw await absent(gone);
}

/** The error for a folder without the requested weights, which names those that are there instead. */
export async function noWeights(source: Source, choice: Choice): Promise<OctavoError> {
  const { variant } = choice;
  const formats = formatsOf(choice);
  const candidates = namesOf(formats, variant);
  const excluded = namesOf(
    FORMATS.filter((format) => !formats.includes(format)),
    variant,
  );
  const names = await source.names([...candidates, ...excluded, ...namesOf(FORMATS)]);
  const other = excluded.find((name) => names.has(name));
  if (other !== undefined) {
    const only = formats[0] === SAFETENSORS;
    return new NotFoundError(
      `${source.location}: use_safetensors is ${only}, but there is no ${candidates[0]}, only ${other}`,
      {
        details: { file: source.location, expected: candidates, got: other },
        hint: `leave use_safetensors out to read ${other}`,
      },
    );
  }
  const forbidden = source.forbidden?.(candidates);
  if (forbidden) return forbidden;
  const others = await allWeights(source, variant);
  const linked = candidates.filter((name) => names.has(name));
  const gone = (await source.absent?.(linked)) ?? [];
  if (gone.length > 0) {
    return new NotFoundError(`${source.location}: ${gone.join(", ")} is a link to a file that is not there`, {
      details: { file: source.location, expected: candidates, got: gone },
      hint: "the file was moved or deleted: bring it back, or download it again",
    });
  }
  const plain = variant !== undefined && namesOf(formats).some((name) => names.has(name));
  const hint = plain
    ? `weights without a variant are there: leave \`variant\` out (got ${quote(variant)})`
    : others.length > 0
      ? `other weight files are there: ${listed(others, 5)}; safetensors and .bin files of PyTorch are read`
      : "is the download complete, and is this the folder that holds config.json?";
  return new NotFoundError(`${source.location}: no weights found; looked for ${candidates.join(", ")}`, {
    details: { file: source.location, expected: candidates, got: others.slice(0, 20) },
    hint,
  });
}

async function openSharded(source: Source, format: Format, indexFile: string): Promise<Checkpoint> {
  const index = parseIndex(await readSmall(source, indexFile, INDEX_WHAT, MAX_HEADER_BYTES), indexFile, format.end);
  const names = [...index.shards.keys()].sort();
  await checkThere(source, names, (gone) => missingShards(source, indexFile, index, gone));
  const files = names.map((name) => source.path(name));
  await source.bring?.(names);
  const headers = await inOrder(files, (file) => format.read(source, file));
  const warnings: string[] = [];
  const checkpoint = assemble(source, files, headers, warnings);
  warnings.unshift(...disagreements(indexFile, index, names, headers, checkpoint));
  const { totalSize } = index;
  if (totalSize !== undefined && totalSize !== checkpoint.totalBytes && totalSize !== namedBytes(checkpoint)) {
    warnings.push(
      `${indexFile}: metadata.total_size says ${totalSize} bytes, the shards hold ${checkpoint.totalBytes}`,
    );
  }
  return checkpoint;
}

/** Bytes of all tensors if those that share bytes count for each name, as some writers count them. */
function namedBytes({ tensors }: Checkpoint): number {
  return [...tensors.values()].reduce((sum, tensor) => sum + bytesOf(tensor), 0);
}

/** Bytes of a tensor's elements. */
function bytesOf({ dtype, shape }: StoredTensor): number {
  return Math.ceil((elementsOf(shape) * STORED_BITS.get(dtype)!) / 8);
}

function missingShards(source: Source, indexFile: string, index: ShardIndex, gone: string[]): NotFoundError {
  const tensors = gone.flatMap((name) => index.shards.get(name) ?? []);
  const some = tensors.slice(0, 3).map(quote).join(", ");
  const list = listed(gone, 5);
  const plural = gone.length > 1 ? "shards are" : "shard is";
  const need = `${tensors.length} tensor${tensors.length > 1 ? "s" : ""}`;
  return new NotFoundError(
    `${source.location}: ${gone.length} ${plural} missing: ${list}, with ${need} (${some}${tensors.length > 3 ? ", ..." : ""})`,
    {
      details: { file: source.path(gone[0]!), index: indexFile, missing: gone.slice(0, 100), tensors: tensors.length },
      hint: "the download is not complete; download the folder again",
    },
  );
}

/** The shards of each tensor that is in several of them. */
function placesOfSeveral(
  names: readonly string[],
  headers: readonly StoredHeader[],
  { tensors }: Checkpoint,
): Map<string, string[]> {
  const places = new Map<string, string[]>();
  const all = headers.reduce((sum, header) => sum + header.tensors.size, 0);
  if (all === tensors.size) return places;
  headers.forEach((header, i) => {
    for (const tensor of header.tensors.keys()) {
      const before = places.get(tensor);
      if (before) before.push(names[i]!);
      else places.set(tensor, [names[i]!]);
    }
  });
  for (const [tensor, shards] of places) if (shards.length === 1) places.delete(tensor);
  return places;
}

/** What the index says otherwise than the shards, one line for each kind. A tensor is looked up once: there may be a million. */
function disagreements(
  indexFile: string,
  index: ShardIndex,
  names: readonly string[],
  headers: readonly StoredHeader[],
  checkpoint: Checkpoint,
): string[] {
  const { source, tensors } = checkpoint;
  const several = placesOfSeveral(names, headers, checkpoint);
  const absent: string[] = [];
  const moved: string[] = [];
  for (const [shard, listed] of index.shards) {
    const file = source.path(shard);
    for (const tensor of listed) {
      const found = tensors.get(tensor);
      if (!found) absent.push(tensor);
      else if (found.file !== file && !several.get(tensor)?.includes(shard)) moved.push(tensor);
    }
  }
  const known = index.names.size - absent.length;
  const unlisted = known === tensors.size ? [] : [...tensors.keys()].filter((tensor) => !index.names.has(tensor));
  const twice = [...several];
  const kinds: [readonly string[], string][] = [
    [absent, "is in weight_map and in no shard"],
    [unlisted, "is in a shard and not in weight_map; it is read"],
    [moved, "is in another shard than weight_map says; it is read from there"],
    [twice.map(([tensor]) => tensor), `is in several shards; that of ${quote(twice[0]?.[1].at(-1) ?? "")} is read`],
  ];
  return kinds.flatMap(([tensors, what]) => {
    if (tensors.length === 0) return [];
    const more = tensors.length > 1 ? ` (and ${tensors.length - 1} more such)` : "";
    return `${indexFile}: tensor ${quote(tensors[0]!)} ${what}${more}`;
  });
}

function assemble(source: Source, files: string[], headers: StoredHeader[], warnings: string[]): Checkpoint {
  const tensors = new Map<string, StoredTensor>();
  const metadata = new Map<string, string>();
  let totalBytes = 0;
  for (const header of headers) {
    for (const [name, info] of header.tensors) {
      const { size } = tensors;
      if (tensors.set(name, info).size > size) continue;
      tensors.delete(name); // so that one of several takes its own place in the order
      tensors.set(name, info);
    }
    for (const [key, value] of header.metadata) if (!metadata.has(key)) metadata.set(key, value);
    warnings.push(...(header.warnings ?? []));
  }
  const seen = new Map(files.map((file) => [file, new Set<number>()]));
  for (const tensor of tensors.values()) {
    if (tensor.bytes === 0) continue;
    const places = seen.get(tensor.file)!;
    const { size } = places;
    if (places.add(tensor.offset).size > size) totalBytes += bytesOf(tensor); // several names may share a place
  }
  const format = metadata.get("format");
  if (format !== undefined && !KNOWN_FORMATS.includes(format)) {
    warnings.push(`${files[0]}: metadata says format ${quote(format)}; known are ${KNOWN_FORMATS.join(", ")}`);
  }
  return { source, files, tensors, metadata, totalBytes, warnings };
}

/** Maps with a few calls at a time; throws the error of the first failed item in order, not in time. */
async function inOrder<T, R>(items: readonly T[], work: (item: T) => Promise<R>): Promise<R[]> {
  const results: R[] = [];
  const errors = new Map<number, unknown>();
  let next = 0;
  const worker = async () => {
    while (next < items.length && errors.size === 0) {
      const i = next++;
      try {
        results[i] = await work(items[i]!);
      } catch (error) {
        errors.set(i, error);
      }
    }
  };
  await Promise.all(Array.from({ length: Math.min(HEADERS_AT_ONCE, items.length) }, worker));
  if (errors.size > 0) throw errors.get(Math.min(...errors.keys()));
  return results;
}
