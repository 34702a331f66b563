// The results of an evaluation in several storages as rows of tables.

import type { Comparison } from "../eval/harness/compare.js";
import type { EvalResults } from "../eval/harness/evaluate.js";
import { bytes } from "./output.js";

/** An evaluation of one storage. */
export interface Evaluated {
  readonly storage: string;
  readonly results: EvalResults;
  readonly weight_bytes: number;
  /** Tokens that were computed, those of a cache of answers not among them. */
  readonly tokens: number;
  readonly tokens_per_second: number | undefined;
  /** Median milliseconds of a decode step of one text. */
  readonly ms_per_token: number;
  /** What lm-evaluation-harness writes beside the results. */
  readonly about: Readonly<Record<string, unknown>>;
  /** Against the first storage; empty for itself. */
  readonly comparisons: readonly Comparison[];
}

/** "0.5510" or "40.06". */
export function shown(value: number): string {
  return Math.abs(value) < 10 ? value.toFixed(4) : value.toFixed(2);
}

/** One row for each task, metric and storage. */
export function resultRows(done: readonly Evaluated[]): string[][] {
  const rows = [["task", "metric", "storage", "n-shot", "value", "stderr", "difference", "p", ""]];
  const first = done[0]!;
  for (const [task, result] of Object.entries(first.results.results)) {
    const keys = Object.keys(result).filter((key) => key.includes(",") && !key.includes("_stderr,"));
    for (const key of keys) {
      const [metric = "", filter = ""] = key.split(/,(.*)/s);
      const better = first.results.higher_is_better[task]?.[metric];
      const arrow = better === true ? " ↑" : better === false ? " ↓" : "";
      for (const { storage, results, comparisons } of done) {
        const own = results.results[task]!;
        const error = own[`${metric}_stderr,${filter}`];
        const test = comparisons.find((one) => one.task === task && one.metric === metric && one.filter === filter);
        const isFirst = storage === first.storage;
        rows.push([
          isFirst && key === keys[0] ? task : "",
          isFirst ? `${metric}${filter === "none" ? "" : ` (${filter})`}${arrow}` : "",
          storage,
          isFirst ? String(results["n-shot"][task] ?? "") : "",
          shown(Number(own[key])),
          typeof error === "number" ? `± ${shown(error)}` : "",
          test ? `${test.difference < 0 ? "-" : "+"}${shown(Math.abs(test.difference))}` : "",
          test ? test.p_value.toFixed(3) : "",
          test ? (test.within_noise ? "within noise" : "differs") : "",
        ]);
      }
    }
  }
  return rows;
}

/** One row for each storage. */
export function sizeRows(done: readonly Evaluated[]): string[][] {
  return [
    ["storage", "weights", "writing one text", "all requests"],
    ...done.map(({ storage, weight_bytes, ms_per_token, tokens_per_second }) => [
      storage,
      bytes(weight_bytes),
      `${ms_per_token.toPrecision(3)} ms/token`,
      tokens_per_second === undefined ? "" : `${Math.round(tokens_per_second).toLocaleString("en-US")} tokens/s`,
    ]),
  ];
}
