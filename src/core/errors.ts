// Typed errors: the list of their classes (error-classes.ts), and helpers that throw them.

import { closest, distance } from "fastest-levenshtein";
import * as classes from "./error-classes.js";
import { AbortError, OctavoError, type OctavoErrorOptions, OptionError } from "./error-classes.js";
import { cut, kindOf } from "./show.js";

export * from "./error-classes.js";

type ErrorClass = new (message: string, options?: OctavoErrorOptions) => OctavoError;

/** All error classes but the base. A class exported by error-classes.ts is in this list and in the package's exports. */
export const ERROR_CLASSES: readonly ErrorClass[] = Object.values(classes).filter(
  (one): one is Exclude<typeof one, typeof OctavoError> => one !== OctavoError,
);

/** Hint for an invalid config.json. */
export const CONFIG_HINT = "compare it with the config.json that the model was published with";

/** @throws AbortError if the signal has fired; `what` names the work, such as "generation" */
export function throwIfAborted(signal: AbortSignal | undefined, what: string): void {
  if (signal?.aborted) throw new AbortError(`${what} was aborted`, { cause: signal.reason });
}

/** Longest word, in characters, that is checked for a misspelling. */
const LONGEST_WORD = 200;

/** The nearest of `known` to `word`, if it is near enough to be a likely misspelling. */
export function suggestion(word: string, known: readonly string[]): string | undefined {
  if (known.length === 0 || word.length > LONGEST_WORD) return undefined;
  const best = closest(word, known as string[]);
  return distance(word, best) <= Math.max(2, Math.ceil(word.length / 3)) ? best : undefined;
}

/** The names of `known` most like `word`, those that share a part between underscores with it first. */
function nearest(word: string, known: readonly string[]): readonly string[] {
  const rank = (name: string): number => {
    const alike = name.split("_").some((part) => part.length > 2 && word.includes(part));
    return distance(word, name) / Math.max(word.length, name.length, 1) - (alike ? 1 : 0);
  };
  const ranks = new Map(known.map((name) => [name, rank(name)]));
  return [...known].sort((a, b) => ranks.get(a)! - ranks.get(b)!).slice(0, NEAREST);
}

/** Names that a hint for an unknown one gives: a list of all would be longer than anyone reads. */
const NEAREST = 3;

/** Most characters of an unknown option's name that its error repeats. */
const LONGEST_NAME = 60;

/**
 * The options that a caller gave, each read once: getters and proxies are asked only here.
 * @param known the names that are allowed; all by default
 * @throws OptionError for what is no object or cannot be read, and for an unknown name, with the nearest known ones
 */
export function entriesOf(place: string, options: unknown, known?: readonly string[]): [string, unknown][] {
  if (options === undefined) return [];
  const names = namesOf(place, options);
  if (known) for (const name of names) if (!known.includes(name)) throw unknownOption(place, name, known);
  return names.map((name) => {
    try {
      return [name, (options as Record<string, unknown>)[name]];
    } catch (cause) {
      const option = cut(name, LONGEST_NAME);
      throw new OptionError(`${place}: option \`${option}\` cannot be read`, { cause, details: { option } });
    }
  });
}

/** The names of the options that a caller gave. @throws OptionError for what is no object or cannot be read */
export function namesOf(place: string, options: unknown): readonly string[] {
  if (typeof options !== "object" || options === null) {
    throw new OptionError(`${place}: options must be an object, got ${kindOf(options)}`);
  }
  try {
    if (!Array.isArray(options) && !ArrayBuffer.isView(options)) return Object.keys(options);
  } catch (cause) {
    throw new OptionError(`${place}: options must be an object, got one that cannot be read`, { cause });
  }
  throw new OptionError(`${place}: options must be an object, got a list`);
}

/** A hint for an option that is near none: all names if there are few, else those most like it. */
function optionsLike(option: string, known: readonly string[]): string {
  if (known.length <= NEAREST) return `known options: ${known.join(", ")}`;
  return `the nearest of ${known.length} options: ${nearest(option, known).join(", ")}`;
}

function unknownOption(place: string, name: string, known: readonly string[]): OptionError {
  const option = cut(name, LONGEST_NAME);
  const near = suggestion(option, known);
  return new OptionError(`${place}: unknown option \`${option}\`` + (near ? `; did you mean \`${near}\`?` : ""), {
    details: { option, suggestion: near },
    hint: near ? undefined : optionsLike(option, known),
  });
}

/**
 * Refuses keys of `options` that are not in `known`.
 * @throws OptionError as `entriesOf`
 */
export function checkOptions(place: string, options: object | undefined, known: readonly string[]): void {
  entriesOf(place, options, known);
}
