// What the loader knows of an architecture: which tasks it offers, and the names of its tensors in published files.

import type { CausalLM } from "./decoder.js";
import type { DualModel } from "./dual.js";
import type { EncoderModel } from "./encoder.js";
import type { FeatureModel, Features, Logits } from "./features.js";
import type { Seq2SeqLM } from "./seq2seq.js";

/** The fields of a config.json, unchecked. */
export type ConfigJson = Readonly<Record<string, unknown>>;

/** Tokens of the longest text that a model was trained on, if its config says so; not every architecture is limited to it. */
export function trainedContext(config: ConfigJson): number | undefined {
  const length = config.max_position_embeddings ?? config.n_positions ?? config.max_seq_len ?? config.seq_length;
  return typeof length === "number" ? length : undefined;
}

/** The model class of each task. */
export interface TaskModels {
  "causal-lm": CausalLM;
  "seq2seq-lm": Seq2SeqLM;
  /** The model without a head: its hidden states. */
  base: EncoderModel | FeatureModel<Features> | DualModel;
  "masked-lm": EncoderModel;
  "sequence-classification": EncoderModel;
  "token-classification": EncoderModel;
  "question-answering": EncoderModel;
  "speech-seq2seq": Seq2SeqLM;
  ctc: FeatureModel<Logits>;
  "image-classification": FeatureModel<Logits>;
  "audio-classification": FeatureModel<Logits>;
  clip: DualModel;
}

/** What a model is for. */
export type Task = keyof TaskModels;

/**
 * How names in published files map to names in the tree, and which part of a parameter such a tensor is. Rules are applied
 * in order, each to the result of the previous ones.
 * - `ignore`: such tensors are not parameters and are skipped.
 * - `spare`: nothing is said of such tensors where a model has no parameter for them.
 * - `also`: where a model has no parameter of that name, the match may be `to`: what another form of the same part is called.
 * - `rename`: the match becomes `to` (`$1` is the first group).
 * - `prefix`: files of the bare model omit it, or a bare model reads the files of a task's model.
 * - `transposed`: such matrices are stored as [inputs, outputs].
 * - `expert`: such a matrix belongs to one expert, numbered by the group called `expert`; `to` names the stack.
 * - `magnitude` and `direction`: such tensors are the two parts of a normalised weight, which `to` names in place of the match.
 * - `ending`: names that end so end with `to` in the tree, and are written so again. With `inputs_first` they are matrices, each stored as
 *   [inputs, outputs]; those of a stack as one tensor [E, inputs, outputs].
 * - `fused`: such a tensor holds the rows of several parameters one below the other, in a stack those of each expert; `to`
 *   names them in that order.
 */
export type NameRule =
  | { readonly ignore: RegExp }
  | { readonly spare: RegExp }
  | { readonly also: RegExp; readonly to: string }
  | { readonly rename: RegExp; readonly to: string }
  | { readonly prefix: string }
  | { readonly transposed: RegExp }
  | { readonly expert: RegExp; readonly to: string }
  | { readonly ending: string; readonly to: string; readonly inputs_first?: boolean }
  | { readonly magnitude: RegExp; readonly direction: RegExp; readonly to: string }
  | { readonly fused: RegExp; readonly to: readonly string[] };

/** Everything the loader needs to know of one `model_type`; index.ts of the models lists them. */
export interface Architecture {
  readonly model_type: string;
  /** Builds the tree from config.json; allocates nothing. Throws ConfigError. */
  readonly tasks: { readonly [T in Task]?: (config: ConfigJson) => TaskModels[T] };
  readonly names: readonly NameRule[];
}

/** The name with another ending; undefined if it does not end so. */
function swapped(name: string, ending: string, to: string): string | undefined {
  return name.endsWith(ending) ? name.slice(0, -ending.length) + to : undefined;
}

/** What files call a parameter of the tree whose name ends differently there. */
export function endingOf(
  name: string,
  rules: readonly NameRule[],
): { readonly name: string; readonly transposed: boolean } | undefined {
  for (const rule of rules) {
    const stored = "ending" in rule ? swapped(name, rule.to, rule.ending) : undefined;
    if (stored !== undefined && "ending" in rule) return { name: stored, transposed: rule.inputs_first === true };
  }
  return undefined;
}

/** The role of a stored tensor in the tree. */
interface Place {
  /** The parameters whose rows it holds; for each its possible names, the likeliest first. */
  readonly targets: readonly (readonly string[])[];
  /** The expert of a stack that it belongs to. */
  readonly expert?: number;
  /** Which part of a normalised weight it is. */
  readonly part?: "magnitude" | "direction";
  readonly transposed: boolean;
}

/** True if nothing is to be said of a stored tensor that the model has no parameter for. */
export function isSpare(stored: string, rules: readonly NameRule[]): boolean {
  return rules.some((rule) => "spare" in rule && rule.spare.test(stored));
}

/** The role of a stored tensor by its name; undefined if it is ignored. */
export function placeOf(stored: string, rules: readonly NameRule[]): Place | undefined {
  let names: readonly string[] = [stored];
  let expert: number | undefined;
  let transposed = false;
  let part: Place["part"];
  const prefixes: string[] = [];
  const others: ((name: string) => string)[] = [];
  for (const rule of rules) {
    if ("ignore" in rule) {
      if (names.some((name) => rule.ignore.test(name))) return undefined;
    } else if ("spare" in rule) continue;
    else if ("also" in rule) others.push((name) => name.replace(rule.also, rule.to));
    else if ("ending" in rule) {
      const found = names.map((name) => swapped(name, rule.ending, rule.to));
      if (rule.inputs_first && found.some((name) => name !== undefined)) transposed = true;
      names = names.map((name, i) => found[i] ?? name);
    } else if ("rename" in rule) names = names.map((name) => name.replace(rule.rename, rule.to));
    else if ("prefix" in rule) prefixes.push(rule.prefix);
    else if ("transposed" in rule) transposed ||= names.some((name) => rule.transposed.test(name));
    else if ("magnitude" in rule) {
      for (const kind of ["magnitude", "direction"] as const) {
        if (!names.some((name) => rule[kind].test(name))) continue;
        part = kind;
        names = names.map((name) => name.replace(rule[kind], rule.to));
      }
    } else if ("expert" in rule) {
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
    ...others.map((other) => other(name)),
  ]);
  return { targets, transposed, ...(expert === undefined ? {} : { expert }), ...(part && { part }) };
}
