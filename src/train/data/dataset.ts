// Dataset: examples in memory, with the methods of Python's datasets. Each method gives a new dataset; examples are not copied.

import { isFunction, isList, isWhole, listOf } from "../../core/checks.js";
import { OptionError } from "../../core/errors.js";
import { flag, number, type Options, readOptions, such, whole } from "../../core/options.js";
import { show } from "../../core/show.js";
import { isObject } from "./json-lines.js";
import { permutation, seedOption } from "./random.js";
import type { Feature, MapDataset } from "./types.js";

const isName = (value: unknown): value is string => typeof value === "string";
const names = () =>
  such<string | readonly string[]>(
    (value) => isName(value) || listOf(value, isName) !== undefined,
    "a name or a list of names",
  );

export const MAP = {
  /** The function gets columns of `batch_size` examples, and gives columns of any length. */
  batched: flag(),
  /** Examples of a batch; default 1000. */
  batch_size: whole(1),
  /** The function also gets the number of the example, or those of the batch. */
  with_indices: flag(),
  /** Columns that are left out of what the function adds to. */
  remove_columns: names(),
};
export interface MapOptions extends Options<typeof MAP> {}

const SHUFFLE = {
  /** Default 0. */
  seed: seedOption(),
};

const SPLIT = {
  /** Examples of the test part: a count, or a share below 1. Default 0.25, or what `train_size` leaves. */
  test_size: number((value) => value > 0 && (value < 1 || Number.isInteger(value)), "a count, or a share below 1"),
  /** The same for the training part; by default the rest. */
  train_size: number((value) => value > 0 && (value < 1 || Number.isInteger(value)), "a count, or a share below 1"),
  /** Shuffle first. Default true. */
  shuffle: flag(),
  /** Default 0. */
  seed: seedOption(),
};
export interface SplitOptions extends Options<typeof SPLIT> {}

/** What a function of `map` gives: fields that are set; null leaves the example as it is. */
export type Mapped = Feature | null | undefined;
export type MapFunction = (example: Feature, index: number) => Mapped;

/** Examples as columns: lists of the same length by their names. */
export type Columns = Readonly<Record<string, readonly unknown[]>>;

/** Refuses a promise: examples in memory are made at once. @throws OptionError */
export function notLater<T>(call: string, value: T): T {
  if (!isPromise(value)) return value;
  throw new OptionError(`${call}: the function gave a promise`, {
    hint: "await what it needs before; a stream (streaming: true) takes functions that give promises",
  });
}

/** True for what has to be awaited. */
export function isPromise(value: unknown): value is PromiseLike<unknown> {
  try {
    return typeof (value as { then?: unknown } | null | undefined)?.then === "function";
  } catch {
    return false; // what cannot be read is refused by whoever reads it
  }
}

/** @throws OptionError */
export function checkFunction(call: string, value: unknown): void {
  if (!isFunction(value)) throw new OptionError(`${call}: expected a function, got ${show(value)}`);
}

/** @throws OptionError */
export function readNames(call: string, given: unknown): readonly string[] {
  const list = isName(given) ? [given] : listOf(given, isName);
  if (list) return list;
  throw new OptionError(`${call}: expected a name or a list of names, got ${show(given)}`);
}

/** An example without some of its fields. */
export function without(example: Feature, left: readonly string[]): Feature {
  if (left.length === 0) return example;
  return Object.fromEntries(Object.entries(example).filter(([name]) => !left.includes(name)));
}

/** What a function of `map` made of an example. @throws OptionError for what is no object */
export function merged(call: string, example: Feature, made: unknown, left: readonly string[]): Feature {
  if (made === null || made === undefined) return without(example, left);
  if (isObject(made)) return { ...without(example, left), ...made };
  throw new OptionError(`${call}: the function must give an object of fields, got ${show(made)}`);
}

/** Names of fields, in the order in which they first appear. */
function namesIn(rows: readonly Feature[]): string[] {
  const names = new Set<string>();
  for (const row of rows) for (const name of Object.keys(row)) names.add(name);
  return [...names];
}

/** Examples as columns. Fields that an example lacks are undefined. */
export function columnsOf(rows: readonly Feature[]): Record<string, unknown[]> {
  return Object.fromEntries(namesIn(rows).map((name) => [name, rows.map((row) => row[name])]));
}

/** Most examples in memory. */
const MOST_ROWS = 2 ** 28;

/** Columns as examples. @throws OptionError for columns of different lengths */
export function rowsOf(call: string, columns: unknown): Feature[] {
  if (!isObject(columns)) throw new OptionError(`${call}: expected columns by name, got ${show(columns)}`);
  const entries = Object.entries(columns);
  const lists = entries.map(([name, list]) => {
    if (isList(list)) return list;
    throw new OptionError(`${call}: column ${show(name)} must be a list, got ${show(list)}`);
  });
  const length = lists[0]?.length ?? 0;
  if (length > MOST_ROWS) throw new OptionError(`${call}: ${length} examples do not fit in memory`);
  const other = lists.findIndex((list) => list.length !== length);
  if (other >= 0) {
    const [a, b] = [entries[0]![0], entries[other]![0]];
    throw new OptionError(`${call}: column ${a} has ${length} entries, and ${b} has ${lists[other]!.length}`);
  }
  return Array.from({ length }, (_, i) => Object.fromEntries(entries.map(([name], c) => [name, lists[c]![i]])));
}

/** A batch of examples, mapped as columns. */
export function mappedBatch(call: string, rows: readonly Feature[], made: unknown, left: readonly string[]): Feature[] {
  const old = columnsOf(rows.map((row) => without(row, left)));
  const fresh = made === null || made === undefined ? {} : made;
  if (!isObject(fresh)) throw new OptionError(`${call}: the function must give columns, got ${show(fresh)}`);
  const lengths = Object.values(fresh).map((list) => (isList(list) ? list.length : -1));
  if (lengths.length > 0 && lengths[0] !== rows.length && Object.keys(old).length > 0) {
    const kept = Object.keys(old).filter((name) => !Object.hasOwn(fresh, name));
    if (kept.length > 0) {
      throw new OptionError(`${call}: ${rows.length} examples became ${lengths[0]}, and ${kept.join(", ")} did not`, {
        hint: `remove_columns: ${JSON.stringify(kept)}`,
      });
    }
  }
  return rowsOf(call, { ...old, ...fresh });
}

export class Dataset implements MapDataset, Iterable<Feature> {
  readonly #rows: readonly Feature[];

  /** Of a list of objects. @throws OptionError */
  constructor(rows: readonly Feature[]) {
    const list = listOf(rows, isObject);
    if (!list) throw new OptionError(`Dataset: expected a list of objects, got ${show(rows)}`);
    this.#rows = list;
  }

  /** The same, by Python's name. @throws OptionError */
  static from_list(rows: readonly Feature[]): Dataset {
    return new Dataset(rows);
  }

  /** Of columns: `{ text: ["a", "b"], label: [0, 1] }`. @throws OptionError */
  static from_dict(columns: Columns): Dataset {
    return new Dataset(rowsOf("Dataset.from_dict", columns));
  }

  get length(): number {
    return this.#rows.length;
  }

  /** Python's name for `length`. */
  get num_rows(): number {
    return this.#rows.length;
  }

  /** Names of the fields, in the order in which they first appear. */
  get column_names(): string[] {
    return namesIn(this.#rows);
  }

  /** Example `index`, counted from the end below 0. @throws OptionError */
  at(index: number): Feature {
    const row = Number.isInteger(index) ? this.#rows.at(index) : undefined;
    if (row) return row;
    throw new OptionError(`dataset.at: there are ${this.length} examples, and none has the number ${show(index)}`);
  }

  [Symbol.iterator](): Iterator<Feature> {
    return this.#rows[Symbol.iterator]();
  }

  to_list(): Feature[] {
    return [...this.#rows];
  }

  /** All values of a field, undefined where an example lacks it. @throws OptionError */
  column(name: string): unknown[] {
    this.#known("dataset.column", [name]);
    return this.#rows.map((row) => row[name]);
  }

  #known(call: string, given: readonly string[]): void {
    const known = this.column_names;
    const strange = given.find((name) => !known.includes(name));
    if (strange === undefined) return;
    throw new OptionError(`${call}: there is no column ${show(strange)}; there are ${known.join(", ") || "none"}`);
  }

  /**
   * The examples with the fields that a function gives; a field of the same name is replaced.
   * @throws OptionError, and what the function throws
   */
  map(use: MapFunction, options?: MapOptions & { readonly batched?: false }): Dataset;
  map(use: (batch: Columns, indices: readonly number[]) => Mapped, options: MapOptions): Dataset;
  map(use: (given: never, at: never) => Mapped, options: MapOptions = {}): Dataset {
    const call = "dataset.map";
    checkFunction(call, use);
    const { batched, batch_size = 1000, with_indices, remove_columns = [] } = readOptions(call, MAP, options);
    const run = use as (given: unknown, at?: unknown) => Mapped;
    const left = readNames(call, remove_columns);
    this.#known(call, left);
    if (!batched) {
      return new Dataset(
        this.#rows.map((row, i) =>
          merged(call, row, notLater(call, with_indices === false ? run(row) : run(row, i)), left),
        ),
      );
    }
    const made: Feature[] = [];
    for (let at = 0; at < this.length; at += batch_size) {
      const rows = this.#rows.slice(at, at + batch_size);
      const indices = rows.map((_, i) => at + i);
      for (const row of mappedBatch(call, rows, notLater(call, run(columnsOf(rows), indices)), left)) made.push(row);
    }
    return new Dataset(made);
  }

  /** The examples for which a function gives true. @throws OptionError, and what the function throws */
  filter(use: (example: Feature, index: number) => unknown): Dataset {
    checkFunction("dataset.filter", use);
    return new Dataset(this.#rows.filter((row, i) => Boolean(notLater("dataset.filter", use(row, i)))));
  }

  /** Examples by their numbers, in that order. @throws OptionError */
  select(indices: Iterable<number>): Dataset {
    const rows: Feature[] = [];
    for (const index of iterated("dataset.select", indices)) {
      if (!isWhole(index) || index >= this.length) {
        throw new OptionError(
          `dataset.select: there are ${this.length} examples, and none has the number ${show(index)}`,
        );
      }
      rows.push(this.#rows[index]!);
    }
    return new Dataset(rows);
  }

  /** The first examples. @throws OptionError */
  take(count: number): Dataset {
    return new Dataset(this.#rows.slice(0, checkCount("dataset.take", count)));
  }

  /** The examples behind the first ones. @throws OptionError */
  skip(count: number): Dataset {
    return new Dataset(this.#rows.slice(checkCount("dataset.skip", count)));
  }

  /** The examples in an order that the seed alone decides. @throws OptionError */
  shuffle(options: Options<typeof SHUFFLE> = {}): Dataset {
    const { seed = 0 } = readOptions("dataset.shuffle", SHUFFLE, options);
    return new Dataset(permutation(this.length, seed).map((index) => this.#rows[index]!));
  }

  /**
   * Two parts without a common example. A share of the test part is rounded up, as in Python.
   * @throws OptionError for parts that are empty, or larger than the whole
   */
  train_test_split(options: SplitOptions | number = {}): { readonly train: Dataset; readonly test: Dataset } {
    const call = "dataset.train_test_split";
    const given = typeof options === "number" ? { test_size: options } : options;
    const { test_size, train_size, shuffle = true, seed = 0 } = readOptions(call, SPLIT, given);
    const total = this.length;
    const counted = (size: number, round: (x: number) => number): number => (size < 1 ? round(size * total) : size);
    const test =
      test_size !== undefined || train_size === undefined
        ? counted(test_size ?? 0.25, Math.ceil)
        : total - counted(train_size, Math.floor);
    const train = train_size === undefined ? total - test : counted(train_size, Math.floor);
    if (test < 1 || train < 1 || test + train > total) {
      throw new OptionError(`${call}: ${total} examples cannot be split into ${train} and ${test}`, {
        hint: "each part needs at least one example",
      });
    }
    const order = shuffle ? permutation(total, seed) : Array.from({ length: total }, (_, i) => i);
    const part = (of: readonly number[]): Dataset => new Dataset(of.map((index) => this.#rows[index]!));
    // Python's order: of shuffled examples the test part comes first.
    return shuffle
      ? { test: part(order.slice(0, test)), train: part(order.slice(test, test + train)) }
      : { train: part(order.slice(0, train)), test: part(order.slice(train, train + test)) };
  }

  /** Part `index` of `num_shards` of about the same length, one behind the other. @throws OptionError */
  shard(options: { readonly num_shards: number; readonly index: number }): Dataset {
    const { num_shards, index } = readOptions("dataset.shard", { num_shards: whole(1), index: whole(0) }, options);
    if (num_shards === undefined || index === undefined || index >= num_shards) {
      throw new OptionError(`dataset.shard: expected num_shards and an index below it, got ${show(options)}`);
    }
    const [each, more] = [Math.floor(this.length / num_shards), this.length % num_shards];
    const begin = index * each + Math.min(index, more);
    return new Dataset(this.#rows.slice(begin, begin + each + (index < more ? 1 : 0)));
  }

  /** @throws OptionError */
  remove_columns(given: string | readonly string[]): Dataset {
    const left = readNames("dataset.remove_columns", given);
    this.#known("dataset.remove_columns", left);
    return new Dataset(this.#rows.map((row) => without(row, left)));
  }

  /** @throws OptionError */
  select_columns(given: string | readonly string[]): Dataset {
    const kept = readNames("dataset.select_columns", given);
    this.#known("dataset.select_columns", kept);
    return new Dataset(
      this.#rows.map((row) => Object.fromEntries(kept.filter((name) => name in row).map((name) => [name, row[name]]))),
    );
  }

  /** @throws OptionError */
  rename_column(name: string, to: string): Dataset {
    const [from, next] = [readNames("dataset.rename_column", name), readNames("dataset.rename_column", to)];
    this.#known("dataset.rename_column", from);
    if (this.column_names.includes(next[0]!)) {
      throw new OptionError(`dataset.rename_column: there is a column ${show(to)} already`);
    }
    return new Dataset(
      this.#rows.map((row) =>
        Object.fromEntries(Object.entries(row).map(([key, value]) => [key === name ? to : key, value])),
      ),
    );
  }
}

/** @throws OptionError */
export function checkCount(call: string, count: unknown): number {
  if (isWhole(count)) return count;
  throw new OptionError(`${call}: expected a whole number of at least 0, got ${show(count)}`);
}

/** What can be walked. @throws OptionError for anything else */
function iterated(call: string, given: unknown): Iterable<unknown> {
  try {
    const begun = (given as Iterable<unknown>)[Symbol.iterator]();
    return { [Symbol.iterator]: () => begun };
  } catch {
    // nothing that can be walked, or whose memory is gone
  }
  throw new OptionError(`${call}: expected numbers of examples, got ${show(given)}`);
}
