// Metrics: what they are of, how values of items become one, and how exact that one is.

import { isList, listOf } from "../../core/checks.js";
import { ConfigError, OptionError } from "../../core/errors.js";
import { show } from "../../core/show.js";
import { isText } from "./arguments.js";
import { BLEU } from "./bleu.js";
import { chrf } from "./chrf.js";
import { type CorpusMetric, summed } from "./corpus-metric.js";
import { PythonRandom } from "./python-random.js";
import { pythonRegex } from "./python-regex.js";
import { TER } from "./ter.js";
import type { MetricValue, OutputType } from "./types.js";

/** What metrics give of an item, and aggregations take. */
const KINDS = {
  number: "numbers",
  classes: "pairs [right, found]",
  shares: "pairs [right, probabilities]",
  weighted: "pairs [sum, weight]",
  texts: "pairs [references, text]",
} as const;
type Kind = keyof typeof KINDS;

/** How the values of items become one. */
interface Aggregation {
  readonly takes: Kind;
  /** What counts of an item's value; made once, also where items are drawn many times. @throws OptionError for what it does not take */
  keep(value: MetricValue): unknown;
  of(kept: readonly unknown[]): number;
  /** Resamples that its standard error is of at most; 0 where resamples do not give one. */
  readonly resamples: number;
}
const isNumber = (value: unknown): value is number => typeof value === "number";

function checked<T>(takes: Kind, value: unknown, fits: boolean): T {
  if (fits) return value as T;
  throw new OptionError(`a metric's values must be ${KINDS[takes]} for this aggregation, got ${show(value)}`);
}
const pair = (value: unknown): readonly unknown[] => (isList(value) && value.length === 2 ? value : []);

const ofNumbers = (of: (values: readonly number[]) => number, resamples = 0): Aggregation => ({
  takes: "number",
  keep: (value) => checked("number", value, isNumber(value)),
  of: of as Aggregation["of"],
  resamples,
});
/** Of labels, those that are right and those that were found. */
const ofClasses = (of: (pairs: readonly (readonly [unknown, unknown])[]) => number): Aggregation => ({
  takes: "classes",
  keep: (value) => checked("classes", value, pair(value).length === 2),
  of: of as Aggregation["of"],
  resamples: ANY,
});
const ofWeighted = (of: (mean: number) => number): Aggregation => ({
  takes: "weighted",
  keep: (value) => checked("weighted", value, pair(value).length === 2 && pair(value).every(isNumber)),
  of: (kept) => of(weighted(kept as readonly (readonly [number, number])[])),
  resamples: 0,
});
/** Of pairs of texts, whose resamples are fewer, because sacrebleu takes long. */
const corpus = ({ statistics, score }: CorpusMetric): Aggregation => ({
  takes: "texts",
  keep: (value) => {
    const [references, text] = pair(value);
    const all = listOf(isList(references) ? references : [references], isText) ?? [];
    checked("texts", value, isText(text) && all.length > 0);
    return statistics(text as string, all);
  },
  of: (kept) => score(summed(kept as readonly (readonly number[])[])),
  resamples: 100,
});
const ANY = Number.POSITIVE_INFINITY;

export const mean = (values: readonly number[]): number =>
  values.reduce((sum, value) => sum + value, 0) / values.length;

/** The standard deviation of a sample. */
export function deviation(values: readonly number[]): number {
  const middle = mean(values);
  return Math.sqrt(values.reduce((sum, value) => sum + (value - middle) ** 2, 0) / (values.length - 1));
}

function weighted(pairs: readonly (readonly [number, number])[]): number {
  let [sum, weight] = [0, 0];
  for (const [value, own] of pairs) {
    sum += value;
    weight += own;
  }
  return sum / weight;
}

/** Of two classes: the harmonic mean of precision and recall of class 1. */
function f1(pairs: readonly (readonly [unknown, unknown])[]): number {
  let [hits, errors] = [0, 0];
  for (const [gold, found] of pairs) {
    if (![gold, found].every((label) => label === 0 || label === 1)) {
      throw new OptionError("the metric f1 is for two classes, 0 and 1");
    }
    if (gold === 1 && found === 1) hits++;
    else if (gold !== found) errors++;
  }
  return hits === 0 ? 0 : (2 * hits) / (2 * hits + errors);
}

/** The correlation of Matthews (1975), for any number of classes (Gorodkin 2004). */
function correlation(pairs: readonly (readonly [unknown, unknown])[]): number {
  const [gold, found] = [new Map<unknown, number>(), new Map<unknown, number>()];
  let right = 0;
  for (const [a, b] of pairs) {
    gold.set(a, (gold.get(a) ?? 0) + 1);
    found.set(b, (found.get(b) ?? 0) + 1);
    if (a === b) right++;
  }
  const n = pairs.length;
  const squares = (counts: ReadonlyMap<unknown, number>) =>
    [...counts.values()].reduce((sum, one) => sum + one * one, 0);
  const both = [...gold].reduce((sum, [label, count]) => sum + count * (found.get(label) ?? 0), 0);
  const scale = Math.sqrt((n * n - squares(found)) * (n * n - squares(gold)));
  return scale === 0 ? 0 : (right * n - both) / scale;
}

/** The squared distance of probabilities to certainty (Brier 1950). */
const distance = ([gold, shares]: readonly [unknown, readonly number[]]): number =>
  shares.reduce((sum, share, n) => sum + (share - (n === gold ? 1 : 0)) ** 2, 0);
const brier: Aggregation = {
  takes: "shares",
  keep: (value) => distance(checked("shares", value, listOf(pair(value)[1], isNumber) !== undefined)),
  of: (kept) => mean(kept as readonly number[]),
  resamples: 0,
};

const AGGREGATIONS: Readonly<Record<string, Aggregation>> = {
  mean: ofNumbers(mean),
  nanmean: ofNumbers((values) => mean(values.filter((value) => !Number.isNaN(value))), ANY),
  median: ofNumbers((values) => [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)]!, ANY),
  perplexity: ofNumbers((values) => Math.exp(-mean(values)), ANY),
  weighted_perplexity: ofWeighted((mean) => Math.exp(-mean)),
  bits_per_byte: ofWeighted((mean) => -mean / Math.LN2),
  f1: ofClasses(f1),
  matthews_corrcoef: ofClasses(correlation),
  brier_score: brier,
  bleu: corpus(BLEU),
  chrf: corpus(chrf(0)),
  "chrf++": corpus(chrf(2)),
  ter: corpus(TER),
};
/** Resamples with one seed. */
const RESAMPLES = 1000;

interface Metric {
  readonly of: readonly OutputType[];
  readonly aggregation: string;
  readonly higher_is_better: boolean;
}
const choices = (aggregation = "mean", higher_is_better = true): Metric => ({
  of: ["multiple_choice"],
  aggregation,
  higher_is_better,
});
const rolling = (aggregation: string): Metric => ({
  of: ["loglikelihood_rolling"],
  aggregation,
  higher_is_better: false,
});
const written = (aggregation: string, higher_is_better = true): Metric => ({
  of: ["generate_until"],
  aggregation,
  higher_is_better,
});
const METRICS: Readonly<Record<string, Metric>> = {
  acc: { of: ["loglikelihood", "multiple_choice"], aggregation: "mean", higher_is_better: true },
  perplexity: { of: ["loglikelihood"], aggregation: "perplexity", higher_is_better: false },
  acc_norm: choices(),
  acc_bytes: choices(),
  acc_mutual_info: choices(),
  exact_match: { of: ["multiple_choice", "generate_until"], aggregation: "mean", higher_is_better: true },
  f1: choices("f1"),
  mcc: choices("matthews_corrcoef"),
  brier_score: choices("brier_score", false),
  word_perplexity: rolling("weighted_perplexity"),
  byte_perplexity: rolling("weighted_perplexity"),
  bits_per_byte: rolling("bits_per_byte"),
  bleu: written("bleu"),
  chrf: written("chrf"),
  "chrf++": written("chrf++"),
  ter: written("ter", false),
};
/** Metrics of a task that names none. */
export const USUAL: Readonly<Record<OutputType, readonly string[]>> = {
  loglikelihood: ["perplexity", "acc"],
  loglikelihood_rolling: ["word_perplexity", "byte_perplexity", "bits_per_byte"],
  multiple_choice: ["acc", "acc_norm"],
  generate_until: ["exact_match"],
};

/** A metric as a task uses it. */
export interface UsedMetric {
  readonly name: string;
  readonly aggregation: string;
  readonly higher_is_better: boolean;
  /** The value of a text that was written, given those that are right. */
  readonly ofText: (text: string, targets: readonly string[]) => MetricValue;
}

const SETTINGS = ["metric", "aggregation", "higher_is_better", "hf_evaluate"];
const MATCHING = ["regexes_to_ignore", "ignore_case", "ignore_punctuation", "ignore_numbers"];

/**
 * A metric of a task's file.
 * @param own the task scores items with a function of its own: the metric is whatever that gives
 * @throws ConfigError for a metric, aggregation or setting that is not known, or does not fit the task's output
 */
export function metricOf(
  place: string,
  given: Readonly<Record<string, unknown>>,
  output: OutputType,
  own: boolean,
): UsedMetric {
  const name = String(given.metric);
  const known = Object.hasOwn(METRICS, name) ? METRICS[name] : undefined;
  if (!own && !known?.of.includes(output)) {
    const fitting = Object.entries(METRICS).filter(([, { of }]) => of.includes(output));
    throw new ConfigError(`${place}: the metric "${name}" is not known for output_type ${output}`, {
      hint: `known: ${fitting.map(([one]) => one).join(", ")}`,
    });
  }
  const aggregation = String(given.aggregation ?? known?.aggregation ?? "mean");
  if (!Object.hasOwn(AGGREGATIONS, aggregation)) {
    throw new ConfigError(`${place}: the aggregation "${aggregation}" of "${name}" is not known`, {
      hint: `known: ${Object.keys(AGGREGATIONS).join(", ")}`,
    });
  }
  const [gives, takes] = [AGGREGATIONS[known?.aggregation ?? ""]?.takes, AGGREGATIONS[aggregation]!.takes];
  if (!own && gives !== undefined && gives !== takes) {
    const fitting = Object.entries(AGGREGATIONS).filter(([, other]) => other.takes === gives);
    throw new ConfigError(
      `${place}: the aggregation "${aggregation}" is of ${KINDS[takes]}, and "${name}" gives ${KINDS[gives]}`,
      { hint: `aggregations of these: ${fitting.map(([one]) => one).join(", ")}` },
    );
  }
  const usable = [...SETTINGS, ...(name === "exact_match" ? MATCHING : [])];
  const strange = Object.keys(given).find((key) => !usable.includes(key));
  if (strange !== undefined || given.hf_evaluate === true) {
    throw new ConfigError(`${place}: the metric "${name}" has no setting "${strange ?? "hf_evaluate"}"`);
  }
  const { higher_is_better = known?.higher_is_better ?? true } = given;
  const matches = matcher(place, given);
  const ofText: UsedMetric["ofText"] =
    known?.of.includes("generate_until") && name !== "exact_match"
      ? (text, targets) => [targets.length === 1 ? targets[0]! : targets, text]
      : (text, targets) => Number(targets.some((target) => matches(text, target)));
  return { name, aggregation, higher_is_better: higher_is_better === true, ofText };
}

const PUNCTUATION = /[!-/:-@[-`{-~]/g;

/** How exact_match compares: what is to be ignored is taken out of both texts, in this order. */
function matcher(place: string, given: Readonly<Record<string, unknown>>): (text: string, target: string) => boolean {
  const { regexes_to_ignore: list } = given;
  const ignored = (Array.isArray(list) ? (list as unknown[]) : []).map((one) => pythonRegex(place, String(one)));
  const left = (text: string): string => {
    let made = ignored.reduce((rest, regex) => rest.replace(regex, ""), text);
    if (given.ignore_case === true) made = made.toLowerCase();
    if (given.ignore_punctuation === true) made = made.replace(PUNCTUATION, "");
    return given.ignore_numbers === true ? made.replace(/[0-9]/g, "") : made;
  };
  return (text, target) => left(text) === left(target);
}

/** The usual aggregation of a metric. */
export const aggregationOf = (metric: string): string =>
  (Object.hasOwn(METRICS, metric) ? METRICS[metric]!.aggregation : undefined) ?? "mean";

/** An aggregation by its name. @throws OptionError for one that is not known */
export function aggregationNamed(name: string): Aggregation {
  const known = Object.hasOwn(AGGREGATIONS, name) ? AGGREGATIONS[name] : undefined;
  if (known) return known;
  throw new OptionError(`the aggregation "${name}" is not known`, { hint: Object.keys(AGGREGATIONS).join(", ") });
}

/**
 * One value of all items, and its standard error: that of a mean, or the deviation of resampled aggregates; undefined where there is
 * none. Resamples are those of lm-evaluation-harness: blocks of 1000, block i with seed i.
 * @param bootstrap_iters resamples; 0: no standard errors
 * @throws OptionError for values that the aggregation does not take
 */
export function aggregate(
  { aggregation }: UsedMetric,
  values: readonly MetricValue[],
  bootstrap_iters: number,
): { readonly value: number; readonly error: number | undefined } {
  const { keep, of, resamples } = AGGREGATIONS[aggregation]!;
  const kept = values.map(keep);
  const value = of(kept);
  if (bootstrap_iters <= 0 || values.length < 2) return { value, error: undefined };
  if (aggregation === "mean") return { value, error: deviation(kept as number[]) / Math.sqrt(values.length) };
  const count = Math.min(resamples, bootstrap_iters);
  if (count === 0) return { value, error: undefined };
  const size = Math.min(RESAMPLES, count);
  const found: number[] = [];
  for (let block = 0; block < Math.floor(count / size); block++) {
    const random = new PythonRandom(block);
    for (let n = 0; n < size; n++) found.push(of(random.resample(kept)));
  }
  return { value, error: deviation(found) };
}

/** The standard error of a mean over several data sets, of their own ones: weighted by their sizes, or as independent means. */
export function pooledError(errors: readonly number[], sizes: readonly number[], weighted_by_size: boolean): number {
  if (!weighted_by_size) return Math.sqrt(errors.reduce((sum, one) => sum + one * one, 0)) / errors.length;
  const all = sizes.reduce((sum, size) => sum + size, 0);
  const squares = sizes.reduce((sum, size, n) => sum + (size - 1) * errors[n]! ** 2 * size, 0);
  return Math.sqrt(squares / (all - sizes.length) / all);
}
