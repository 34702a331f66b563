// Which files of a data set on the hub are a split: those of its conversion to Parquet, which the hub makes of most data sets
// whatever they are published as, else those that its card names, else those whose names say so. The rules are those of Python's
// datasets.

import { readdir } from "node:fs/promises";
import { extname, relative, sep } from "node:path";
import { parse } from "yaml";
import { NotFoundError } from "../../core/errors.js";
import { warnOnce } from "../../generate/warn.js";
import { type HubOptions, openDataset } from "../../hub/open.js";
import { isModelId } from "../../sources/model-id.js";
import type { Source } from "../../sources/source.js";
import { matching } from "./glob.js";
import type { TaskConfig } from "./task-config.js";

const CONVERTED = "refs/convert/parquet";
/** Names of loaders in the place of a data set's. */
const LOADERS = ["json", "csv", "parquet", "text"];
const CARD = "README.md";
/** Bytes of a card that are read; what it says of files stands first. */
const MOST_CARD = 16 << 20;

/** Where data sets come from, and where they are kept. */
export type DataPlace = Pick<HubOptions, "hub" | "cache_dir" | "local_files_only" | "token" | "timeout" | "signal">;

/** Words in names of files and folders that mean a split. */
const WORDS: Readonly<Record<string, readonly string[]>> = {
  train: ["train", "training"],
  validation: ["validation", "valid", "val", "dev"],
  test: ["test", "testing", "eval", "evaluation"],
};

/** The id of a task's data set on the hub; undefined where it has none. */
export function datasetId({ dataset_path: path }: TaskConfig): string | undefined {
  return path !== undefined && !LOADERS.includes(path) && isModelId(path) ? path : undefined;
}

/**
 * Paths on this machine of a split's files, which are downloaded into the hub's cache where they are not there.
 * @param endings of files that can be read
 * @throws NotFoundError for a data set without the split; what opening it throws
 */
export async function hubFiles(
  id: string,
  { dataset_name: config, dataset_kwargs = {} }: TaskConfig,
  split: string,
  endings: readonly string[],
  place: DataPlace,
): Promise<string[]> {
  const { revision } = dataset_kwargs as { readonly revision?: unknown };
  const isData = (name: string): boolean => endings.includes(extname(name).slice(1));
  if (typeof revision !== "string") {
    const found = await within(id, { ...place, revision: CONVERTED }, async (source) => {
      const names = await namesOf(source);
      return brought(source, convertedFiles(names, config, split));
    }).catch((error: unknown) => {
      if (error instanceof NotFoundError) return []; // it is not converted, or not there at all
      throw error;
    });
    if (found.length > 0) return found;
  }
  return await within(id, { ...place, ...(typeof revision === "string" ? { revision } : {}) }, async (source) => {
    const names = await namesOf(source);
    const card = names.includes(CARD) ? await textOf(source, CARD) : "";
    const all = cardFiles(card, names, config, split) ?? namedFiles(names.filter(isData), config, split);
    const data = all.filter(isData);
    const named = data.length > 0 ? data : all; // others are told by name
    if (named.length === 0) throw new NotFoundError(`dataset "${id}" has no files of the split "${split}"`);
    return brought(source, named);
  });
}

async function within<T>(id: string, options: HubOptions, use: (source: Source) => Promise<T>): Promise<T> {
  const source = await openDataset(id, { ...options, warn: (message) => warnOnce(`hub:${id}`, message) });
  try {
    return await use(source);
  } finally {
    await source.close();
  }
}

/** Names of all files, with "/" between their parts. */
async function namesOf(source: Source): Promise<readonly string[]> {
  if (source.all) return [...(await source.all())].sort();
  const entries = await readdir(source.location, { recursive: true, withFileTypes: true });
  return entries
    .filter((entry) => !entry.isDirectory())
    .map((entry) => relative(source.location, `${entry.parentPath}${sep}${entry.name}`).split(sep).join("/"))
    .sort();
}

async function textOf(source: Source, name: string): Promise<string> {
  const file = await source.open(source.path(name), "data set's card");
  try {
    return Buffer.from(await file.read(0, Math.min(file.size, MOST_CARD))).toString("utf8");
  } finally {
    await file.close();
  }
}

/** Paths of files that are on this machine now. */
async function brought(source: Source, names: readonly string[]): Promise<string[]> {
  await source.bring?.(names);
  return names.map((name) => source.path(name));
}

/** Files of a conversion: `<config>/<split>/0000.parquet`, or in older ones `<config>/<name>-<split>.parquet`. */
export function convertedFiles(names: readonly string[], config: string | undefined, split: string): string[] {
  const parts = names.filter((name) => name.endsWith(".parquet")).map((name) => name.split("/"));
  const configs = new Set(parts.map(([first]) => first));
  const wanted = config ?? (configs.size === 1 ? [...configs][0] : "default");
  const older = new RegExp(`-${quoted(split)}(-\\d+-of-\\d+)?\\.parquet$`);
  return parts
    .filter(([first, second = "", third]) => first === wanted && (third ? second === split : older.test(second)))
    .map((one) => one.join("/"));
}

type Entry = Readonly<Record<string, unknown>>;
const isEntry = (value: unknown): value is Entry =>
  typeof value === "object" && value !== null && !Array.isArray(value);

/** The `configs` of a card; undefined where it has none that can be read. */
function configsOf(card: string): readonly Entry[] | undefined {
  const front = /^---\r?\n(.*?)\r?\n---/s.exec(card)?.[1];
  if (front === undefined) return undefined;
  let read: unknown;
  try {
    read = parse(front, { maxAliasCount: 100, logLevel: "error" });
  } catch {
    return undefined; // a card is for readers first
  }
  const configs = isEntry(read) ? read.configs : undefined;
  return Array.isArray(configs) ? (configs as unknown[]).filter(isEntry) : undefined;
}

/**
 * Files that the `configs` of a card name; undefined where it has none, or none for the config.
 * @throws FormatError for patterns that would take very long
 */
export function cardFiles(
  card: string,
  names: readonly string[],
  config: string | undefined,
  split: string,
): string[] | undefined {
  const all = configsOf(card);
  const own =
    config === undefined
      ? (all?.find((one) => one.default === true) ??
        all?.find((one) => one.config_name === "default") ??
        (all?.length === 1 ? all[0] : undefined))
      : all?.find((one) => one.config_name === config);
  const files = own?.data_files ?? undefined;
  if (files === undefined) return undefined;
  const list = Array.isArray(files) ? (files as unknown[]) : [files];
  const patterns = list.flatMap((entry): unknown[] => {
    if (typeof entry === "string") return split === "train" ? [entry] : []; // files without a split are examples to learn
    if (!isEntry(entry) || entry.split !== split) return [];
    return Array.isArray(entry.path) ? (entry.path as unknown[]) : [entry.path];
  });
  const texts = patterns.filter((one): one is string => typeof one === "string");
  return matching("the data set's card", texts, names);
}

const quoted = (text: string): string => text.replace(/[^\w]/g, "\\$&");

/** Files whose names, or whose folders' names, have the word of a split; of a config, those in its folder where there is one. */
export function namedFiles(names: readonly string[], config: string | undefined, split: string): string[] {
  const within = config === undefined ? [] : names.filter((name) => name.split("/").slice(0, -1).includes(config));
  const all = within.length > 0 ? within : names;
  const words = WORDS[split] ?? [split];
  const regex = new RegExp(`(?:^|[-._ 0-9/])(?:${words.map(quoted).join("|")})(?:$|[-._ 0-9/])`);
  return all.filter((name) => regex.test(name));
}
