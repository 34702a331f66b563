// chrF (Popović 2015) and chrF++ (2017): runs of up to 6 characters, and of up to 2 words, with recall counting twice. As sacrebleu
// computes them: white space is left out, and orders that a text is too short for do not count.

import { words } from "../../tokenizer/chat/blanks.js";
import { type CorpusMetric, common, ngrams } from "./corpus-metric.js";

const CHARACTERS = 6;
/** The square of beta. */
const RECALL = 4;
const PUNCTUATION = new Set("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~");

/** Words, of each the punctuation at its end, or else at its start, as one of its own. */
function parts(text: string): string[] {
  return words(text).flatMap(({ word }) => {
    const units = [...word];
    if (units.length === 1) return [word];
    const [first, last] = [units[0]!, units.at(-1)!];
    if (PUNCTUATION.has(last)) return [word.slice(0, -1), last];
    return PUNCTUATION.has(first) ? [first, word.slice(1)] : [word];
  });
}

function runs(text: string, order: number): Map<string, number>[] {
  const units = [
    ...words(text)
      .map(({ word }) => word)
      .join(""),
  ];
  const made = Array.from({ length: CHARACTERS }, (_, n) => ngrams(units, n + 1, ""));
  const own = order > 0 ? parts(text) : [];
  for (let n = 1; n <= order; n++) made.push(ngrams(own, n, " "));
  return made;
}

const total = (counts: ReadonlyMap<string, number>): number => {
  let sum = 0;
  for (const count of counts.values()) sum += count;
  return sum;
};

function score(counts: readonly number[]): number {
  let [precision, recall, orders] = [0, 0, 0];
  for (let at = 0; at < counts.length; at += 3) {
    const [own, reference, matches] = [counts[at]!, counts[at + 1]!, counts[at + 2]!];
    if (own === 0 || reference === 0) continue;
    precision += matches / own;
    recall += matches / reference;
    orders++;
  }
  if (precision + recall === 0) return 0;
  precision /= orders;
  recall /= orders;
  return (100 * (1 + RECALL) * precision * recall) / (RECALL * precision + recall);
}

/** @param order runs of how many words count too: 0 in chrF, 2 in chrF++ */
export function chrf(order: number): CorpusMetric {
  return {
    score,
    statistics(text, references) {
      const own = runs(text, order);
      const all = references.map((reference) =>
        runs(reference, order).flatMap((other, n) => [
          other.size === 0 ? 0 : total(own[n]!), // an order that the reference is too short for does not count
          total(other),
          common(own[n]!, other),
        ]),
      );
      return all.reduce((best, counts) => (score(counts) > score(best) ? counts : best));
    },
  };
}
