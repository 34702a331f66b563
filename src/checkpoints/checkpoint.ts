// Opens a checkpoint: finds its weight files and the place of every tensor, without reading a weight. It does not know models
// (it renames no keys; the loader handles missing ones) and does not download.

import { checkOptions, FormatError, NotFoundError, type OctavoError, OptionError } from "../core/errors.js";
import { listed, show } from "../core/show.js";
import { CONVERT_HINT, quote } from "../sources/files.js";
import { readJsonFile } from "../sources/json.js";
import type { Source } from "../sources/source.js";
import { badShardName, INDEX_WHAT, parseIndex, type ShardIndex } from "./index-file.js";
import { MAX_HEADER_BYTES, readSafetensorsHeader, type SafetensorsHeader } from "./safetensors.js";
import type { StoredTensor } from "./stored.js";

export interface CheckpointOptions {
  /** As in transformers: "fp16" reads model.fp16.safetensors or model.safetensors.index.fp16.json, and nothing else. */
  readonly variant?: string;
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
  /** Bytes of all tensors. */
  readonly totalBytes: number;
  /** Oddities of the checkpoint that are not errors. */
  readonly warnings: readonly string[];
}

const SINGLE = "model.safetensors";
const INDEX = "model.safetensors.index.json";
const BINS = ["pytorch_model.bin", "pytorch_model.bin.index.json"];
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

/** False if a folder holds no weights in any format. */
export async function hasWeights(source: Source): Promise<boolean> {
  const names = await source.names([SINGLE, INDEX, ...BINS]);
  return [...names].some((name) => WEIGHTS.test(name));
}

/**
 * Opens the safetensors checkpoint in a folder: model[.variant].safetensors, or the shards that
 * model.safetensors.index[.variant].json names. Reads the index and the headers only. Names in the index are checked
 * before anything is opened; links on disk are followed. Where index and shards disagree, every tensor of every named shard
 * counts, and of several of one name that of the last shard, as in Python; a warning says so.
 * @throws NotFoundError if the folder, any weight file or a shard is missing; FormatError if only .bin files exist, a file
 * is malformed or `named` is not the name of a file in the folder; OptionError for a bad option; NetworkError, AbortError
 */
export async function openCheckpoint(source: Source, options: CheckpointOptions = {}): Promise<Checkpoint> {
  checkOptions("openCheckpoint", options, ["variant", "named"]);
  const { variant, named } = options;
  if (named !== undefined && named !== null) return openNamed(source, named);
  if (variant !== undefined && !(typeof variant === "string" && /^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$/.test(variant))) {
    throw new OptionError(`openCheckpoint: variant must be a short word such as "fp16", got ${show(variant)}`);
  }
  const single = withVariant(SINGLE, variant);
  const index = withVariant(INDEX, variant);
  if ((await source.names([single])).has(single)) {
    await checkThere(source, [single], () => missing(source, single, variant));
    const file = source.path(single);
    return assemble(source, [file], [await readSafetensorsHeader(source, file)], []);
  }
  if ((await source.names([index])).has(index)) {
    await checkThere(source, [index], () => missing(source, index, variant));
    return openSharded(source, source.path(index));
  }
  throw await missing(source, single, variant);
}

/** Opens the file that config.json names. Others beside it are not looked for: they may hold another layout. */
async function openNamed(source: Source, named: unknown): Promise<Checkpoint> {
  const where = `${source.path("config.json")}: transformers_weights`;
  const details = { file: source.path("config.json"), key: "transformers_weights" };
  const sharded = typeof named === "string" && named.endsWith(".safetensors.index.json");
  const problem =
    typeof named === "string" ? badShardName(sharded ? named.slice(0, -".index.json".length) : named) : "no text";
  if (problem) {
    throw new FormatError(`${where} must name a .safetensors file below the folder or its index, got ${problem}`, {
      details,
      hint: "get the config.json from the model's original source",
    });
  }
  const name = named as string;
  const absent = () =>
    new NotFoundError(`${where} names ${quote(name)}, which is not there`, {
      details,
      hint: "the download is not complete; download the folder again",
    });
  // A folder on disk lists no files of folders below it.
  if (source.absent) await checkThere(source, [name], absent);
  else if (!(await source.names([name])).has(name)) throw source.forbidden?.([name]) ?? absent();
  const file = source.path(name);
  if (sharded) return openSharded(source, file);
  return assemble(source, [file], [await readSafetensorsHeader(source, file)], []);
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

/** The error for a folder without the requested weights. */
async function missing(source: Source, first: string, variant?: string): Promise<OctavoError> {
  const bins = BINS.map((name) => withVariant(name, variant));
  const names = await source.names([...bins, SINGLE, INDEX]);
  const bin = bins.find((name) => names.has(name));
  if (bin !== undefined) {
    return new FormatError(`${source.path(bin)}: .bin checkpoints (PyTorch pickles) are not read yet`, {
      details: { file: source.path(bin), expected: first, got: bin },
      hint: CONVERT_HINT.replace("FOLDER", source.location),
    });
  }
  const candidates = [first, withVariant(INDEX, variant), ...bins];
  const forbidden = source.forbidden?.(candidates);
  if (forbidden) return forbidden;
  const others = [...names].filter((name) => /\.(safetensors|h5|msgpack|gguf|onnx|pth?)$/.test(name)).sort();
  const plain = variant !== undefined && (names.has(SINGLE) || names.has(INDEX));
  const hint = plain
    ? `weights without a variant are there: leave \`variant\` out (got ${quote(variant)})`
    : others.length > 0
      ? `other weight files are there: ${listed(others, 5)}`
      : "is the download complete, and is this the folder that holds config.json?";
  return new NotFoundError(`${source.location}: no weights found; looked for ${candidates.join(", ")}`, {
    details: { file: source.location, expected: candidates, got: others.slice(0, 20) },
    hint,
  });
}

async function openSharded(source: Source, indexFile: string): Promise<Checkpoint> {
  const index = parseIndex(
    await readJsonFile(source, indexFile, { maxBytes: MAX_HEADER_BYTES, what: INDEX_WHAT }),
    indexFile,
  );
  const names = [...index.shards.keys()].sort();
  await checkThere(source, names, (gone) => missingShards(source, indexFile, index, gone));
  const files = names.map((name) => source.path(name));
  await source.bring?.(names);
  const headers = await inOrder(files, (file) => readSafetensorsHeader(source, file));
  const warnings = disagreements(indexFile, index, names, headers);
  const checkpoint = assemble(source, files, headers, warnings);
  if (index.totalSize !== undefined && index.totalSize !== checkpoint.totalBytes) {
    warnings.push(
      `${indexFile}: metadata.total_size says ${index.totalSize} bytes, the shards hold ${checkpoint.totalBytes}`,
    );
  }
  return checkpoint;
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

/** What the index says otherwise than the shards, one line for each kind. */
function disagreements(
  indexFile: string,
  index: ShardIndex,
  names: readonly string[],
  headers: readonly SafetensorsHeader[],
): string[] {
  const places = new Map<string, string[]>();
  headers.forEach(({ tensors }, i) => {
    for (const tensor of tensors.keys()) {
      const before = places.get(tensor);
      if (before) before.push(names[i]!);
      else places.set(tensor, [names[i]!]);
    }
  });
  const absent = [...index.names].filter((tensor) => !places.has(tensor));
  const unlisted = [...places.keys()].filter((tensor) => !index.names.has(tensor));
  const twice = [...places].filter(([, shards]) => shards.length > 1);
  const moved = [...index.shards].flatMap(([shard, tensors]) =>
    tensors.filter((tensor) => places.has(tensor) && !places.get(tensor)!.includes(shard)),
  );
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

function assemble(source: Source, files: string[], headers: SafetensorsHeader[], warnings: string[]): Checkpoint {
  const tensors = new Map<string, StoredTensor>();
  const metadata = new Map<string, string>();
  let totalBytes = 0;
  for (const header of headers) {
    for (const [name, info] of header.tensors) {
      tensors.delete(name); // so that one of several takes its own place in the order
      tensors.set(name, info);
    }
    for (const [key, value] of header.metadata) if (!metadata.has(key)) metadata.set(key, value);
  }
  for (const { bytes } of tensors.values()) totalBytes += bytes;
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
