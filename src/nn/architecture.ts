// The description of an architecture that the loader works with: which tasks it offers, and what its tensors are called in
// published files.

import type { CausalLM } from "./decoder.js";
import type { EncoderModel } from "./encoder.js";
import type { Seq2SeqLM } from "./seq2seq.js";

/** The fields of a config.json, unchecked. */
export type ConfigJson = Readonly<Record<string, unknown>>;

/** The class of model that each task gives. */
export interface TaskModels {
  "causal-lm": CausalLM;
  "seq2seq-lm": Seq2SeqLM;
  "masked-lm": EncoderModel;
  "sequence-classification": EncoderModel;
}

/** What a model is for. */
export type Task = keyof TaskModels;

/**
 * How names in published files become names in the tree. Rules are applied in order, each to the result of those before.
 * - `ignore`: such tensors are no parameters and are passed over.
 * - `rename`: what matches becomes `to` (`$1` stands for the first group).
 * - `prefix`: files of the bare model leave it out, or a bare model meets it in the files of a task's model.
 */
export type NameRule =
  | { readonly ignore: RegExp }
  | { readonly rename: RegExp; readonly to: string }
  | { readonly prefix: string };

/** What index.ts of the models lists: everything the loader needs to know of one `model_type`. */
export interface Architecture {
  readonly model_type: string;
  /** Builds the tree from config.json; allocates nothing. Throws ConfigError. */
  readonly tasks: { readonly [T in Task]?: (config: ConfigJson) => TaskModels[T] };
  readonly names: readonly NameRule[];
}

/** The names in the tree that a stored name may stand for, the likeliest first; none if it is ignored. */
export function treeNames(stored: string, rules: readonly NameRule[]): string[] {
  let name = stored;
  const prefixes: string[] = [];
  for (const rule of rules) {
    if ("ignore" in rule) {
      if (rule.ignore.test(name)) return [];
    } else if ("rename" in rule) name = name.replace(rule.rename, rule.to);
    else prefixes.push(rule.prefix);
  }
  return [
    name,
    ...prefixes.map((prefix) => prefix + name),
    ...prefixes.filter((prefix) => name.startsWith(prefix)).map((prefix) => name.slice(prefix.length)),
  ];
}
