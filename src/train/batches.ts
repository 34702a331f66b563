// The order of examples and the batches that are cut from it. The order is a function of seed and epoch alone, so a resumed run
// finds its place without the batches before it.

import { isFunction, isList } from "../core/checks.js";
import { OptionError } from "../core/errors.js";
import { show } from "../core/show.js";
import type { TrainingArguments } from "./arguments.js";
import { permutation as permuted } from "./data/random.js";
import type { Dataset, Feature, MapDataset } from "./data/types.js";

/** Streams of random numbers from here on belong to the orders of epochs; masks of dropout are far below. */
const ORDERS = 2 ** 40;

/** How the examples of a dataset come; undefined for what is none. */
export function datasetKind(dataset: unknown): "map" | "stream" | undefined {
  try {
    if (isList(dataset)) return "map";
    const { length, at } = dataset as MapDataset;
    if (Number.isSafeInteger(length) && length >= 0 && isFunction(at)) return "map";
    if (isFunction((dataset as AsyncIterable<Feature>)[Symbol.asyncIterator])) return "stream";
  } catch {
    // nothing with members, or with members that cannot be read
  }
  return undefined;
}

/** True for examples by number. @throws OptionError for what is no dataset */
export function isMap(call: string, dataset: unknown): dataset is MapDataset {
  const kind = datasetKind(dataset);
  if (kind) return kind === "map";
  throw new OptionError(
    `${call} must be a list of examples, { length, at(index) } or an async iterable, got ${show(dataset)}`,
  );
}

/** Numbers 0 to count - 1 in the order of an epoch. */
export function permutation(count: number, seed: number, epoch: number): number[] {
  return permuted(count, seed, ORDERS + epoch);
}

/**
 * An order by chance in which examples of like lengths are together: pieces of 50 batches, or a quarter of the data, are sorted, and
 * the longest example comes first, so that what does not fit in memory shows at once.
 */
export function byLength(lengths: readonly number[], batch: number, order: readonly number[]): number[] {
  const size = batch * Math.max(1, Math.min(Math.floor(lengths.length / (batch * 4)), 50));
  const pieces: number[][] = [];
  for (let at = 0; at < order.length; at += size) {
    pieces.push(order.slice(at, at + size).sort((a, b) => lengths[b]! - lengths[a]!));
  }
  const longest = pieces.reduce((best, piece) => (lengths[piece[0]!]! > lengths[best[0]!]! ? piece : best), pieces[0]!);
  if (longest && longest !== pieces[0]) {
    [pieces[0]![0], longest[0]] = [longest[0]!, pieces[0]![0]!];
  }
  return pieces.flat();
}

/** @throws OptionError for what is no example */
function checked(feature: unknown, index: number): Feature {
  if (typeof feature === "object" && feature !== null) return feature as Feature;
  throw new OptionError(`example ${index} must be an object such as { input_ids }, got ${show(feature)}`);
}

/** The lengths of all examples. */
async function lengthsOf(dataset: MapDataset, column: string): Promise<number[]> {
  const lengths: number[] = [];
  for (let i = 0; i < dataset.length; i++) {
    const { [column]: given, input_ids } = checked(await dataset.at(i), i);
    const length = typeof given === "number" ? given : (input_ids as ArrayLike<number> | undefined)?.length;
    if (length === undefined) {
      throw new OptionError(`group_by_length: example ${i} has neither ${column} nor input_ids`, {
        details: { option: "length_column_name" },
      });
    }
    lengths.push(length);
  }
  return lengths;
}

export interface BatchPlan {
  readonly size: number;
  readonly drop_last: boolean;
  /** The order of an epoch; by default as they come. */
  readonly order?: (epoch: number) => Promise<readonly number[]>;
}

/** How the examples of training come. */
export function trainingPlan(dataset: Dataset, args: TrainingArguments): BatchPlan {
  const size = args.per_device_train_batch_size;
  const plan = { size, drop_last: args.dataloader_drop_last };
  if (!isMap("train_dataset", dataset) || args.train_sampling_strategy === "sequential") return plan;
  const seed = args.data_seed ?? args.seed;
  if (args.train_sampling_strategy === "random") {
    return { ...plan, order: async (epoch) => permutation(dataset.length, seed, epoch) };
  }
  let lengths: Promise<number[]> | undefined;
  return {
    ...plan,
    async order(epoch) {
      lengths ??= lengthsOf(dataset, args.length_column_name);
      return byLength(await lengths, size, permutation(dataset.length, seed, epoch));
    },
  };
}

/** Batches of an epoch; undefined for a stream. */
export function batchCount(dataset: Dataset, { size, drop_last }: BatchPlan): number | undefined {
  if (!isMap("a dataset", dataset)) return undefined;
  return drop_last ? Math.floor(dataset.length / size) : Math.ceil(dataset.length / size);
}

/** The examples of each batch of an epoch, from batch `from` on. */
export async function* batchesOf(
  dataset: Dataset,
  { size, drop_last, order: orderOf }: BatchPlan,
  epoch: number,
  from = 0,
): AsyncGenerator<Feature[]> {
  if (isMap("a dataset", dataset)) {
    const { length } = dataset;
    const order = await orderOf?.(epoch);
    for (let at = from * size; at < length; at += size) {
      const count = Math.min(size, length - at);
      if (drop_last && count < size) return;
      const indices = Array.from({ length: count }, (_, i) => order?.[at + i] ?? at + i);
      yield (await Promise.all(indices.map((i) => dataset.at(i)))).map((one, i) => checked(one, indices[i]!));
    }
    return;
  }
  // A stream that draws at random draws anew in each epoch, and in a resumed one as before.
  const { set_epoch } = dataset as { set_epoch?: (this: unknown, epoch: number) => void };
  if (isFunction(set_epoch)) set_epoch.call(dataset, epoch);
  let batch: Feature[] = [];
  let skipped = from * size;
  let index = 0;
  for await (const feature of dataset) {
    if (skipped > 0) {
      skipped--;
      index++;
      continue;
    }
    batch.push(checked(feature, index++));
    if (batch.length < size) continue;
    yield batch;
    batch = [];
  }
  if (batch.length > 0 && !drop_last) yield batch;
}
