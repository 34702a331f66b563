// Texts in texts, for chat templates. Engines look for a text in time that grows with both lengths multiplied, where both are made for
// it; here long ones are looked for in time that grows with their sum (the automaton of Knuth, Morris and Pratt).

import { type Budget, MOST_ITEMS } from "./limits.js";

/** Texts of up to so many units are left to the engine, and each unit of them is counted. */
const SHORT = 32;

function countShort(text: string, what: string, budget: Budget): void {
  budget.step(text.length * (1 + what.length / 8));
}

/**
 * Places of a long text in another, in order.
 * @param overlaps whether one may begin within the one before
 */
function places(text: string, what: string, budget: Budget, overlaps = false): number[] {
  budget.step(8 * (text.length + what.length));
  const borders = new Int32Array(what.length); // of each beginning, the longest that it ends with
  for (let i = 1, k = 0; i < what.length; i++) {
    while (k > 0 && what.charCodeAt(i) !== what.charCodeAt(k)) k = borders[k - 1]!;
    if (what.charCodeAt(i) === what.charCodeAt(k)) k++;
    borders[i] = k;
  }
  const found: number[] = [];
  for (let at = 0, k = 0; at < text.length; at++) {
    while (k > 0 && text.charCodeAt(at) !== what.charCodeAt(k)) k = borders[k - 1]!;
    if (text.charCodeAt(at) === what.charCodeAt(k)) k++;
    if (k < what.length) continue;
    found.push(at + 1 - k);
    k = overlaps ? borders[k - 1]! : 0;
  }
  return found;
}

/** The first place of a text in another, or the last; -1 if it is not there. */
export function placeIn(text: string, what: string, last: boolean, budget: Budget): number {
  if (what.length > SHORT) return places(text, what, budget, last).at(last ? -1 : 0) ?? -1;
  countShort(text, what, budget);
  return last ? text.lastIndexOf(what) : text.indexOf(what);
}

/** How often a text that is not empty is in another, at most `most` times, and where the last of them ends. */
export function countIn(text: string, what: string, most: number, budget: Budget): { found: number; end: number } {
  if (what.length > SHORT) {
    const all = places(text, what, budget);
    const found = Math.min(most, all.length);
    return { found, end: found === 0 ? 0 : all[found - 1]! + what.length };
  }
  countShort(text, what, budget);
  let [found, end] = [0, 0];
  for (let at = text.indexOf(what); at >= 0 && found < most; at = text.indexOf(what, end)) {
    found++;
    end = at + what.length;
    budget.step();
  }
  return { found, end };
}

/** A text cut at another that is not empty: some items more than a list may have are enough to refuse it. */
export function partsOf(text: string, what: string, budget: Budget): string[] {
  if (what.length <= SHORT) {
    countShort(text, what, budget);
    return text.split(what, MOST_ITEMS + 2);
  }
  const parts: string[] = [];
  let from = 0;
  for (const at of places(text, what, budget)) {
    parts.push(text.slice(from, at));
    from = at + what.length;
  }
  return [...parts, text.slice(from)];
}

/** A text with another in every place of a third that is not empty. */
export function replacedIn(text: string, what: string, content: string, budget: Budget): string {
  if (what.length > SHORT) return partsOf(text, what, budget).join(content);
  countShort(text, what, budget);
  return text.replaceAll(what, content.replaceAll("$", "$$$$"));
}

/** Code points of a text. */
export function codePoints(text: string, budget: Budget): number {
  budget.step(text.length);
  let count = 0;
  for (let at = 0; at < text.length; at++, count++) if (text.codePointAt(at)! > 0xffff) at++;
  return count;
}
