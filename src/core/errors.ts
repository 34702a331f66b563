// Typed errors: the list of their classes (error-classes.ts), and helpers that throw them.

import { closest, distance } from "fastest-levenshtein";
import * as classes from "./error-classes.js";
import { AbortError, OctavoError, type OctavoErrorOptions, OptionError } from "./error-classes.js";

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

/** Most characters of an unknown option's name that its error repeats. */
const LONGEST_NAME = 60;

/**
 * Refuses keys of `options` that are not in `known`.
 * @throws OptionError naming the key and the nearest known one.
 */
export function checkOptions(place: string, options: object | undefined, known: readonly string[]): void {
  if (options === undefined) return;
  if (typeof options !== "object" || options === null) {
    throw new OptionError(`${place}: options must be an object, got ${options === null ? "null" : typeof options}`);
  }
  for (const key of Object.keys(options)) {
    if (known.includes(key)) continue;
    const option = key.length <= LONGEST_NAME ? key : `${key.slice(0, LONGEST_NAME)}...`;
    const near = suggestion(option, known);
    throw new OptionError(`${place}: unknown option \`${option}\`` + (near ? `; did you mean \`${near}\`?` : ""), {
      details: { option, suggestion: near },
      hint: near ? undefined : `known options: ${known.join(", ")}`,
    });
  }
}
