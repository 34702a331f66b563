// The options of the methods about adapters: one table for each call.

import type { Combination } from "../adapters/weighted.js";
import { listOf } from "../core/checks.js";
import { choice, flag, type Options, signal, such } from "../core/options.js";
import { SOURCE } from "../load/options.js";

const isNames = (value: unknown): boolean =>
  listOf(value, (one): one is string => typeof one === "string") !== undefined;

/** Options of load_adapter. */
export const LOAD_ADAPTER = {
  /** What it is called on the model (default: "default"). */
  adapter_name: such<string>((value) => typeof value === "string", "a name"),
  /** Its parameters ask for gradients (default: false). */
  is_trainable: flag(),
  signal: signal(),
  ...SOURCE,
};
export interface LoadAdapterOptions extends Options<typeof LOAD_ADAPTER> {}

/** Options of merge_adapter and merge_and_unload. */
export const MERGE = {
  /** The adapters to merge; by default those that work. */
  adapter_names: such<readonly string[]>(isNames, "a list of names"),
  /** Look for values that are no numbers before anything changes (default: false; always with float16). */
  safe_merge: flag(),
  /** No effect: nothing is drawn. */
  progressbar: flag(),
};
export interface MergeOptions extends Options<typeof MERGE> {}

/** Options of add_weighted_adapter. */
export const WEIGHTED = {
  /** "cat" is the exact sum, "linear" is near it and keeps the rank. */
  combination_type: choice<Combination>(["linear", "cat"], {
    hint: 'of PEFT\'s ways of combining adapters "linear" and "cat" are here',
  }),
};
