// The items of a task's data set, from files on this machine, the cache of Python's datasets (datasets-cache.ts), or the hub and its
// cache (hub-data.ts). Not here: reading them (train/data/).

import { stat } from "node:fs/promises";
import { basename, extname, join, resolve } from "node:path";
import { ConfigError, FormatError, NetworkError, NotFoundError } from "../../core/errors.js";
import { listed, show } from "../../core/show.js";
import { DISK_FILES } from "../../load/disk.js";
import { storytellerFile } from "../../load/storyteller.js";
import { loaderOf } from "../../train/data/load.js";
import { CLOZE } from "./builtin.js";
import { cachedFiles } from "./datasets-cache.js";
import { type DataPlace, datasetId, hubFiles } from "./hub-data.js";
import type { TaskConfig } from "./task-config.js";
import type { Doc } from "./types.js";

const load_dataset = loaderOf(DISK_FILES);

/** Formats by the endings of files; of a split's files, the first that is there counts. */
const FORMATS: ReadonlyMap<string, string> = new Map([
  ["jsonl", "json"],
  ["json", "json"],
  ["csv", "csv"],
  ["tsv", "csv"],
  ["parquet", "parquet"],
  ["arrow", "arrow"],
]);

export type Splits = (split: string) => Promise<readonly Doc[]>;

/** Where the data of tasks are: a folder, and the hub. */
export interface DataOptions extends DataPlace {
  readonly data_dir?: string;
}

/**
 * The splits of a task's data: `dataset_kwargs.data_files` of its own file, or `<data_dir>/<data set>/<split>.jsonl`, where the data
 * set is the task's name or `dataset_path`, with or without the name's owner, and `dataset_name` may be a folder in it. What is not
 * there comes from the cache of Python's datasets, else from the hub, where `dataset_path` is an id.
 */
export function splitsOf(config: TaskConfig, options: DataOptions, base: string): Splits {
  const read = new Map<string, Promise<readonly Doc[]>>();
  return (split) => {
    const known = read.get(split) ?? find(config, options, base, split);
    read.set(split, known);
    known.catch(() => read.delete(split)); // it may be there the next time
    return known;
  };
}

async function find(
  config: TaskConfig,
  { data_dir, ...place }: DataOptions,
  base: string,
  split: string,
): Promise<readonly Doc[]> {
  const { task, dataset_kwargs = {}, dataset_path } = config;
  const files = dataset_kwargs.data_files;
  if (files !== undefined)
    return await readFiles(
      task,
      filesOf(task, files, split).map((file) => resolve(base, file)),
    );
  if (task === CLOZE) return await readFiles(task, [storytellerFile("storyteller-cloze.jsonl")]);
  const folders = data_dir === undefined ? [] : foldersOf(config, data_dir);
  for (const folder of folders) {
    for (const ending of FORMATS.keys()) {
      const file = join(folder, `${split}.${ending}`);
      if (await stat(file).catch(() => undefined)) return await readFiles(task, [file]);
    }
  }
  const id = datasetId(config);
  const cached = id === undefined ? [] : await cachedFiles(id, config, split);
  if (cached.length > 0) return await readFiles(task, cached);
  let refused: NotFoundError | NetworkError | undefined;
  if (id !== undefined) {
    const found = await hubFiles(id, config, split, [...FORMATS.keys()], place).catch((cause: unknown) => {
      if (!(cause instanceof NotFoundError || cause instanceof NetworkError)) throw cause;
      refused = cause;
      return [];
    });
    if (found.length > 0) return await readFiles(task, found);
  }
  const missing = `task "${task}": its data set ${show(dataset_path ?? task)} has no split "${split}" here`;
  const reason = refused && String(refused.details.reason ?? refused.message.split("\n")[0]);
  const hint =
    data_dir === undefined
      ? `name the folder of the data: --data-dir <folder> with ${basename(dataset_path ?? task)}/${split}.jsonl in it`
      : `looked for ${split}.jsonl, .json, .csv, .tsv, .parquet and .arrow in ${listed(folders)}`;
  throw new NotFoundError(reason === undefined ? missing : `${missing}\n  and the hub did not give it: ${reason}`, {
    hint: refused?.hint === undefined ? hint : `${refused.hint}; or ${hint}`,
    details: { task, split },
    cause: refused,
  });
}

function foldersOf({ task, dataset_path, dataset_name }: TaskConfig, data_dir: string): string[] {
  const names = [task, ...(dataset_path === undefined ? [] : [dataset_path, basename(dataset_path)])];
  const folders = [...new Set(names)].map((name) => join(data_dir, name));
  return [...(dataset_name === undefined ? [] : folders.map((folder) => join(folder, dataset_name))), ...folders];
}

/** The files of a split: all of them, or those under its name. */
function filesOf(task: string, given: unknown, split: string): string[] {
  const own = typeof given === "object" && given !== null && !Array.isArray(given) ? (given as Doc)[split] : given;
  const list = typeof own === "string" ? [own] : own;
  if (Array.isArray(list) && list.length > 0 && list.every((file) => typeof file === "string")) return list as string[];
  throw new ConfigError(`task "${task}": data_files has no files of the split "${split}", got ${show(given)}`);
}

async function readFiles(task: string, files: readonly string[]): Promise<readonly Doc[]> {
  const missing = await firstMissing(files);
  if (missing !== undefined) throw new NotFoundError(`task "${task}": ${missing} is not there`);
  const parts: Doc[] = [];
  for (const file of files) {
    const format = FORMATS.get(extname(file).slice(1));
    if (format === undefined) {
      throw new ConfigError(
        `task "${task}": ${file} is none of the files that are read: ${[...FORMATS.keys()].join(", ")}`,
      );
    }
    const rows = [...(await load_dataset(format, { data_files: { all: file }, split: "all" }))];
    for (const doc of format === "csv" ? withNumbers(rows) : rows) parts.push(doc);
  }
  if (parts.length === 0) throw new FormatError(`task "${task}": ${listed(files)} has no items`);
  return parts;
}

async function firstMissing(files: readonly string[]): Promise<string | undefined> {
  for (const file of files) if (!(await stat(file).catch(() => undefined))) return file;
  return undefined;
}

/** Rows of a table whose columns of numbers alone have numbers, as Python reads them. */
function withNumbers(rows: readonly Doc[]): Doc[] {
  const names = Object.keys(rows[0] ?? {});
  const isNumber = (value: unknown): boolean => /^-?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$/.test(String(value));
  const numeric = new Set(names.filter((name) => rows.every((row) => isNumber(row[name]))));
  return rows.map((row) =>
    Object.fromEntries(Object.entries(row).map(([name, value]) => [name, numeric.has(name) ? Number(value) : value])),
  );
}
