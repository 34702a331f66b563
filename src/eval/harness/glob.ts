// Patterns of paths as Python's fsspec has them: `*` and `?` within a part, `**` over parts, sets like [a-z] and [!0-9]; braces are
// letters. All places that a path may have reached in a pattern are followed together, so none costs more than their lengths multiplied.
// Libraries make regular expressions of patterns, which hostile ones keep busy for very long, and have the rules of bash.

import { FormatError } from "../../core/errors.js";

/** A character of a pattern, or a run: of a part's characters, of any, or of whole parts. */
type Token =
  | { readonly kind: "one"; readonly fits: (char: string) => boolean }
  | { readonly kind: "part" | "any" | "parts" };

/** Characters that are compared for one list of patterns, in all. */
const MOST_STEPS = 20_000_000;
const WILD = /[*?[]/;

const inPart = (char: string): boolean => char !== "/";
const one = (fits: (char: string) => boolean): Token => ({ kind: "one", fits });

/** The set that begins behind the bracket at `at`, and the place behind it; undefined where no bracket closes it. */
function setAt(chars: readonly string[], at: number): { token: Token; next: number } | undefined {
  const negated = chars[at] === "!";
  const start = negated ? at + 1 : at;
  const end = chars.indexOf("]", start + 1); // the first character may be a bracket itself
  if (end < 0) return undefined;
  const ranges: [low: string, high: string][] = [];
  for (let i = start; i < end; i++) {
    const isRange = chars[i + 1] === "-" && i + 2 < end;
    ranges.push([chars[i]!, isRange ? chars[i + 2]! : chars[i]!]);
    if (isRange) i += 2;
  }
  const code = (char: string): number => char.codePointAt(0)!;
  const isIn = (char: string): boolean =>
    ranges.some(([low, high]) => code(low) <= code(char) && code(char) <= code(high));
  return { token: one((char) => isIn(char) !== negated), next: end + 1 };
}

function tokensOf(pattern: string): Token[] {
  const tokens: Token[] = [];
  const parts = pattern.split("/");
  for (const [n, part] of parts.entries()) {
    const isLast = n === parts.length - 1;
    if (part === "**") {
      tokens.push({ kind: isLast ? "any" : "parts" });
      continue;
    }
    if (part === "*") tokens.push(one(inPart)); // a part is never empty
    const chars = [...part];
    for (let i = 0; i < chars.length; ) {
      const char = chars[i++]!;
      const set = char === "[" ? setAt(chars, i) : undefined;
      if (set) {
        tokens.push(set.token);
        i = set.next;
      } else if (char === "?") tokens.push(one(inPart));
      else if (char !== "*") tokens.push(one((other) => other === char));
      else {
        const from = i;
        while (chars[i] === "*") i++;
        // Two stars beside other characters: an error today, what fsspec took before 2023.12.
        tokens.push({ kind: i > from ? "any" : "part" });
      }
    }
    if (!isLast) tokens.push(one((other) => other === "/"));
  }
  return tokens;
}

/** Whether a name fits; `step` hears how many comparisons come. */
function fits(tokens: readonly Token[], name: string, step: (count: number) => void): boolean {
  /** By place in the pattern, the last character that reached it. */
  const reached = new Int32Array(tokens.length + 1).fill(-1);
  let places: number[] = [];
  const reach = (into: number[], place: number, at: number): void => {
    for (let next = place; reached[next] !== at; next++) {
      reached[next] = at;
      into.push(next);
      const kind = tokens[next]?.kind;
      if (kind === undefined || kind === "one") return; // a run may be empty
    }
  };
  reach(places, 0, 0);
  let at = 0;
  for (const char of name) {
    at++;
    const next: number[] = [];
    step(places.length);
    for (const place of places) {
      const token = tokens[place];
      if (!token) continue;
      if (token.kind === "one") {
        if (token.fits(char)) reach(next, place + 1, at);
      } else if (token.kind === "parts") {
        // Only the beginning of a part leads here, so what an empty run leads to is reached as well.
        if (reached[place] !== at) {
          reached[place] = at;
          next.push(place);
        }
        if (char === "/") reach(next, place + 1, at);
      } else if (token.kind === "any" || inPart(char)) reach(next, place, at);
    }
    if (next.length === 0) return false;
    places = next;
  }
  return places.includes(tokens.length);
}

/** Parts of a path that are left out unless a pattern names as many: hidden ones, and folders such as `__pycache__`. */
function unusual(path: string): string {
  const parts = path.split("/");
  const hidden = parts.filter((part) => part.startsWith(".") && /[^.]/.test(part));
  return `${hidden.length} ${parts.slice(0, -1).filter((part) => part.startsWith("__")).length}`;
}

/**
 * The names that fit one of the patterns, in their order.
 * @param place what the patterns stand in, for messages
 * @param most characters that are compared in all
 * @throws FormatError for patterns that would take very long
 */
export function matching(
  place: string,
  patterns: readonly string[],
  names: readonly string[],
  most: number = MOST_STEPS,
): string[] {
  const given = new Set(patterns.map((pattern) => pattern.replace(/^\.\//, "")));
  const wild = [...given].filter((pattern) => WILD.test(pattern));
  let steps = 0;
  const step = (count: number): void => {
    steps += count;
    if (steps <= most) return;
    throw new FormatError(`${place}: its patterns of names take too long to compare`, { details: { file: place } });
  };
  const compared = wild.map((pattern) => {
    const tokens = tokensOf(pattern);
    const start = pattern.slice(0, WILD.exec(pattern)!.index);
    const left = unusual(pattern);
    return (name: string): boolean => {
      step(1);
      return name.startsWith(start) && unusual(name) === left && fits(tokens, name, step);
    };
  });
  return names.filter((name) => given.has(name) || compared.some((compare) => compare(name)));
}
