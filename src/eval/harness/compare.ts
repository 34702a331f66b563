// Two evaluations of the same items, such as a model in 16 bits and in 8: how far apart they are, and whether that is more than
// chance. The tests are paired: they look at the items that the two answer differently.

import { isList, isWhole } from "../../core/checks.js";
import { OptionError } from "../../core/errors.js";
import { show } from "../../core/show.js";
import { listed } from "./arguments.js";
import { type EvalResults, made, type Sample } from "./evaluate.js";
import { aggregationNamed, aggregationOf } from "./metrics.js";
import { PythonRandom } from "./python-random.js";
import type { MetricValue } from "./types.js";

/** Chance below which a difference counts. */
const LEVEL = 0.05;
const RESAMPLES = 1000;
const SEED = 1234;

export interface PairedTest {
  /** McNemar's test for metrics that are right or wrong, resamples of the items for others. */
  readonly test: "mcnemar" | "bootstrap";
  /** How likely a difference as large or larger is if both are equally good. */
  readonly p_value: number;
  readonly within_noise: boolean;
}

export interface Comparison extends PairedTest {
  /** A task, or a group. */
  readonly task: string;
  readonly metric: string;
  readonly filter: string;
  readonly reference: number;
  readonly value: number;
  readonly difference: number;
}

/**
 * McNemar's test (McNemar 1947), exact: of the items that only one of two got right, as many as that or more would be one-sided.
 * @param only_first items that only the first got right
 */
export function mcnemar(only_first: number, only_second: number): number {
  if (!isWhole(only_first) || !isWhole(only_second)) {
    throw new OptionError(`mcnemar takes two numbers of items, got ${show(only_first)} and ${show(only_second)}`);
  }
  const n = only_first + only_second;
  const fewer = Math.min(only_first, only_second);
  let term = -n * Math.LN2; // the logarithm of (n over k) / 2^n
  let sum = 0;
  for (let k = 0; k <= fewer; k++) {
    sum += Math.exp(term);
    term += Math.log((n - k) / (k + 1));
  }
  return Math.min(1, 2 * sum);
}

const isValue = (value: unknown): value is MetricValue =>
  typeof value === "number" || (isList(value) && value.length === 2);

/**
 * Whether two lists of a metric's values for the same items differ by more than chance.
 * @param aggregation of the metric, such as "mean" or "perplexity"
 * @throws OptionError for lists of different lengths
 */
export function paired_test(
  values: readonly MetricValue[],
  others: readonly MetricValue[],
  aggregation: string,
): PairedTest {
  const [first, second] = [values, others].map((one) => listed("paired_test", one, isValue, "a metric's values")) as [
    MetricValue[],
    MetricValue[],
  ];
  if (typeof aggregation !== "string") {
    throw new OptionError(`paired_test: aggregation must be a name, got ${show(aggregation)}`);
  }
  if (first.length !== second.length || first.length === 0) {
    throw new OptionError(`paired_test: the items must be the same, got ${first.length} and ${second.length}`);
  }
  const isBinary = [...first, ...second].every((value) => value === 0 || value === 1);
  if (aggregation === "mean" && isBinary) {
    const only = (a: MetricValue, b: MetricValue) => Number(a === 1 && b === 0);
    const [one, two] = [0, 1].map((turned) =>
      first.reduce<number>((sum, value, n) => sum + (turned ? only(second[n]!, value) : only(value, second[n]!)), 0),
    );
    return verdict("mcnemar", mcnemar(one!, two!));
  }
  const { keep, of } = aggregationNamed(aggregation);
  const pairs = first.map((value, n) => [keep(value), keep(second[n]!)] as const);
  if (first.every((value, n) => isSame(value, second[n]))) return verdict("bootstrap", 1);
  const random = new PythonRandom(SEED);
  let [below, above] = [0, 0];
  for (let n = 0; n < RESAMPLES; n++) {
    const drawn = random.resample(pairs);
    const [a, b] = [0, 1].map((side) => of(drawn.map((pair) => pair[side as 0 | 1])));
    if (b! <= a!) below++;
    if (b! >= a!) above++;
  }
  return verdict("bootstrap", Math.min(1, (2 * Math.min(below, above)) / RESAMPLES));
}

const isSame = (a: unknown, b: unknown): boolean =>
  isList(a) && isList(b) ? a.length === b.length && a.every((one, n) => isSame(one, b[n])) : Object.is(a, b);

const verdict = (test: PairedTest["test"], p_value: number): PairedTest => ({
  test,
  p_value,
  within_noise: p_value >= LEVEL,
});

/**
 * Compares evaluations of the same tasks and documents, metric by metric; a group by the items of its tasks.
 * @throws OptionError if they are not of the same
 */
export function compare_results(reference: EvalResults, other: EvalResults): Comparison[] {
  for (const one of [reference, other]) {
    if (made.has(one)) continue;
    throw new OptionError(`compare_results takes two results of simple_evaluate, got ${show(one)}`);
  }
  return Object.entries(reference.results).flatMap(([task, result]) =>
    Object.keys(result)
      .filter((key) => key.includes(",") && !key.includes("_stderr,") && typeof result[key] === "number")
      .map((key): Comparison => {
        const [metric = "", filter = ""] = key.split(/,(.*)/s);
        const value = other.results[task]?.[key];
        if (typeof value !== "number") throw new OptionError(`compare_results: only one of the two has ${task} ${key}`);
        const [first, second] = [reference, other].map((one) => valuesOf(one, task, metric, filter));
        const before = Number(result[key]);
        const test = paired_test(first!, second!, aggregationIn(reference, task, metric));
        return { task, metric, filter, reference: before, value, difference: value - before, ...test };
      }),
  );
}

/** Names of the tasks in a group, or of the task. */
function leaves(results: EvalResults, name: string): readonly string[] {
  const children = results.group_subtasks[name];
  return children ? children.flatMap((child) => leaves(results, child)) : [name];
}

function valuesOf(results: EvalResults, name: string, metric: string, filter: string): MetricValue[] {
  const samples: readonly Sample[] = leaves(results, name).flatMap((task) => results.samples[task] ?? []);
  const own = samples.filter((sample) => sample.filter === filter);
  return own.map(({ values }) => values[metric]).filter((value) => value !== undefined);
}

function aggregationIn(results: EvalResults, name: string, metric: string): string {
  const config = results.configs[leaves(results, name)[0]!] as {
    readonly metric_list?: readonly Record<string, unknown>[];
  };
  const given = config?.metric_list?.find((one) => one.metric === metric)?.aggregation;
  return typeof given === "string" ? given : aggregationOf(metric);
}
