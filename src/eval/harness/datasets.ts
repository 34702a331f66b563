// The items of a task's data set, from files on this machine: JSON lines, JSON, CSV or TSV. Not here: Parquet files and the hub.

import { readdir, readFile, stat } from "node:fs/promises";
import { basename, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { ConfigError, FormatError, NotFoundError } from "../../core/errors.js";
import { listed, show } from "../../core/show.js";
import { systemCode } from "../../sources/file-errors.js";
import { CLOZE } from "./builtin.js";
import type { TaskConfig } from "./task-config.js";
import type { Doc } from "./types.js";

const CLOZE_FILE = fileURLToPath(new URL("../../../models/storyteller-cloze.jsonl", import.meta.url));
/** Endings of files, the first that is there counts. */
const ENDINGS = ["jsonl", "json", "csv", "tsv"];

export type Splits = (split: string) => Promise<readonly Doc[]>;

/**
 * The splits of a task's data: `dataset_kwargs.data_files` of its own file, or `<data_dir>/<data set>/<split>.jsonl`, where the data
 * set is the task's name or `dataset_path`, with or without the name's owner, and `dataset_name` may be a folder in it.
 */
export function splitsOf(config: TaskConfig, data_dir: string | undefined, base: string): Splits {
  const read = new Map<string, Promise<readonly Doc[]>>();
  return (split) => {
    const known = read.get(split) ?? find(config, data_dir, base, split);
    read.set(split, known);
    return known;
  };
}

async function find(
  config: TaskConfig,
  data_dir: string | undefined,
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
  if (task === CLOZE) return await readFiles(task, [CLOZE_FILE]);
  const folders = data_dir === undefined ? [] : foldersOf(config, data_dir);
  for (const folder of folders) {
    for (const ending of ENDINGS) {
      const file = join(folder, `${split}.${ending}`);
      if (await stat(file).catch(() => undefined)) return await readFiles(task, [file]);
    }
  }
  const packed = await parquetIn(folders);
  throw new NotFoundError(`task "${task}": its data set ${show(dataset_path ?? task)} has no split "${split}" here`, {
    hint:
      packed !== undefined
        ? `${packed} is Parquet, which is not read yet: write it as JSON lines, ${split}.jsonl`
        : data_dir === undefined
          ? `name the folder of the data: --data-dir <folder> with ${basename(dataset_path ?? task)}/${split}.jsonl in it`
          : `looked for ${split}.jsonl, .json, .csv and .tsv in ${listed(folders)}`,
    details: { task, split },
  });
}

function foldersOf({ task, dataset_path, dataset_name }: TaskConfig, data_dir: string): string[] {
  const names = [task, ...(dataset_path === undefined ? [] : [dataset_path, basename(dataset_path)])];
  const folders = [...new Set(names)].map((name) => join(data_dir, name));
  return [...(dataset_name === undefined ? [] : folders.map((folder) => join(folder, dataset_name))), ...folders];
}

async function parquetIn(folders: readonly string[]): Promise<string | undefined> {
  for (const folder of folders) {
    const found = (await readdir(folder).catch(() => [])).find((name) => name.endsWith(".parquet"));
    if (found !== undefined) return join(folder, found);
  }
  return undefined;
}

/** The files of a split: all of them, or those under its name. */
function filesOf(task: string, given: unknown, split: string): string[] {
  const own = typeof given === "object" && given !== null && !Array.isArray(given) ? (given as Doc)[split] : given;
  const list = typeof own === "string" ? [own] : own;
  if (Array.isArray(list) && list.length > 0 && list.every((file) => typeof file === "string")) return list as string[];
  throw new ConfigError(`task "${task}": data_files has no files of the split "${split}", got ${show(given)}`);
}

async function readFiles(task: string, files: readonly string[]): Promise<readonly Doc[]> {
  const docs: Doc[] = [];
  for (const file of files) {
    const text = await readFile(file, "utf8").catch((cause: unknown) => {
      throw new NotFoundError(`task "${task}": ${file} cannot be read (${systemCode(cause)})`, { cause });
    });
    for (const doc of itemsOf(file, text.replace(/^\ufeff/, ""))) docs.push(doc);
  }
  if (docs.length === 0) throw new FormatError(`task "${task}": ${listed(files)} has no items`);
  return docs;
}

/** @throws FormatError for what is no list of objects, with the line */
function itemsOf(file: string, text: string): Doc[] {
  if (/\.[ct]sv$/.test(file)) return rowsOf(file, text, file.endsWith(".tsv") ? "\t" : ",");
  const object = (value: unknown, where: string): Doc => {
    if (typeof value === "object" && value !== null && !Array.isArray(value)) return value as Doc;
    throw new FormatError(`${file}: ${where} is no object, got ${show(value)}`);
  };
  const parsed = (source: string, where: string): unknown => {
    try {
      return JSON.parse(source) as unknown;
    } catch (cause) {
      throw new FormatError(`${file}: ${where} is no JSON: ${(cause as Error).message}`, { cause });
    }
  };
  const isList = file.endsWith(".json") && text.trimStart().startsWith("[");
  if (isList) return (parsed(text, "it") as unknown[]).map((value, n) => object(value, `item ${n + 1}`));
  return text
    .split("\n")
    .map((line, n) => [line, `line ${n + 1}`] as const)
    .filter(([line]) => line.trim() !== "")
    .map(([line, where]) => object(parsed(line, where), where));
}

/** Rows of a CSV file (RFC 4180) with names in its first row. A column of numbers alone has numbers. */
function rowsOf(file: string, text: string, comma: string): Doc[] {
  const [names = [], ...rows] = cellsOf(file, text, comma);
  const columns = names.map((name, n) => {
    const cells = rows.map((row) => row[n] ?? "");
    const numeric = cells.length > 0 && cells.every((cell) => /^-?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$/.test(cell));
    return [name, numeric ? cells.map(Number) : cells] as const;
  });
  return rows.map((row, r) => {
    if (row.length !== names.length) {
      throw new FormatError(`${file}: row ${r + 2} has ${row.length} cells, its first row ${names.length}`);
    }
    return Object.fromEntries(columns.map(([name, cells]) => [name, cells[r]]));
  });
}

function cellsOf(file: string, text: string, comma: string): string[][] {
  const rows: string[][] = [];
  const plain = comma === "," ? /[^,\r\n]*/y : /[^\t\r\n]*/y;
  let row: string[] = [];
  for (let at = 0; at < text.length; ) {
    let cell = "";
    if (text[at] === '"') {
      for (;;) {
        const end = text.indexOf('"', at + 1);
        if (end < 0) throw new FormatError(`${file}: the quoted cell in row ${rows.length + 1} does not end`);
        cell += text.slice(at + 1, end);
        at = end + 1;
        if (text[at] !== '"') break;
        cell += '"';
      }
    } else {
      plain.lastIndex = at;
      cell = plain.exec(text)![0];
      at += cell.length;
    }
    row.push(cell);
    if (text[at] === comma) {
      at++;
      if (at < text.length) continue;
      row.push("");
    }
    if (text[at] === "\r") at++;
    if (at < text.length && text[at] !== "\n")
      throw new FormatError(`${file}: row ${rows.length + 1} goes on behind a quote`);
    at++;
    rows.push(row);
    row = [];
  }
  return rows.filter((cells) => cells.length > 1 || cells[0] !== "");
}
