// What the metrics of translations have in common: each item gives counts, and the score is of their sums over all items
// (as sacrebleu computes them), so that a resample of items costs additions alone.

/** A score of many texts against their references. */
export interface CorpusMetric {
  /** Counts of one text; always as many. @param references at least one */
  statistics(text: string, references: readonly string[]): readonly number[];
  /** The score of the sums of counts. */
  score(sums: readonly number[]): number;
}

/** Sums of the counts of some texts. */
export function summed(all: readonly (readonly number[])[]): number[] {
  const sums = new Array<number>(all[0]?.length ?? 0).fill(0);
  for (const own of all) for (let i = 0; i < sums.length; i++) sums[i]! += own[i]!;
  return sums;
}

/** How often each run of `n` units occurs. */
export function ngrams(units: readonly string[], n: number, between: string): Map<string, number> {
  const counts = new Map<string, number>();
  for (let at = 0; at + n <= units.length; at++) {
    const key = n === 1 ? units[at]! : units.slice(at, at + n).join(between);
    counts.set(key, (counts.get(key) ?? 0) + 1);
  }
  return counts;
}

/** Runs that two texts have in common, each as often as both have it. */
export function common(a: ReadonlyMap<string, number>, b: ReadonlyMap<string, number>): number {
  let sum = 0;
  for (const [key, count] of a) sum += Math.min(count, b.get(key) ?? 0);
  return sum;
}
