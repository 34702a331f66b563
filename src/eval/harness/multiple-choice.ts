// What the log-likelihoods of a question's choices are worth.

import { ConfigError } from "../../core/errors.js";
import { show } from "../../core/show.js";
import type { MetricValues } from "./types.js";

/** The place of the largest value, the first of equal ones. */
function largest(values: readonly number[]): number {
  return values.reduce((best, value, n) => (value > values[best]! ? n : best), 0);
}

/**
 * All metrics of a question.
 * @param results of the choices; then, for acc_mutual_info, those of the choices without the question
 * @param gold the right choice: its number or text, or several numbers
 * @throws ConfigError for what is no choice
 */
export function choiceValues(
  results: readonly (readonly [number, boolean])[],
  choices: readonly string[],
  gold: unknown,
): MetricValues {
  const values = results.slice(0, choices.length).map(([value]) => value);
  const alone = results.slice(choices.length).map(([value]) => value);
  const right = (Array.isArray(gold) ? (gold as unknown[]) : [gold]).map((one) =>
    typeof one === "string"
      ? choices.indexOf(one)
      : ["number", "boolean", "bigint"].includes(typeof one)
        ? Number(one)
        : -1,
  );
  if (!right.every((one) => Number.isSafeInteger(one) && one >= 0 && one < choices.length)) {
    throw new ConfigError(`the right choice ${show(gold)} is none of the ${choices.length} choices`);
  }
  const lengths = choices.map((choice) => [...choice].length);
  const bytes = choices.map((choice) => Buffer.byteLength(choice));
  const found = largest(values);
  const hit = (choice: number): number => Number(right.includes(choice));
  const highest = values[found]!;
  const shares = values.map((value) => Math.exp(value - highest));
  const all = shares.reduce((sum, share) => sum + share, 0);
  return {
    acc: hit(found),
    acc_norm: hit(largest(values.map((value, n) => value / lengths[n]!))),
    acc_bytes: hit(largest(values.map((value, n) => value / bytes[n]!))),
    exact_match: Number(right.some((one) => results[one]![1])),
    f1: [right[0], found],
    mcc: [right[0], found],
    brier_score: [right[0], shares.map((share) => share / all)],
    ...(alone.length > 0 ? { acc_mutual_info: hit(largest(values.map((value, n) => value - alone[n]!))) } : {}),
  };
}
