// The windows in which a text is scored that may be longer than a model's context.

import type { TokenText } from "./prefix-tree.js";

/**
 * Windows in which each token is predicted once: windows of `longest` predictions one after the other, each with one token of
 * context, and the last with as much context as fits.
 * @param prefix what the first token is predicted from
 */
export function rollingWindows(tokens: readonly number[], prefix: number, longest: number): TokenText[] {
  const all = [prefix, ...tokens];
  const windows: TokenText[] = [];
  for (let predicted = 0; predicted < tokens.length; ) {
    const count = Math.min(longest, tokens.length - predicted);
    const end = predicted + count + 1;
    windows.push(endOf(all.slice(0, end), count, longest));
    predicted += count;
  }
  return windows;
}

/** The last tokens of a text that fit a model of `longest` positions, of which the last `count` are predicted. */
export function endOf(ids: readonly number[], count: number, longest: number): TokenText {
  const kept = ids.slice(-(longest + 1));
  return { ids: kept, from: Math.max(1, kept.length - count) };
}
