// BLEU (Papineni et al. 2002) with the tokens of mteval-v13a and exponential smoothing (Chen and Cherry 2014, method 3): sacrebleu's
// default.

import { strip, words } from "../../tokenizer/chat/blanks.js";
import { type CorpusMetric, common, ngrams } from "./corpus-metric.js";

const ORDER = 4;
/** What sacrebleu takes for the logarithm of 0. */
const LOG_OF_ZERO = -9999999999;

/** Punctuation becomes words of its own; points and commas within numbers do not. */
const SPLITS: readonly (readonly [RegExp, string])[] = [
  [/([{-~[-` -&(-+:-@/])/g, " $1 "],
  [/([^0-9])([.,])/gu, "$1 $2 "],
  [/([.,])([^0-9])/gu, " $1 $2"],
  [/([0-9])(-)/g, "$1 $2 "],
];
const ENTITIES: readonly (readonly [string, string])[] = [
  ["&quot;", '"'],
  ["&amp;", "&"],
  ["&lt;", "<"],
  ["&gt;", ">"],
];

/** The words of mteval-v13a. */
export function tokens13a(text: string): string[] {
  const joined = strip(text, undefined, false, true)
    .replaceAll("<skipped>", "")
    .replaceAll("-\n", "")
    .replaceAll("\n", " ");
  const plain = ENTITIES.reduce((made, [name, by]) => made.replaceAll(name, by), joined);
  const split = SPLITS.reduce((made, [pattern, by]) => made.replace(pattern, by), ` ${plain} `);
  return words(split).map(({ word }) => word);
}

/** Counts: length, length of the nearest reference, and for 1 to 4 words the runs that match, and all of them. */
function statistics(text: string, references: readonly string[]): number[] {
  const own = tokens13a(text);
  const others = references.map(tokens13a);
  const nearest = others
    .map(({ length }) => length)
    .reduce((best, length) => {
      const [here, there] = [Math.abs(length - own.length), Math.abs(best - own.length)];
      return here < there || (here === there && length < best) ? length : best;
    });
  const matches: number[] = [];
  const all: number[] = [];
  for (let n = 1; n <= ORDER; n++) {
    // Of several references, a run counts as often as in the one that has it most often.
    const most = new Map<string, number>();
    for (const other of others) {
      for (const [key, count] of ngrams(other, n, " ")) most.set(key, Math.max(count, most.get(key) ?? 0));
    }
    matches.push(common(ngrams(own, n, " "), most));
    all.push(Math.max(0, own.length - n + 1));
  }
  return [own.length, nearest, ...matches, ...all];
}

function score([length = 0, reference = 0, ...counts]: readonly number[]): number {
  const matches = counts.slice(0, ORDER);
  const all = counts.slice(ORDER);
  if (matches.every((count) => count === 0)) return 0;
  const brevity = length < reference ? Math.exp(1 - reference / length) : 1;
  let smoothing = 1;
  let sum = 0;
  let ended = false;
  for (let n = 0; n < ORDER; n++) {
    ended ||= all[n] === 0; // no text is as long
    if (!ended && matches[n] === 0) smoothing *= 2;
    if (ended) sum += LOG_OF_ZERO;
    else sum += Math.log((100 * (matches[n] === 0 ? 1 / smoothing : matches[n]!)) / all[n]!);
  }
  return brevity * Math.exp(sum / ORDER);
}

export const BLEU: CorpusMetric = { statistics, score };
