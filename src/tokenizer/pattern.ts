// Patterns of tokenizer files as JavaScript's: regular expressions are those of Python's library (Oniguruma's). The library
// `@huggingface/tokenizers` translates them. Not here: what is done with matches (pre-tokenize.ts, normalize.ts, decode.ts).

import * as library from "@huggingface/tokenizers";
import { FormatError } from "../core/errors.js";
import { show } from "../core/show.js";
import { fail, isObject, type Json } from "./json-file.js";
import { type Disjoint, tooCostly } from "./regex-cost.js";

// NodeNext cannot resolve the library's own types (its relative imports lack file extensions), so the part that is used is
// declared here. It is private to the library and may change in any release, so package.json pins one exact version. Without
// the library we would have to translate Oniguruma's syntax: classes in classes, POSIX names, possessive repetitions, (?i:...).
interface Library {
  readonly SplitPreTokenizer: new (config: { pattern: Json }) => { readonly pattern: RegExp | null };
}
const Translator = (library as unknown as Library).SplitPreTokenizer;

const MAX_REGEX = 16_384;

/** Code points that stand for all when two classes are compared: those of planes 0 and 1 but for surrogates. */
let sample: string | undefined;
function samples(): string {
  if (sample === undefined) {
    const parts: string[] = [];
    for (let code = 0; code < 0x20000; code++)
      if (code < 0xd800 || code > 0xdfff) parts.push(String.fromCodePoint(code));
    sample = parts.join("");
  }
  return sample;
}

/** Atoms that are compared in one expression; more count as overlapping. */
const MOST_ATOMS = 64;

/** A comparison of atoms by the characters that they match. */
function comparison(): Disjoint {
  const known = new Map<string, ReadonlySet<string> | undefined>();
  const matched = (atom: string): ReadonlySet<string> | undefined => {
    if (!known.has(atom) && known.size < MOST_ATOMS) {
      let found: Set<string> | undefined;
      try {
        const pattern = new Translator({ pattern: { Regex: atom } }).pattern;
        found = pattern ? new Set(samples().match(pattern)) : undefined;
      } catch {
        // The translation of the whole expression says what is wrong.
      }
      known.set(atom, found);
    }
    return known.get(atom);
  };
  return (a, b) => {
    const [some, others] = [matched(a), matched(b)];
    if (some === undefined || others === undefined) return false;
    for (const char of some) if (others.has(char)) return false;
    return true;
  };
}

/**
 * Rejects regular expressions that can take exponential time, or more than cubic. Tokenizers in use have neither.
 * @throws FormatError
 */
export function checkRegex(file: string, key: string, source: string): void {
  if (source.length > MAX_REGEX)
    fail(file, key, `regular expression of ${source.length} characters, at most ${MAX_REGEX}`);
  const problem = tooCostly(source, comparison());
  if (problem) fail(file, key, `regular expression ${show(source)} ${problem}`);
}

/** Text as a pattern that matches it and nothing else. */
export function literally(text: string): RegExp {
  return new RegExp(text.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&"), "gu");
}

/**
 * The pattern {"String": ...} or {"Regex": ...} of a checked component, for `matchAll`.
 * @throws FormatError when it is none that can be translated
 */
export function patternOf(file: string, key: string, pattern: Json | undefined): RegExp {
  if (isObject(pattern) && typeof pattern.Regex !== "string") return literally(String(pattern.String));
  try {
    const translated = new Translator({ pattern: pattern ?? null }).pattern;
    if (translated) return translated;
  } catch (cause) {
    throw new FormatError(`${file}: the tokenizer cannot be built: ${key}.pattern: ${reason(cause)}`, {
      details: { file, key: `${key}.pattern` },
      cause,
    });
  }
  return fail(file, `${key}.pattern`, `expected {"String": ...} or {"Regex": ...}, got ${show(pattern)}`);
}

/** An error's message for another error's. */
function reason(cause: unknown): string {
  const text = cause instanceof Error ? cause.message : "the pattern is not understood";
  return text.length <= 160 ? text : `${text.slice(0, 160)}...`;
}

/**
 * Runs `work`, which matches patterns of a file.
 * @throws FormatError in place of the engine's RangeError when a pattern needs more memory than there is, or makes a text that
 * is longer than a string can be
 */
export function bounded<T>(file: string, key: string, length: number, work: () => T): T {
  try {
    return work();
  } catch (cause) {
    if (!(cause instanceof RangeError)) throw cause;
    return fail(file, key, `cannot be applied to a text of ${length} characters`, undefined, cause);
  }
}
