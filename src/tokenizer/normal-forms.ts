// Unicode's normal forms of aligned texts. JavaScript gives the text of a form; where its characters come from is found by doing the
// steps one by one, as Python's `tokenizers` does: decompose, sort the marks, compose. Facts: Unicode Standard Annex 15.

import type { Aligned } from "./aligned.js";
import { sizeAt } from "./text.js";

export type NormalForm = "NFC" | "NFD" | "NFKC" | "NFKD";

/** The first character that a form changes, or that is composed with the one before it. */
const SIMPLE: Readonly<Record<NormalForm, number>> = { NFC: 0x300, NFD: 0xc0, NFKC: 0xa0, NFKD: 0xa0 };

/** A mark of each class of marks, the lowest first. JavaScript does not tell classes, but sorts marks by them. */
const MARKS =
  "\u0334\u{16FF0}\u093C\u3099\u094D\u05B0\u05B1\u05B2\u05B3\u05B4\u05B5\u05B6\u05B7\u05B8\u05B9\u05BB\u05BC\u05BD\u05BF\u05C1\u05C2" +
  "\uFB1E\u064B\u064C\u064D\u064E\u064F\u0650\u0651\u0652\u0670\u0711\u0C55\u0C56\u0E38\u0E48\u0EB8\u0EC8\u0F71\u0F72\u0F74\u0327" +
  "\u1DCE\u031B\u302A\u0323\u059A\u302E\u{1D16D}\u05AE\u0301\u0315\u035C\u035D\u0345";
const LOWEST = "\u0334";
const HIGHEST = "\u0345";

/** True if two marks are in the wrong order. */
function wrong(first: string, second: string): boolean {
  return first !== second && (first + second).normalize("NFD") === second + first;
}

const ranks = new Map<string, number>();
const MOST_KEPT = 4096;

/** The place of a mark's class among the others, from 1 on; 0 for what is no mark that moves. */
function rankOf(char: string): number {
  if (char.codePointAt(0)! < 0x300) return 0;
  const known = ranks.get(char);
  if (known !== undefined) return known;
  let rank = 0;
  if (wrong(HIGHEST, char) || wrong(char, LOWEST)) {
    rank = 1;
    for (const mark of MARKS) if (wrong(char, mark)) rank++;
  }
  if (ranks.size < MOST_KEPT) ranks.set(char, rank);
  return rank;
}

interface Item {
  readonly char: string;
  readonly change: number;
  readonly rank: number;
}

/** The characters of a text, decomposed and their marks in order. */
function decomposed(text: string, form: "NFD" | "NFKD"): Item[] {
  const items: Item[] = [];
  let marks: Item[] = [];
  const settle = () => {
    for (const mark of marks.sort((a, b) => a.rank - b.rank)) items.push(mark);
    marks = [];
  };
  for (const char of text) {
    let change = 0;
    for (const part of char.normalize(form)) {
      const item = { char: part, change, rank: rankOf(part) };
      change = 1;
      if (item.rank > 0) marks.push(item);
      else {
        settle();
        items.push(item);
      }
    }
  }
  settle();
  return items;
}

/** What two characters are together, if that is one. */
function composed(first: string, second: string): string | undefined {
  const both = (first + second).normalize("NFC");
  return both.length === sizeAt(both, 0) ? both : undefined;
}

/** Puts the characters together that belong together. */
function recomposed(items: readonly Item[]): Item[] {
  const made: Item[] = [];
  let base: Item | undefined;
  let waiting: Item[] = []; // marks after the base that are not part of it
  const settle = () => {
    if (base !== undefined) made.push(base);
    for (const mark of waiting) made.push(mark);
    waiting = [];
  };
  for (const item of items) {
    const { char, change, rank } = item;
    if (base === undefined) {
      if (rank === 0) base = item;
      else made.push(item);
      continue;
    }
    const last = waiting.at(-1);
    const joined: string | undefined = last !== undefined && last.rank >= rank ? undefined : composed(base.char, char);
    if (joined !== undefined) base = { char: joined, change: base.change + change - 1, rank: 0 };
    else if (rank > 0) waiting.push(item);
    else {
      settle();
      base = item;
    }
  }
  settle();
  return made;
}

/** The normal form of a text. */
export function normalForm(given: Aligned, form: NormalForm): Aligned {
  const { text } = given;
  const whole = text.normalize(form);
  if (whole === text) return given; // then each character stands for itself
  const made = given.changing();
  const simple = (at: number) => text.charCodeAt(at) < SIMPLE[form];
  for (let at = 0; at < text.length; ) {
    const from = at;
    while (simple(at) && (at + 1 === text.length || simple(at + 1))) at++;
    if (at > from) made.keep(text.slice(from, at));
    if (at === text.length) break;
    // A simple character before others may be their base.
    let end = at + 1;
    while (end < text.length && !simple(end)) end++;
    const items = decomposed(text.slice(at, end), form === "NFC" || form === "NFD" ? "NFD" : "NFKD");
    for (const { char, change } of form.endsWith("C") ? recomposed(items) : items) made.push(char, change);
    at = end;
  }
  return made.done();
}
