// What `octavo explain` found, as text.

import type { Explanation, LinearFacts } from "../eval/explain.js";
import { bytes, plural, table } from "./output.js";

/** What the command found, and of what. */
export interface ExplainFacts extends Explanation {
  readonly model: string;
  readonly text: string;
  /** Of what is not quantized. */
  readonly dtype: string;
}

/** "0.42 %", "12 %". */
export function percent(share: number): string {
  const value = 100 * share;
  return `${value === 0 ? "0" : value >= 99.95 ? value.toFixed(0) : value.toPrecision(value < 0.1 ? 1 : 2)} %`;
}

/** "12: 31.2 in 4 %; 7: 8.1 in 2 %; ...": columns of a linear, the largest magnitude and the share of tokens of each. */
export function columnsText({ outlier_columns, columns }: LinearFacts, most: number): string {
  if (outlier_columns === 0) return "";
  const told = columns.slice(0, most);
  const parts = told.map(({ column, largest, share }) => `${column}: ${largest.toFixed(1)} in ${percent(share)}`);
  return `${parts.join("; ")}${outlier_columns > told.length ? "; ..." : ""}`;
}

/** Two tables: the whole model, and each linear. */
export function explainText(facts: ExplainFacts): string {
  const { methods, linears, tokens, threshold } = facts;
  const head = ["quantization", "memory", "layer error", "logits error", "KL", "same token"];
  const rows = methods.map(({ title, bytes: size, error, logits_error, kl, same_top }) => [
    title,
    bytes(size),
    percent(error),
    percent(logits_error),
    kl.toPrecision(3),
    percent(same_top),
  ]);
  const names = ["linear", "largest", "outliers", "in tokens", ...methods.map(({ title }) => title), "outlier columns"];
  const layers = linears.map((one) => [
    one.path,
    one.largest.toFixed(1),
    `${one.outlier_columns} of ${one.shape[1]}`,
    percent(one.outlier_share),
    ...methods.map(({ name }) => percent(one.errors[name])),
    columnsText(one, 2),
  ]);
  const numbers = names.map((_, i) => i).slice(1, -1);
  return (
    `${facts.model}: ${plural(tokens, "token")} of ${facts.text}\n\n` +
    `the whole model (${facts.dtype}: ${bytes(facts.bytes)})\n${table([head, ...rows], [1, 2, 3, 4, 5], "  ")}\n` +
    `each linear: inputs of at least ${threshold} are outliers; errors are relative to the exact output\n` +
    table([names, ...layers], numbers, "  ")
  );
}
