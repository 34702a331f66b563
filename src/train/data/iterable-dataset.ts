// IterableDataset: examples that come one after the other, of files that need not fit in memory. Functions work on them as they come.

import { isFunction, isWhole } from "../../core/checks.js";
import { OptionError } from "../../core/errors.js";
import { type Options, readOptions, whole } from "../../core/options.js";
import { show } from "../../core/show.js";
import {
  type Columns,
  checkCount,
  checkFunction,
  columnsOf,
  isPromise,
  MAP,
  type MapOptions,
  type Mapped,
  mappedBatch,
  merged,
  readNames,
} from "./dataset.js";
import { isObject } from "./json-lines.js";
import { integers, seedOption, shuffle } from "./random.js";
import type { Feature } from "./types.js";

const SHUFFLE = {
  /** Default 0. */
  seed: seedOption(),
  /** Examples in memory, of which the next one is drawn; default 1000. */
  buffer_size: whole(1),
};
export interface StreamShuffleOptions extends Options<typeof SHUFFLE> {}

/** Gives the examples from the first on; `epoch` is for what draws at random. */
type Open = (epoch: number) => AsyncIterable<Feature>;

export class IterableDataset implements AsyncIterable<Feature> {
  readonly #open: Open;
  #epoch = 0;

  /** Of a function that gives the examples of an epoch, as from_generator. @throws OptionError */
  constructor(open: Open) {
    checkFunction("IterableDataset", open);
    this.#open = open;
  }

  /** Of a function that gives the examples, from the first one on each time that it is called. @throws OptionError */
  static from_generator(open: () => AsyncIterable<Feature> | Iterable<Feature>): IterableDataset {
    checkFunction("IterableDataset.from_generator", open);
    return new IterableDataset(async function* () {
      for await (const one of walked(open())) yield checkedExample(one);
    });
  }

  [Symbol.asyncIterator](): AsyncIterator<Feature> {
    return walked(this.#open(this.#epoch))[Symbol.asyncIterator]();
  }

  /** The pass that begins next: shuffled examples come in another order in each. @throws OptionError */
  set_epoch(epoch: number): void {
    if (!isWhole(epoch)) throw new OptionError(`dataset.set_epoch: expected a whole number, got ${show(epoch)}`);
    this.#epoch = epoch;
  }

  /** What the examples of this one become; an epoch set here or there counts for both. */
  #then(next: (examples: AsyncIterable<Feature>, epoch: number) => AsyncIterable<Feature>): IterableDataset {
    return new IterableDataset((epoch) => {
      const now = epoch + this.#epoch;
      return next(walked(this.#open(now)), now);
    });
  }

  /** What a function makes of all examples as they come. @throws OptionError */
  pipe(use: (examples: AsyncIterable<Feature>) => AsyncIterable<Feature>): IterableDataset {
    checkFunction("dataset.pipe", use);
    return this.#then(use);
  }

  /** As Dataset's; the function may give promises. @throws OptionError, and while examples are read what the function throws */
  map(
    use: (example: Feature, index: number) => Mapped | Promise<Mapped>,
    options?: MapOptions & { readonly batched?: false },
  ): IterableDataset;
  map(
    use: (batch: Columns, indices: readonly number[]) => Mapped | Promise<Mapped>,
    options: MapOptions,
  ): IterableDataset;
  map(use: (given: never, at: never) => Mapped | Promise<Mapped>, options: MapOptions = {}): IterableDataset {
    const call = "dataset.map";
    checkFunction(call, use);
    const { batched, batch_size = 1000, with_indices, remove_columns = [] } = readOptions(call, MAP, options);
    const left = readNames(call, remove_columns);
    const run = use as (given: unknown, at?: unknown) => Mapped | Promise<Mapped>;
    if (!batched) {
      return this.#then(async function* (examples) {
        let index = 0;
        for await (const one of examples) {
          const made = with_indices === false ? run(one) : run(one, index);
          yield merged(call, one, isPromise(made) ? await made : made, left);
          index++;
        }
      });
    }
    return this.#then(async function* (examples) {
      let index = 0;
      for await (const rows of groups(examples, batch_size)) {
        const indices = rows.map((_, i) => index + i);
        index += rows.length;
        const made = run(columnsOf(rows), indices);
        yield* mappedBatch(call, rows, isPromise(made) ? await made : made, left);
      }
    });
  }

  /** @throws OptionError, and while examples are read what the function throws */
  filter(use: (example: Feature, index: number) => unknown): IterableDataset {
    checkFunction("dataset.filter", use);
    return this.#then(async function* (examples) {
      let index = 0;
      for await (const one of examples) {
        const kept = use(one, index++);
        if (isPromise(kept) ? await kept : kept) yield one;
      }
    });
  }

  /** The first examples. @throws OptionError */
  take(count: number): IterableDataset {
    const most = checkCount("dataset.take", count);
    return this.#then(async function* (examples) {
      let left = most;
      if (left === 0) return;
      for await (const one of examples) {
        yield one;
        if (--left === 0) return;
      }
    });
  }

  /** The examples behind the first ones. @throws OptionError */
  skip(count: number): IterableDataset {
    const fewest = checkCount("dataset.skip", count);
    return this.#then(async function* (examples) {
      let left = fewest;
      for await (const one of examples) if (left-- <= 0) yield one;
    });
  }

  /**
   * The examples in another order, as far as a buffer reaches: the next one is drawn from those in it, and replaced by the one that
   * follows in the file. Seed and epoch decide.
   * @throws OptionError
   */
  shuffle(options: StreamShuffleOptions = {}): IterableDataset {
    const { seed = 0, buffer_size = 1000 } = readOptions("dataset.shuffle", SHUFFLE, options);
    return this.#then(async function* (examples, epoch) {
      const below = integers(seed, epoch);
      const buffer: Feature[] = [];
      for await (const one of examples) {
        if (buffer.length < buffer_size) {
          buffer.push(one);
          continue;
        }
        const at = below(buffer.length);
        yield buffer[at]!;
        buffer[at] = one;
      }
      yield* shuffle(buffer, below);
    });
  }
}

/** Examples that come one after the other. @throws OptionError for what is no iterable */
function walked(given: AsyncIterable<Feature> | Iterable<Feature>): AsyncIterable<Feature> {
  try {
    if (isFunction((given as AsyncIterable<Feature>)[Symbol.asyncIterator])) return given as AsyncIterable<Feature>;
    if (isFunction((given as Iterable<Feature>)[Symbol.iterator])) return later(given as Iterable<Feature>);
  } catch {
    // nothing with members, or with members that cannot be read
  }
  throw new OptionError(`IterableDataset: the function must give examples that can be walked, got ${show(given)}`);
}

async function* later(given: Iterable<Feature>): AsyncGenerator<Feature> {
  for (const one of given) yield checkedExample(one);
}

/** @throws OptionError */
function checkedExample(one: unknown): Feature {
  if (isObject(one)) return one;
  throw new OptionError(`IterableDataset: an example must be an object, got ${show(one)}`);
}

async function* groups(examples: AsyncIterable<Feature>, size: number): AsyncGenerator<Feature[]> {
  let rows: Feature[] = [];
  for await (const one of examples) {
    rows.push(one);
    if (rows.length < size) continue;
    yield rows;
    rows = [];
  }
  if (rows.length > 0) yield rows;
}
