// Metrics: what they are of, how values of items become one, and how exact that one is.

import { ConfigError, OptionError } from "../../core/errors.js";
import { BLEU } from "./bleu.js";
import { chrf } from "./chrf.js";
import { type CorpusMetric, summed } from "./corpus-metric.js";
import { PythonRandom } from "./python-random.js";
import { pythonRegex } from "./python-regex.js";
import { TER } from "./ter.js";
import type { MetricValue, OutputType } from "./types.js";

type Pair = readonly [unknown, unknown];

/** How the values of items become one. */
interface Aggregation {
  /** What counts of an item's value; made once, also where items are drawn many times. */
  keep(value: MetricValue): unknown;
  of(kept: readonly unknown[]): number;
  /** Resamples that its standard error is of at most; 0 where resamples do not give one. */
  readonly resamples: number;
}
const plain = (of: (values: readonly MetricValue[]) => number, resamples = 0): Aggregation => ({
  keep: (value) => value,
  of: of as Aggregation["of"],
  resamples,
});
/** Of [references, text] pairs. Theirs are resampled fewer times, because sacrebleu takes long. */
const corpus = ({ statistics, score }: CorpusMetric): Aggregation => ({
  keep: (value) => {
    const [references, text] = value as Pair;
    return statistics(String(text), (Array.isArray(references) ? references : [references]).map(String));
  },
  of: (kept) => score(summed(kept as readonly (readonly number[])[])),
  resamples: 100,
});
const ANY = Number.POSITIVE_INFINITY;

/** Values that are numbers. */
const numbers = (values: readonly MetricValue[]): number[] => values.map(Number);
const pairs = (values: readonly MetricValue[]): readonly Pair[] => values as readonly Pair[];
export const mean = (values: readonly number[]): number =>
  values.reduce((sum, value) => sum + value, 0) / values.length;

/** The standard deviation of a sample. */
export function deviation(values: readonly number[]): number {
  const middle = mean(values);
  return Math.sqrt(values.reduce((sum, value) => sum + (value - middle) ** 2, 0) / (values.length - 1));
}

function weighted(values: readonly MetricValue[]): number {
  let [sum, weight] = [0, 0];
  for (const [value, own] of pairs(values)) {
    sum += value as number;
    weight += own as number;
  }
  return sum / weight;
}

/** Of [gold, predicted] pairs of two classes: the harmonic mean of precision and recall of class 1. */
function f1(values: readonly MetricValue[]): number {
  let [hits, errors] = [0, 0];
  for (const [gold, found] of pairs(values)) {
    if (![gold, found].every((label) => label === 0 || label === 1)) {
      throw new OptionError("the metric f1 is for two classes, 0 and 1");
    }
    if (gold === 1 && found === 1) hits++;
    else if (gold !== found) errors++;
  }
  return hits === 0 ? 0 : (2 * hits) / (2 * hits + errors);
}

/** Of [gold, predicted] pairs: the correlation of Matthews (1975), for any number of classes (Gorodkin 2004). */
function correlation(values: readonly MetricValue[]): number {
  const [gold, found] = [new Map<unknown, number>(), new Map<unknown, number>()];
  let right = 0;
  for (const [a, b] of pairs(values)) {
    gold.set(a, (gold.get(a) ?? 0) + 1);
    found.set(b, (found.get(b) ?? 0) + 1);
    if (a === b) right++;
  }
  const n = values.length;
  const squares = (counts: ReadonlyMap<unknown, number>) =>
    [...counts.values()].reduce((sum, one) => sum + one * one, 0);
  const both = [...gold].reduce((sum, [label, count]) => sum + count * (found.get(label) ?? 0), 0);
  const scale = Math.sqrt((n * n - squares(found)) * (n * n - squares(gold)));
  return scale === 0 ? 0 : (right * n - both) / scale;
}

/** Of [gold, probabilities] pairs: the mean squared distance to certainty (Brier 1950). */
function brier(values: readonly MetricValue[]): number {
  const distance = ([gold, shares]: Pair): number =>
    (shares as readonly number[]).reduce((sum, share, n) => sum + (share - (n === gold ? 1 : 0)) ** 2, 0);
  return mean(pairs(values).map(distance));
}

const AGGREGATIONS: Readonly<Record<string, Aggregation>> = {
  mean: plain((values) => mean(numbers(values))),
  nanmean: plain((values) => mean(numbers(values).filter((value) => !Number.isNaN(value))), ANY),
  median: plain((values) => numbers(values).sort((a, b) => a - b)[Math.floor(values.length / 2)]!, ANY),
  perplexity: plain((values) => Math.exp(-mean(numbers(values))), ANY),
  weighted_perplexity: plain((values) => Math.exp(-weighted(values))),
  bits_per_byte: plain((values) => -weighted(values) / Math.LN2),
  f1: plain(f1, ANY),
  matthews_corrcoef: plain(correlation, ANY),
  brier_score: plain(brier),
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

/** One value of all items. */
export function aggregate({ aggregation }: UsedMetric, values: readonly MetricValue[]): number {
  const { keep, of } = AGGREGATIONS[aggregation]!;
  return of(values.map(keep));
}

/**
 * The standard error of the aggregate: that of a mean, or the deviation of resampled aggregates; undefined where there is none.
 * Resamples are those of lm-evaluation-harness: blocks of 1000, block i with seed i.
 * @param bootstrap_iters resamples; 0: no standard errors
 */
export function standardError(
  { aggregation }: UsedMetric,
  values: readonly MetricValue[],
  bootstrap_iters: number,
): number | undefined {
  if (bootstrap_iters <= 0 || values.length < 2) return undefined;
  if (aggregation === "mean") return deviation(numbers(values)) / Math.sqrt(values.length);
  const { keep, of, resamples } = AGGREGATIONS[aggregation]!;
  const count = Math.min(resamples, bootstrap_iters);
  if (count === 0) return undefined;
  const kept = values.map(keep);
  const size = Math.min(RESAMPLES, count);
  const found: number[] = [];
  for (let block = 0; block < Math.floor(count / size); block++) {
    const random = new PythonRandom(block);
    for (let n = 0; n < size; n++) found.push(of(random.resample(kept)));
  }
  return deviation(found);
}

/** The standard error of a mean over several data sets, of their own ones: weighted by their sizes, or as independent means. */
export function pooledError(errors: readonly number[], sizes: readonly number[], weighted_by_size: boolean): number {
  if (!weighted_by_size) return Math.sqrt(errors.reduce((sum, one) => sum + one * one, 0)) / errors.length;
  const all = sizes.reduce((sum, size) => sum + size, 0);
  const squares = sizes.reduce((sum, size, n) => sum + (size - 1) * errors[n]! ** 2 * size, 0);
  return Math.sqrt(squares / (all - sizes.length) / all);
}
