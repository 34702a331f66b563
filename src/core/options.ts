// Tables of options. A table has one entry for each option of a call. The entry gives the option's TypeScript type, its
// check, its text in messages and, if it has `help`, its flag on the command line.

import { isFunction, isSignal } from "./checks.js";
import { entriesOf, OptionError, suggestion } from "./errors.js";
import * as z from "./schema.js";
import { kindOf, show } from "./show.js";

/** The facts of an entry beside its check. */
export interface EntryFacts {
  /** The next thing to try when the value is refused. */
  readonly hint?: string | ((value: unknown) => string | undefined);
  /** Messages name the type of a wrong value instead of the value. */
  readonly secret?: boolean;
  /** Text for the command line's help; options without it have no flag. */
  readonly help?: string;
  /** Of a switch that may be off: the help of a flag that says false. */
  readonly help_off?: string;
  /** Name of the flag without dashes at the front; by default the option's name with dashes for underscores. */
  readonly flag?: string;
  /** What the flag takes, such as "<n>". */
  readonly value?: string;
}

/** An option whose values are of type T. */
export interface Entry<T> extends EntryFacts {
  readonly schema: z.Schema<T>;
  /** Allowed values, as the end of "it must be ...". */
  readonly wanted: string;
}

export type Table = Readonly<Record<string, Entry<unknown>>>;

/** The options of a table, all optional. */
export type Options<T extends Table> = {
  -readonly [Name in keyof T]?: T[Name] extends Entry<infer Value> ? Value : never;
};

/** The required options of a table. */
export type Needed<T extends Table, Names extends keyof T> = {
  -readonly [Name in keyof T as Extract<Name, Names>]-?: T[Name] extends Entry<infer Value> ? Value : never;
};

/** An entry of a table. The schema only checks: it changes no value. */
export function option<T>(schema: z.Schema<T>, wanted: string, facts: EntryFacts = {}): Entry<T> {
  return { schema, wanted, ...facts };
}

export function flag(facts?: EntryFacts): Entry<boolean> {
  return option(z.boolean(), "true or false", facts);
}

export function text(facts?: EntryFacts): Entry<string> {
  return option(z.string(), "text", facts);
}

/** A whole number of at least 0, or above 0. */
export function whole(least: 0 | 1, facts?: EntryFacts): Entry<number> {
  return option(z.int().min(least), `a whole number ${least === 0 ? "of at least 0" : "above 0"}`, facts);
}

/** A number for which `check` holds. */
export function number(check: (value: number) => boolean, wanted: string, facts?: EntryFacts): Entry<number> {
  return option(z.number().refine(check), wanted, { value: "<x>", ...facts });
}

/** One of several words or numbers. */
export function choice<const T extends string | number | boolean>(values: readonly T[], facts?: EntryFacts): Entry<T> {
  const words = values.map((value) => JSON.stringify(value));
  return option(z.literal(values), words.length === 2 ? words.join(" or ") : `one of ${words.join(", ")}`, facts);
}

/** A value whose type a schema cannot express: class instances, functions, unions of both. */
export function such<T>(check: (value: unknown) => boolean, wanted: string, facts?: EntryFacts): Entry<T> {
  return option(z.custom<T>(check), wanted, facts);
}

/** A function that the call will call. */
export function callback<T extends (...args: never) => unknown>(): Entry<T> {
  return such<T>(isFunction, "a function");
}

/** A value that the call itself checks, against other options or the model. */
export function checkedLater<T>(): Entry<T> {
  return option(z.custom<T>(), "");
}

export function signal(): Entry<AbortSignal> {
  return such(isSignal, "an AbortSignal");
}

/** The message and hint for a wrong value; undefined if it is valid. `name` is the option's. */
export function problemWith(
  name: string,
  entry: Entry<unknown>,
  value: unknown,
): { message: string; hint: string | undefined } | undefined {
  const { schema, wanted, hint, secret } = entry;
  if (isValid(schema, value)) return undefined;
  const near =
    schema instanceof z.LiteralSchema && typeof value === "string" ? nearest(value, schema.values) : undefined;
  return {
    message: `${name} must be ${wanted}, got ${secret ? kindOf(value) : show(value)}${near ? `; did you mean "${near}"?` : ""}`,
    hint: typeof hint === "function" ? hint(value) : hint,
  };
}

/** A value that throws when it is looked at (a proxy, a getter) is not valid. */
function isValid(schema: z.Schema<unknown>, value: unknown): boolean {
  try {
    return schema.safeParse(value).success;
  } catch {
    return false;
  }
}

function nearest(value: string, allowed: ReadonlySet<unknown>): string | undefined {
  const words = [...allowed].filter((word) => typeof word === "string");
  return suggestion(value, words);
}

/**
 * The options in `given`, each checked; undefined counts as absent.
 * @param place the call, for messages
 * @param path prefix of the names in messages, such as "cache_config."
 * @throws OptionError naming the option, its allowed values and the actual one; for an unknown name the nearest known one
 */
export function readOptions<T extends Table>(place: string, table: T, given: unknown, path = ""): Options<T> {
  const options: Record<string, unknown> = {};
  for (const [name, value] of entriesOf(place, given, Object.keys(table))) {
    if (value === undefined) continue;
    const problem = problemWith(`${path}${name}`, table[name]!, value);
    if (problem) throw new OptionError(problem.message, { hint: problem.hint, details: { option: `${path}${name}` } });
    options[name] = value;
  }
  return options as Options<T>;
}

/** The table without some of its options. */
export function omit<T extends Table, const Names extends readonly (keyof T)[]>(
  table: T,
  names: Names,
): Omit<T, Names[number]> {
  return Object.fromEntries(Object.entries(table).filter(([name]) => !names.includes(name))) as Omit<T, Names[number]>;
}

/** The table without flags of the command line. */
export function withoutFlags<T extends Table>(table: T): T {
  return Object.fromEntries(
    Object.entries(table).map(([name, entry]) => [name, { ...entry, help: undefined }]),
  ) as Table as T;
}

/** The options in `options` that `table` has. */
export function pick<T extends Table>(table: T, options: { readonly [Key in keyof T]?: unknown }): Options<T> {
  const names = Object.keys(table).filter((name) => options[name] !== undefined);
  return Object.fromEntries(names.map((name) => [name, options[name]])) as Options<T>;
}
