// The data sets of a trainer that prepares its examples itself, as texts or as preferences.

import { isList, isOf } from "../../core/checks.js";
import { entriesOf, OptionError } from "../../core/errors.js";
import { show } from "../../core/show.js";
import { type ConfigJson, trainedContext } from "../../nn/architecture.js";
import { Dataset } from "./dataset.js";
import { IterableDataset } from "./iterable-dataset.js";
import type { Feature } from "./types.js";

/** TRL's longest text in tokens; a model may read less. */
export const MAX_LENGTH = 1024;

/** The longest text that a model learns from if nobody says. */
export function longestText(config: ConfigJson): number {
  return Math.min(MAX_LENGTH, trainedContext(config) ?? MAX_LENGTH);
}

/** Examples: in memory, as a list, or as a stream. */
export type Examples = Dataset | IterableDataset | readonly Feature[];

interface Given {
  readonly train_dataset?: Examples;
  readonly eval_dataset?: Examples | Readonly<Record<string, Examples>>;
}

type Prepared = Dataset | IterableDataset;

/**
 * Both data sets as a Trainer takes them; absent where they were.
 * @throws OptionError for what is no data set; what `prepare` throws
 */
export function preparedSets(
  call: string,
  { train_dataset, eval_dataset }: Given,
  prepare: (set: Prepared, evaluated: boolean) => Prepared,
): { readonly train_dataset?: Prepared; readonly eval_dataset?: Prepared | Readonly<Record<string, Prepared>> } {
  const one = (name: keyof Given, given: unknown): Prepared => {
    const set = isList(given) ? Dataset.from_list(given as Feature[]) : given;
    if (isOf(set, Dataset) || isOf(set, IterableDataset)) return prepare(set, name === "eval_dataset");
    throw new OptionError(`${call}: ${name} must be a Dataset, an IterableDataset or a list, got ${show(given)}`, {
      details: { option: name },
    });
  };
  const single = isList(eval_dataset) || isOf(eval_dataset, Dataset) || isOf(eval_dataset, IterableDataset);
  const evaluated = (): Prepared | Record<string, Prepared> =>
    single
      ? one("eval_dataset", eval_dataset)
      : Object.fromEntries(entriesOf(call, eval_dataset).map(([name, set]) => [name, one("eval_dataset", set)]));
  return {
    ...(train_dataset === undefined || train_dataset === null
      ? {}
      : { train_dataset: one("train_dataset", train_dataset) }),
    ...(eval_dataset === undefined || eval_dataset === null ? {} : { eval_dataset: evaluated() }),
  };
}
