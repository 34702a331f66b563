// Python's str methods that are about white space.

import { isBlank } from "../text.js";

/** Text without the characters for which `drops` holds at its start, its end or both. */
function without(text: string, drops: (char: string) => boolean, left: boolean, right: boolean): string {
  let [from, to] = [0, text.length];
  while (left && from < to) {
    const char = String.fromCodePoint(text.codePointAt(from)!);
    if (!drops(char)) break;
    from += char.length;
  }
  while (right && to > from) {
    const two = to - 2 >= from && text.codePointAt(to - 2)! > 0xffff;
    if (!drops(text.slice(two ? to - 2 : to - 1, to))) break;
    to -= two ? 2 : 1;
  }
  return text.slice(from, to);
}

/** str.strip(), lstrip() and rstrip(). @param characters what is dropped, by default white space */
export function strip(text: string, characters: string | undefined, left: boolean, right: boolean): string {
  if (characters === undefined) return without(text, (char) => isBlank(char.charCodeAt(0)), left, right);
  const set = new Set(characters);
  return without(text, (char) => set.has(char), left, right);
}

/** Words between white space, with their places. */
export function words(text: string): { readonly word: string; readonly index: number }[] {
  const found: { word: string; index: number }[] = [];
  for (let at = 0; at < text.length; ) {
    while (at < text.length && isBlank(text.charCodeAt(at))) at++;
    const index = at;
    while (at < text.length && !isBlank(text.charCodeAt(at))) at++;
    if (at > index) found.push({ word: text.slice(index, at), index });
  }
  return found;
}

/** Line ends of str.splitlines(): a carriage return with its line feed, or one of these. */
const ENDS = new Set([0x0a, 0x0b, 0x0c, 0x0d, 0x1c, 0x1d, 0x1e, 0x85, 0x2028, 0x2029]);

/** @param keeps lines have their ends */
export function lines(text: string, keeps = false): string[] {
  const found: string[] = [];
  let from = 0;
  for (let at = 0; at < text.length; at++) {
    const unit = text.charCodeAt(at);
    if (!ENDS.has(unit)) continue;
    const end = at;
    if (unit === 0x0d && text.charCodeAt(at + 1) === 0x0a) at++;
    found.push(text.slice(from, keeps ? at + 1 : end));
    from = at + 1;
  }
  if (from < text.length) found.push(text.slice(from));
  return found;
}

export function isAllBlank(text: string): boolean {
  return text !== "" && strip(text, undefined, true, false) === "";
}
