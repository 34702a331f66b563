// Prompt lookup (Saxena 2023): guesses the next tokens from an earlier occurrence of the last ones. Pays off if the text
// repeats itself (summaries, code, edits).

import type { Drafter, Drafts } from "./drafter.js";

/** Longest match tried first; shorter ones follow if it fails. */
const LONGEST_MATCH = 3;

/** At most `count` tokens that followed the latest earlier occurrence of the text's last `ngram` (or fewer) tokens. */
export function guess(text: readonly number[], count: number, ngram: number): number[] {
  for (let n = Math.min(ngram, text.length - 1); n > 0; n--) {
    for (let start = text.length - n - 1; start >= 0; start--) {
      let same = 0;
      while (same < n && text[start + same] === text[text.length - n + same]) same++;
      if (same === n) return text.slice(start + n, start + n + count);
    }
  }
  return [];
}

export class NgramDrafter implements Drafter {
  propose(texts: readonly (readonly number[] | undefined)[], most: readonly number[]): Drafts {
    return texts.map((text, row) => (text && most[row]! > 0 ? guess(text, most[row]!, LONGEST_MATCH) : []));
  }
}
