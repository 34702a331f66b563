// The data of octavo train: files to examples, examples to tokens, and what is known of them before training.

import { OptionError } from "../core/errors.js";
import { DISK_FILES } from "../load/disk.js";
import type { PreTrainedTokenizer } from "../tokenizer/api.js";
import { Dataset } from "../train/data/dataset.js";
import { IterableDataset } from "../train/data/iterable-dataset.js";
import { loaderOf } from "../train/data/load.js";
import { prepare_sft_dataset } from "../train/data/sft.js";
import type { SFTOptions } from "../train/data/sft-options.js";
import { dataOptions, type TrainFlags } from "./train-flags.js";

const load_dataset = loaderOf(DISK_FILES);

export interface TrainData<D = Dataset | IterableDataset> {
  readonly train: D;
  readonly evaluated: Dataset | undefined;
}

/** What is known of examples in memory. */
export interface DataFacts {
  /** Examples of the files, and rows that are left of them. */
  readonly examples: number;
  readonly rows: number;
  readonly tokens: number;
  /** Tokens that count in the loss. */
  readonly learned: number;
  /** Tokens of the longest row. */
  readonly longest: number;
}

/** The examples of files, all of one split. @throws what load_dataset throws */
async function examplesOf(files: readonly string[], flags: TrainFlags, split: string): Promise<Dataset> {
  const rows = [];
  for (const file of files) {
    const { [split]: first, ...others } = await loaded(file, flags);
    const found = first ?? Object.values(others)[0];
    for (const row of found ?? []) rows.push(row);
  }
  return Dataset.from_list(rows);
}

function loaded(file: string, flags: TrainFlags): Promise<Record<string, Dataset>> {
  const options = dataOptions(flags);
  return flags.format === undefined
    ? load_dataset(file, options)
    : load_dataset(flags.format, { ...options, data_files: file });
}

/** Reads the files. @throws OptionError for files without an example, and for flags that do not fit; what load_dataset throws */
export async function readData(flags: TrainFlags, seed: number): Promise<TrainData> {
  const { data, evalData, evalSplit, streaming, shuffleBuffer } = flags;
  const evaluated = evalData && (await examplesOf(evalData, flags, "test"));
  if (evaluated?.length === 0) throw new OptionError(`${evalData!.join(", ")}: there is no example in it`);
  if (streaming) {
    if (evalSplit !== undefined) {
      throw new OptionError("--eval-split is for data in memory; a stream has --eval-data");
    }
    const streams: IterableDataset[] = [];
    for (const file of data) {
      const options = { ...dataOptions(flags), split: "train", streaming: true } as const;
      streams.push(
        flags.format === undefined
          ? await load_dataset(file, options)
          : await load_dataset(flags.format, { ...options, data_files: file }),
      );
    }
    const joined = IterableDataset.from_generator(async function* () {
      for (const stream of streams) yield* stream;
    });
    return { train: joined.shuffle({ seed, buffer_size: shuffleBuffer }), evaluated };
  }
  const train = await examplesOf(data, flags, "train");
  if (train.length === 0) throw new OptionError(`${data.join(", ")}: there is no example in it`);
  if (evalSplit === undefined) return { train, evaluated };
  const parts = train.train_test_split({ test_size: evalSplit, seed });
  return { train: parts.train, evaluated: parts.test };
}

/** Examples as tokens. @throws OptionError for examples of no format, and if nothing is left to learn */
export function tokenized(
  { train, evaluated }: TrainData,
  tokenizer: PreTrainedTokenizer,
  options: SFTOptions,
): TrainData {
  const rows = prepare_sft_dataset(train as Dataset, tokenizer, options) as Dataset | IterableDataset;
  if (rows instanceof Dataset && rows.length === 0) {
    throw new OptionError("no example has a token to learn", { hint: "are completions cut off? raise --max-length" });
  }
  // Texts to evaluate on are not packed: their loss is a mean over texts.
  const { packing: _, packing_strategy: __, ...plain } = options;
  return { train: rows, evaluated: evaluated && prepare_sft_dataset(evaluated, tokenizer, plain) };
}

/** What is known of rows; undefined for a stream. */
export function factsOf({ train: examples }: TrainData, { train: rows }: TrainData): DataFacts | undefined {
  if (!(examples instanceof Dataset) || !(rows instanceof Dataset)) return undefined;
  let [tokens, learned, longest] = [0, 0, 0];
  for (const row of rows) {
    const { length } = row.input_ids as readonly number[];
    tokens += length;
    longest = Math.max(longest, length);
    for (const label of row.labels as readonly number[]) if (label !== -100) learned++;
  }
  return { examples: examples.length, rows: rows.length, tokens, learned, longest };
}
