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
 * How names in published files become names in the tree, and what of a parameter such a tensor is. Rules are applied in
 * order, each to the result of those before.
 * - `ignore`: such tensors are no parameters and are passed over.
 * - `rename`: what matches becomes `to` (`$1` stands for the first group).
 * - `prefix`: files of the bare model leave it out, or a bare model meets it in the files of a task's model.
 * - `transposed`: such matrices are stored as [inputs, outputs].
 * - `expert`: such a matrix belongs to one expert, whose number is the group called `expert`; `to` names the stack.
 * - `fused`: such a tensor holds the rows of several parameters one below the other, in a stack those of each expert; `to`
 *   names them in that order.
 */
export type NameRule =
  | { readonly ignore: RegExp }
  | { readonly rename: RegExp; readonly to: string }
  | { readonly prefix: string }
  | { readonly transposed: RegExp }
  | { readonly expert: RegExp; readonly to: string }
  | { readonly fused: RegExp; readonly to: readonly string[] };

/** What index.ts of the models lists: everything the loader needs to know of one `model_type`. */
export interface Architecture {
  readonly model_type: string;
  /** Builds the tree from config.json; allocates nothing. Throws ConfigError. */
  readonly tasks: { readonly [T in Task]?: (config: ConfigJson) => TaskModels[T] };
  readonly names: readonly NameRule[];
}

/** What a stored tensor is to the tree. */
export interface Place {
  /** The names of the parameters that it holds the rows of; of each the names that it may have, the likeliest first. */
  readonly targets: readonly (readonly string[])[];
  /** The one expert of a stack that it belongs to. */
  readonly expert?: number;
  readonly transposed: boolean;
}

/** What the tensor of that name is to the tree; undefined if it is ignored. */
export function placeOf(stored: string, rules: readonly NameRule[]): Place | undefined {
  let names: readonly string[] = [stored];
  let expert: number | undefined;
  let transposed = false;
  const prefixes: string[] = [];
  for (const rule of rules) {
    if ("ignore" in rule) {
      if (names.some((name) => rule.ignore.test(name))) return undefined;
    } else if ("rename" in rule) names = names.map((name) => name.replace(rule.rename, rule.to));
    else if ("prefix" in rule) prefixes.push(rule.prefix);
    else if ("transposed" in rule) transposed ||= names.some((name) => rule.transposed.test(name));
    else if ("expert" in rule) {
      const number = rule.expert.exec(names[0]!)?.groups?.expert;
      if (number === undefined) continue;
      expert = Number(number);
      names = names.map((name) => name.replace(rule.expert, rule.to));
    } else {
      names = names.flatMap((name) =>
        rule.fused.test(name) ? rule.to.map((to) => name.replace(rule.fused, to)) : [name],
      );
    }
  }
  const targets = names.map((name) => [
    name,
    ...prefixes.map((prefix) => prefix + name),
    ...prefixes.filter((prefix) => name.startsWith(prefix)).map((prefix) => name.slice(prefix.length)),
  ]);
  return { targets, transposed, ...(expert === undefined ? {} : { expert }) };
}
