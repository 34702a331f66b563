// load_dataset: examples of files, in memory or as a stream, by the parameters of Python's datasets. What opens files is the platform's.

import { isList, listOf } from "../../core/checks.js";
import { NotFoundError, OptionError } from "../../core/errors.js";
import { choice, type EntryFacts, flag, type Options, readOptions, such, text } from "../../core/options.js";
import { listed, show } from "../../core/show.js";
import { isFile } from "../../media/reader.js";
import { arrowExamples } from "./arrow.js";
import { COLUMN_TYPES, type ColumnType, csvExamples } from "./csv.js";
import { Dataset } from "./dataset.js";
import { type DataFile, type DataPlace, type DataReader, linesOf, opened, placesOf, wholeText } from "./files.js";
import { IterableDataset } from "./iterable-dataset.js";
import { isObject, jsonExamples } from "./json-lines.js";
import { parquetExamples } from "./parquet.js";
import { savedIn } from "./saved.js";
import type { Feature } from "./types.js";

/** Files of one split. */
export type DataFiles = DataFile | readonly DataFile[];

const FORMATS = ["json", "csv", "text", "parquet", "arrow"] as const;
type Format = (typeof FORMATS)[number];

const ENDINGS: ReadonlyMap<string, Format> = new Map([
  ["jsonl", "json"],
  ["ndjson", "json"],
  ["json", "json"],
  ["csv", "csv"],
  ["tsv", "csv"],
  ["txt", "text"],
  ["text", "text"],
  ["parquet", "parquet"],
  ["arrow", "arrow"],
]);

const isText = (value: unknown): value is string => typeof value === "string";

const separator = (facts?: EntryFacts) =>
  such<string>(
    (value) => isText(value) && /^[^"\r\n]$/u.test(value),
    "one character that is no quote and no line end",
    facts,
  );

export const LOAD_DATASET = {
  /** The files, of a format that is named: one, a list, or those of each split by its name. */
  data_files: such<DataFiles | Readonly<Record<string, DataFiles>>>(
    (value) => isFile(value) || isList(value) || isObject(value),
    "a file, a list of files, or an object of them",
  ),
  /** The split that is wanted, or a part of it: "train", "train[:100]", "train[10%:]". Without it, all of them come by their names. */
  split: text(),
  /** Read examples as they are needed, from files of any size. */
  streaming: flag(),
  /** JSON: the key under which the list of examples stands. */
  field: text({ value: "<name>", help: "JSON: the key under which the list of examples stands" }),
  /** CSV: what separates fields; by default a comma, and a tab in files that end in .tsv. */
  delimiter: separator({ value: "<char>", help: "CSV: what separates fields (default: a comma)" }),
  /** Another name of `delimiter`. */
  sep: separator(),
  /** CSV: names of the columns, of files without a header. */
  column_names: such<readonly string[]>(
    (value) =>
      (listOf(value, isText)?.length ?? 0) > 0 && new Set(value as string[]).size === (value as string[]).length,
    "a list of different names",
  ),
  /** CSV: what columns hold, such as `{ label: "int64" }`; others are text. */
  features: such<Readonly<Record<string, ColumnType>>>(
    (value) =>
      isObject(value) && Object.values(value).every((one) => (COLUMN_TYPES as readonly unknown[]).includes(one)),
    `an object with one of ${COLUMN_TYPES.join(", ")} for each column`,
  ),
  /** Text: what an example is; default "line". Paragraphs are separated by empty lines. */
  sample_by: choice(["line", "paragraph", "document"], {
    value: "<what>",
    help: "text: what an example is: line (default), paragraph or document",
  }),
  /** Text by lines: keep their ends. */
  keep_linebreaks: flag(),
};
export interface LoadDatasetOptions extends Options<typeof LOAD_DATASET> {}

/** What load_dataset gives with these options. */
export type Loaded<O> = O extends { readonly streaming: true }
  ? O extends { readonly split: string }
    ? IterableDataset
    : Record<string, IterableDataset>
  : O extends { readonly split: string }
    ? Dataset
    : Record<string, Dataset>;

/**
 * Loads examples: `load_dataset("chats.jsonl", { split: "train" })`, of a folder, or with the name of a format:
 * `load_dataset("json", { data_files: { train: "a.jsonl", test: "b.jsonl" } })`. Formats are told by the files' endings: .jsonl and
 * .json, .csv and .tsv, .txt, .parquet, .arrow. In a folder, files are of the split whose name stands in theirs, else of "train";
 * of what Python's `save_to_disk` wrote, they are of the splits that it names.
 * @throws OptionError; NotFoundError, NetworkError; FormatError with file and line. Of a stream, the last ones come while it is read
 */
export type LoadDataset = <const O extends LoadDatasetOptions = LoadDatasetOptions>(
  path: DataFile,
  options?: O,
) => Promise<Loaded<O>>;

const CALL = "load_dataset";

/** load_dataset on a platform. */
export function loaderOf(reader: DataReader): LoadDataset {
  return async (path, options) => {
    const given = readOptions(CALL, LOAD_DATASET, options);
    const { format, splits } = await found(reader, path, given.data_files);
    const { split, streaming = false } = given;
    checkFormat(format, given);
    const examples = (places: readonly DataPlace[]) =>
      async function* (): AsyncGenerator<Feature> {
        for (const place of places) yield* opened(place, (file) => readerOf(format, given, place.name)(file));
      };
    const of = (places: readonly DataPlace[]): Promise<Dataset> | IterableDataset =>
      streaming ? IterableDataset.from_generator(examples(places)) : inMemory(examples(places)());
    if (split !== undefined) {
      const { name, begin, end } = readSplit(split);
      const places = splits.get(name);
      if (!places) {
        throw new OptionError(`${CALL}: there is no split ${show(name)}, only ${listed([...splits.keys()])}`);
      }
      const whole = await of(places);
      return part(whole, begin, end) as never;
    }
    const made: Record<string, unknown> = {};
    for (const [name, places] of splits) made[name] = await of(places);
    return made as never;
  };
}

async function inMemory(examples: AsyncIterable<Feature>): Promise<Dataset> {
  const rows: Feature[] = [];
  for await (const one of examples) rows.push(one);
  return Dataset.from_list(rows);
}

type Reader = (file: Parameters<typeof jsonExamples>[0]) => AsyncIterable<Feature>;

function readerOf(format: Format, given: LoadDatasetOptions, name: string): Reader {
  const { field, column_names, features, sample_by = "line", keep_linebreaks = false } = given;
  if (format === "json") return (file) => jsonExamples(file, field);
  if (format === "parquet") return parquetExamples;
  if (format === "arrow") return arrowExamples;
  if (format === "csv") {
    const delimiter = given.delimiter ?? given.sep ?? (endingOf(name) === "tsv" ? "\t" : ",");
    return (file) => csvExamples(file, { delimiter, column_names, features });
  }
  return async function* (file) {
    if (sample_by === "document") {
      yield { text: await wholeText(file) };
    } else if (sample_by === "line") {
      for await (const { text } of linesOf(file)) yield { text: keep_linebreaks ? `${text}\n` : text };
    } else {
      let lines: string[] = [];
      for await (const { text } of linesOf(file)) {
        if (text.trim() !== "") lines.push(text);
        else if (lines.length > 0) {
          yield { text: lines.join("\n") };
          lines = [];
        }
      }
      if (lines.length > 0) yield { text: lines.join("\n") };
    }
  };
}

/** Which options are for files of which format. */
const OF_FORMAT: Readonly<Record<string, Format>> = {
  field: "json",
  delimiter: "csv",
  sep: "csv",
  column_names: "csv",
  features: "csv",
  sample_by: "text",
  keep_linebreaks: "text",
};

/** @throws OptionError for options of another format */
function checkFormat(format: Format, given: LoadDatasetOptions): void {
  for (const [name, of] of Object.entries(OF_FORMAT)) {
    if (given[name as keyof LoadDatasetOptions] === undefined || of === format) continue;
    throw new OptionError(`${CALL}: ${name} is for files of ${of}, and these are ${format}`, {
      details: { option: name },
    });
  }
  if (given.keep_linebreaks && given.sample_by !== undefined && given.sample_by !== "line") {
    throw new OptionError(`${CALL}: keep_linebreaks is for sample_by: "line"`, {
      details: { option: "keep_linebreaks" },
    });
  }
}

function endingOf(name: string): string {
  const clean = /^[a-z][a-z0-9+.-]+:\/\//i.test(name) ? name.replace(/[?#].*$/, "") : name;
  return /\.([a-z0-9]+)$/i.exec(clean)?.[1]?.toLowerCase() ?? "";
}

/** The files of each split, and their format. */
interface Found {
  readonly format: Format;
  readonly splits: ReadonlyMap<string, readonly DataPlace[]>;
}

async function found(reader: DataReader, path: DataFile, data_files: LoadDatasetOptions["data_files"]): Promise<Found> {
  const named = (FORMATS as readonly unknown[]).includes(path) ? (path as Format) : undefined;
  if (named !== undefined && data_files === undefined) {
    throw new OptionError(`${CALL}: of which files? ${show(named)} is the name of a format`, {
      hint: `load_dataset("${named}", { data_files: "file.${named === "text" ? "txt" : named}" })`,
    });
  }
  if (named === undefined && data_files !== undefined) {
    throw new OptionError(
      `${CALL}: data_files needs the name of a format, one of ${FORMATS.join(", ")}, got ${show(path)}`,
    );
  }
  const splits = new Map<string, readonly DataPlace[]>();
  if (data_files !== undefined && isObject(data_files) && !isFile(data_files)) {
    for (const [name, files] of Object.entries(data_files)) splits.set(name, await placesIn(reader, files));
    if (splits.size === 0) throw new OptionError(`${CALL}: data_files names no split`);
  } else if (data_files !== undefined) {
    splits.set("train", await placesIn(reader, data_files));
  } else {
    const places = await placesOf(reader, path, "bytes");
    const saved = await savedIn(places);
    if (saved) {
      for (const [split = "train", own] of saved) splits.set(split, own);
      return { format: "arrow", splits };
    }
    if (places.length === 1 && places[0]!.below === undefined) splits.set("train", places);
    else
      bySplit(
        places.filter(({ name }) => ENDINGS.has(endingOf(name))),
        String(path),
        splits,
      );
  }
  return { format: named ?? formatOf([...splits.values()].flat()), splits };
}

async function placesIn(reader: DataReader, files: unknown): Promise<readonly DataPlace[]> {
  const list = isList(files) ? files : [files];
  if (list.length === 0) throw new OptionError(`${CALL}: data_files is an empty list`);
  const places: DataPlace[] = [];
  for (const [i, one] of list.entries()) places.push(...(await placesOf(reader, one, `file ${i + 1} of data_files`)));
  return places;
}

/** @throws OptionError for other endings, and several formats at once */
function formatOf(places: readonly DataPlace[]): Format {
  const kinds = new Set(places.map(({ name }) => ENDINGS.get(endingOf(name))));
  const [only] = kinds;
  if (kinds.size === 1 && only !== undefined) return only;
  const odd = places.find(({ name }) => !ENDINGS.has(endingOf(name)));
  const problem = odd ? `the format of ${odd.name} is not known` : `files of several formats: ${[...kinds].join(", ")}`;
  throw new OptionError(`${CALL}: ${problem}`, {
    hint: 'name it: load_dataset("json", { data_files }), or "csv", "text", "parquet", "arrow"',
  });
}

/** Words by which files of a folder belong to a split, as in Python. */
const SPLITS: readonly (readonly [split: string, words: string])[] = [
  ["train", "train|training"],
  ["validation", "validation|valid|dev|val"],
  ["test", "test|testing|eval|evaluation"],
];

function bySplit(places: readonly DataPlace[], folder: string, splits: Map<string, readonly DataPlace[]>): void {
  if (places.length === 0) {
    throw new NotFoundError(
      `${folder}: no file of examples: ${[...ENDINGS.keys()].map((end) => `.${end}`).join(", ")}`,
      {
        details: { file: folder },
      },
    );
  }
  const splitOf = ({ below = "" }: DataPlace): string | undefined =>
    SPLITS.find(([, words]) => new RegExp(`(^|[^a-z])(${words})([^a-z]|$)`, "i").test(below))?.[0];
  for (const [split] of SPLITS) {
    const own = places.filter((place) => splitOf(place) === split);
    if (own.length > 0) splits.set(split, own);
  }
  if (splits.size === 0) splits.set("train", places);
}

/** A bound of a split: a number of examples or a share of them, from the end below 0. */
type Bound = { readonly value: number; readonly percent: boolean } | undefined;

function readSplit(split: string): { readonly name: string; readonly begin: Bound; readonly end: Bound } {
  const match = /^(\w+(?:\.\w+)*)(?:\[(-?\d+%?)?:(-?\d+%?)?\])?$/.exec(split);
  if (!match) {
    throw new OptionError(`${CALL}: split ${show(split)} is no name of a split, or of a part such as "train[:10%]"`, {
      details: { option: "split" },
    });
  }
  const bound = (text: string | undefined): Bound =>
    text === undefined ? undefined : { value: Number.parseInt(text, 10), percent: text.endsWith("%") };
  return { name: match[1]!, begin: bound(match[2]), end: bound(match[3]) };
}

function part(whole: Dataset | IterableDataset, begin: Bound, end: Bound): Dataset | IterableDataset {
  if (begin === undefined && end === undefined) return whole;
  if (whole instanceof Dataset) {
    const at = (bound: Bound, otherwise: number): number => {
      if (!bound) return otherwise;
      const value = bound.percent ? Math.round((bound.value * whole.length) / 100) : bound.value;
      return Math.min(whole.length, Math.max(0, value < 0 ? whole.length + value : value));
    };
    const from = at(begin, 0);
    return whole.skip(from).take(Math.max(0, at(end, whole.length) - from));
  }
  if ([begin, end].some((bound) => bound && (bound.percent || bound.value < 0))) {
    throw new OptionError(`${CALL}: the length of a stream is not known: a part of it is counted from its beginning`, {
      details: { option: "split" },
    });
  }
  const rest = whole.skip(begin?.value ?? 0);
  return end ? rest.take(Math.max(0, end.value - (begin?.value ?? 0))) : rest;
}
