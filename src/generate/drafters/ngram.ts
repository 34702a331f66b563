// Prompt lookup (Saxena 2023): guesses the next tokens from an earlier place in the text where the same words stood. Pays
// where the text repeats itself (summaries, code, edits).

import type { Drafter, Drafts } from "./drafter.js";

/** Tokens that must agree before a guess is made; shorter agreements are tried when this many do not. */
const LONGEST_MATCH = 3;

/**
 * At most `count` tokens that followed the last place where the text's last `ngram` tokens (or fewer) stood before.
 */
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
