// The words of a transcript, with their times, from those of its tokens.

import type { PreTrainedTokenizer } from "../tokenizer/api.js";

/** Seconds at which a token begins and ends. */
export type Timing = readonly [start: number, end: number];

/** Languages without spaces between words. */
const UNSPACED: ReadonlySet<string> = new Set(["chinese", "japanese", "thai", "lao", "myanmar", "cantonese"]);
const PUNCTUATION = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~";
/** Marks that belong to the word after them, and to the one before. */
const OPENING = "\"'“¡¿([{-";
const CLOSING = "\"'.。,，!！?？:：”)]}、";
const BROKEN = "\uFFFD";

interface Word {
  text: string;
  readonly places: number[];
}

/** The least runs of tokens that are whole characters. */
function pieces(ids: readonly number[], decode: (ids: readonly number[]) => string): Word[] {
  const whole = decode(ids);
  const found: Word[] = [];
  let from = 0;
  let passed = 0; // characters of `whole`
  for (const at of ids.keys()) {
    const text = decode(ids.slice(from, at + 1));
    const broken = text.indexOf(BROKEN);
    // A character that is broken in the whole text, too, gets no better.
    if (broken >= 0 && passed + broken < whole.length && whole[passed + broken] !== BROKEN) continue;
    found.push({ text, places: Array.from({ length: at + 1 - from }, (_, n) => from + n) });
    from = at + 1;
    passed += text.length;
  }
  return found;
}

function words(parts: readonly Word[], ids: readonly number[], end: number): Word[] {
  const found: Word[] = [];
  for (const { text, places } of parts) {
    const begins = text.startsWith(" ") || PUNCTUATION.includes(text.trim()) || ids[places[0]!]! >= end;
    const last = found.at(-1);
    if (last && !begins) {
      last.text += text;
      last.places.push(...places);
    } else found.push({ text, places: [...places] });
  }
  return found;
}

/** Joins marks with the words that they belong to. */
function withMarks(all: readonly Word[]): Word[] {
  const found = all.map(({ text, places }) => ({ text, places }));
  const join = (from: Word, to: Word, before: boolean): void => {
    to.text = before ? from.text + to.text : to.text + from.text;
    to.places.splice(before ? 0 : to.places.length, 0, ...from.places);
    from.text = "";
    from.places.length = 0;
  };
  for (let i = found.length - 2, j = found.length - 1; i >= 0; i--) {
    const word = found[i]!;
    if (word.text.startsWith(" ") && OPENING.includes(word.text.trim())) join(word, found[j]!, true);
    else j = i;
  }
  for (let i = 0, j = 1; j < found.length; j++) {
    const word = found[j]!;
    if (!found[i]!.text.endsWith(" ") && CLOSING.includes(word.text)) join(word, found[i]!, false);
    else i = j;
  }
  return found.filter(({ text, places }) => text !== "" && places.length > 0);
}

/**
 * Words between spaces, or characters of languages that have none, with the times of their first and last tokens.
 * @param language in English; undefined for one with spaces
 */
export function wordsOf(
  tokenizer: PreTrainedTokenizer,
  ids: readonly number[],
  times: readonly Timing[],
  language: string | undefined,
): { readonly text: string; readonly timestamp: Timing }[] {
  const parts = pieces(ids, (some) => tokenizer.decode(some));
  const end = tokenizer.eos_token_id ?? Number.POSITIVE_INFINITY;
  const found = withMarks(UNSPACED.has(language ?? "") ? parts : words(parts, ids, end));
  return found.map(({ text, places }) => ({
    text,
    timestamp: [times[places[0]!]![0], times[places.at(-1)!]![1]] as const,
  }));
}
