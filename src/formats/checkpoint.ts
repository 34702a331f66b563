// Opens a checkpoint folder: finds its weight files and knows every tensor's place, without reading a weight. It does not
// know models (no key is renamed, missing keys are the loader's business) and does not download.

import { readdir, realpath } from "node:fs/promises";
import { basename, dirname, join, relative, resolve, sep } from "node:path";
import { checkOptions, FormatError, NotFoundError, OptionError } from "../core/errors.js";
import { CONVERT_HINT, quote, systemCode } from "./files.js";
import { INDEX_WHAT, parseIndex, type ShardIndex } from "./index-file.js";
import { readJsonFile } from "./json.js";
import { MAX_HEADER_BYTES, readSafetensorsHeader, type SafetensorsHeader, type TensorInfo } from "./safetensors.js";

export interface CheckpointOptions {
  /** As in transformers: "fp16" reads model.fp16.safetensors or model.safetensors.index.fp16.json, and nothing else. */
  readonly variant?: string;
}

/** Where the tensors of a checkpoint lie. Nothing is held open. */
export interface Checkpoint {
  readonly folder: string;
  /** Weight files as paths, in the order of their names. */
  readonly files: readonly string[];
  /** Every tensor by its name in the file, in the order of files and data. */
  readonly tensors: ReadonlyMap<string, TensorInfo>;
  /** `__metadata__` of the files; for a key that differs between shards, the first shard's value. */
  readonly metadata: ReadonlyMap<string, string>;
  /** Bytes of all tensors. */
  readonly totalBytes: number;
  /** What is odd about the checkpoint but no reason to refuse it. */
  readonly warnings: readonly string[];
}

const KNOWN_FORMATS = ["pt", "np", "tf", "flax", "mlx"];
// Enough to hide latency; more would only hold more headers at once.
const HEADERS_AT_ONCE = 8;

/** Puts the variant before the last extension, as transformers does. */
function withVariant(name: string, variant: string | undefined): string {
  const dot = name.lastIndexOf(".");
  return variant === undefined ? name : `${name.slice(0, dot)}.${variant}${name.slice(dot)}`;
}

/**
 * Opens the safetensors checkpoint in `folder`: model[.variant].safetensors, or the shards that
 * model.safetensors.index[.variant].json names. Reads the index and the headers only. Names in the index are checked
 * before anything is opened; links may not lead out of the folder except inside the Hugging Face cache.
 * @throws NotFoundError if the folder, any weight file or a shard is missing; FormatError if only .bin files exist or a
 * file is malformed; OptionError for a bad option
 */
export async function openCheckpoint(folder: string, options: CheckpointOptions = {}): Promise<Checkpoint> {
  checkOptions("openCheckpoint", options, ["variant"]);
  const { variant } = options;
  if (variant !== undefined && !/^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$/.test(variant)) {
    throw new OptionError(`openCheckpoint: variant must be a short word such as "fp16", got ${quote(String(variant))}`);
  }
  const names = await listFolder(folder);
  const single = withVariant("model.safetensors", variant);
  const index = withVariant("model.safetensors.index.json", variant);
  if (names.has(single)) {
    await checkInside(folder, [single], () => missing(folder, single, names, variant));
    const file = join(folder, single);
    return assemble(folder, [file], [await readSafetensorsHeader(file)], []);
  }
  if (names.has(index)) {
    await checkInside(folder, [index], () => missing(folder, index, names, variant));
    return openSharded(folder, join(folder, index));
  }
  throw missing(folder, single, names, variant);
}

async function listFolder(folder: string): Promise<Set<string>> {
  try {
    return new Set(await readdir(folder));
  } catch (cause) {
    const code = systemCode(cause);
    const problem =
      code === "ENOENT" ? "no such folder" : code === "ENOTDIR" ? "not a folder" : `not readable (${code})`;
    throw new NotFoundError(`${folder}: ${problem}`, { details: { file: folder, expected: "a folder" }, cause });
  }
}

/** The error for a folder without the weights that were asked for. */
function missing(folder: string, first: string, names: ReadonlySet<string>, variant?: string) {
  const bins = ["pytorch_model.bin", "pytorch_model.bin.index.json"].map((name) => withVariant(name, variant));
  const bin = bins.find((name) => names.has(name));
  if (bin !== undefined) {
    return new FormatError(`${join(folder, bin)}: .bin checkpoints (PyTorch pickles) are not read yet`, {
      details: { file: join(folder, bin), expected: first, got: bin },
      hint: CONVERT_HINT.replace("FOLDER", folder),
    });
  }
  const candidates = [first, withVariant("model.safetensors.index.json", variant), ...bins];
  const others = [...names].filter((name) => /\.(safetensors|h5|msgpack|gguf|onnx|pth?)$/.test(name)).sort();
  const plain = variant !== undefined && (names.has("model.safetensors") || names.has("model.safetensors.index.json"));
  const hint = plain
    ? `weights without a variant are there: leave \`variant\` out (got ${quote(variant)})`
    : others.length > 0
      ? `other weight files are there: ${others.slice(0, 5).join(", ")}${others.length > 5 ? ", ..." : ""}`
      : "is the download complete, and is this the folder that holds config.json?";
  return new NotFoundError(`${folder}: no weights found; looked for ${candidates.join(", ")}`, {
    details: { file: folder, expected: candidates, got: others.slice(0, 20) },
    hint,
  });
}

/**
 * Refuses names whose real place lies outside the folder. The one exception is the Hugging Face cache, whose snapshots
 * are links: models--X/snapshots/<commit>/name → models--X/blobs/<etag>. Nothing is opened.
 */
async function checkInside(folder: string, names: readonly string[], absent: (names: string[]) => Error) {
  const home = await realpath(folder);
  const gone: string[] = [];
  for (const name of names) {
    const file = join(folder, name);
    let real: string;
    try {
      real = await realpath(file);
    } catch (cause) {
      const code = systemCode(cause);
      if (code === "ENOENT" || code === "ENOTDIR") {
        gone.push(name);
        continue;
      }
      const problem = code === "ELOOP" ? "links that lead in a circle" : `a file that cannot be reached (${code})`;
      throw new FormatError(`${file}: expected a weight file, got ${problem}`, {
        details: { file, expected: "a weight file", got: code },
        cause,
      });
    }
    if (isInside(home, real) || isCacheBlob(home, real)) continue;
    throw new FormatError(`${file}: leads out of its folder, to ${quote(real)}`, {
      details: { file, expected: `a place under ${home}`, got: real },
      hint: "put the file itself into the folder, or open the folder that it lies in",
    });
  }
  if (gone.length > 0) throw absent(gone);
}

function isInside(folder: string, file: string): boolean {
  const path = relative(folder, file);
  return path !== "" && path !== ".." && !path.startsWith(`..${sep}`) && resolve(folder, path) === file;
}

function isCacheBlob(folder: string, file: string): boolean {
  const snapshots = dirname(folder);
  const model = dirname(snapshots);
  return (
    basename(snapshots) === "snapshots" &&
    /^(models|datasets|spaces)--/.test(basename(model)) &&
    dirname(file) === join(model, "blobs")
  );
}

async function openSharded(folder: string, indexFile: string): Promise<Checkpoint> {
  const index = parseIndex(await readJsonFile(indexFile, { maxBytes: MAX_HEADER_BYTES, what: INDEX_WHAT }), indexFile);
  const names = [...index.shards.keys()].sort();
  await checkInside(folder, names, (gone) => missingShards(folder, indexFile, index, gone));
  const files = names.map((name) => join(folder, name));
  const headers = await inOrder(files, readSafetensorsHeader);
  compare(indexFile, index, names, headers);
  const warnings: string[] = [];
  const checkpoint = assemble(folder, files, headers, warnings);
  if (index.totalSize !== undefined && index.totalSize !== checkpoint.totalBytes) {
    warnings.push(
      `${indexFile}: metadata.total_size says ${index.totalSize} bytes, the shards hold ${checkpoint.totalBytes}`,
    );
  }
  return checkpoint;
}

function missingShards(folder: string, indexFile: string, index: ShardIndex, gone: string[]): NotFoundError {
  const tensors = gone.flatMap((name) => index.shards.get(name) ?? []);
  const some = tensors.slice(0, 3).map(quote).join(", ");
  const list = gone.slice(0, 5).join(", ") + (gone.length > 5 ? ` and ${gone.length - 5} more` : "");
  const plural = gone.length > 1 ? "shards are" : "shard is";
  const need = `${tensors.length} tensor${tensors.length > 1 ? "s" : ""}`;
  return new NotFoundError(
    `${folder}: ${gone.length} ${plural} missing: ${list}, with ${need} (${some}${tensors.length > 3 ? ", ..." : ""})`,
    {
      details: { file: join(folder, gone[0]!), index: indexFile, missing: gone.slice(0, 100), tensors: tensors.length },
      hint: "the download is not complete; download the folder again",
    },
  );
}

/** Index and shards must tell the same story: which tensor would be used must not depend on who reads. */
function compare(indexFile: string, index: ShardIndex, names: string[], headers: readonly SafetensorsHeader[]) {
  const seen = new Map<string, string>();
  headers.forEach(({ tensors }, i) => {
    const shard = names[i]!;
    for (const tensor of tensors.keys()) {
      const before = seen.get(tensor);
      if (before !== undefined) {
        disagree(indexFile, tensor, "in one shard", `in ${quote(before)} and ${quote(shard)}`);
      }
      seen.set(tensor, shard);
    }
    for (const tensor of index.shards.get(shard) ?? []) {
      if (!tensors.has(tensor)) disagree(indexFile, tensor, `in ${quote(shard)}`, "none in that shard");
    }
  });
  for (const [tensor, shard] of seen) {
    if (!index.names.has(tensor)) disagree(indexFile, tensor, "in weight_map", `only in ${quote(shard)}`);
  }
}

function disagree(file: string, key: string, expected: string, got: string): never {
  throw new FormatError(`${file}: expected tensor ${quote(key)} ${expected}, got it ${got}`, {
    details: { file, key, expected, got },
    hint: "index and shards do not belong together; download the folder again",
  });
}

function assemble(folder: string, files: string[], headers: SafetensorsHeader[], warnings: string[]): Checkpoint {
  const tensors = new Map<string, TensorInfo>();
  const metadata = new Map<string, string>();
  let totalBytes = 0;
  for (const header of headers) {
    for (const [name, info] of header.tensors) {
      tensors.set(name, info);
      totalBytes += info.bytes;
    }
    for (const [key, value] of header.metadata) if (!metadata.has(key)) metadata.set(key, value);
  }
  const format = metadata.get("format");
  if (format !== undefined && !KNOWN_FORMATS.includes(format)) {
    warnings.push(`${files[0]}: metadata says format ${quote(format)}; known are ${KNOWN_FORMATS.join(", ")}`);
  }
  return { folder, files, tensors, metadata, totalBytes, warnings };
}

/** Maps with a few at a time; an error is that of the first item in order, whichever failed first in time. */
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
