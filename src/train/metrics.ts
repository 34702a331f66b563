// Names of metrics, which of two is better, and how fast something was.

import type { TrainingArguments } from "./arguments.js";
import type { Logs } from "./callbacks.js";

/** The metric by which models are compared, as evaluations call it. */
export function metricName({ metric_for_best_model: name }: TrainingArguments): string | undefined {
  if (name === null) return undefined;
  return name.startsWith("eval_") ? name : `eval_${name}`;
}

export function isBetter({ greater_is_better }: TrainingArguments, value: number, than: number): boolean {
  return greater_is_better ? value > than : value < than;
}

const rounded = (value: number, digits: number): number => Number(value.toFixed(digits));

/** Seconds since `start` (of performance.now()), and how many samples and steps each had. */
export function speedMetrics(split: string, start: number, samples: number, steps: number): Logs {
  const seconds = (performance.now() - start) / 1000;
  return {
    [`${split}_runtime`]: rounded(seconds, 4),
    [`${split}_samples_per_second`]: rounded(samples / Math.max(seconds, 1e-9), 3),
    [`${split}_steps_per_second`]: rounded(steps / Math.max(seconds, 1e-9), 3),
  };
}
