// The values of chat templates, as Python has them: whole numbers and others are told apart, a dictionary keeps its order, and
// nothing of JavaScript's can be reached through them. Not here: their text (text-of.ts), what is done with them (operators.ts).

import { OptionError } from "../../core/errors.js";
import { show } from "../../core/show.js";
import type { Budget } from "./limits.js";
import { refuse } from "./limits.js";

/** A number with a fraction, or one that would have it in Python: `1.0`. */
export class Float {
  readonly value: number;
  constructor(value: number) {
    this.value = value;
  }
}

/** A list that prints as a tuple. */
export class Tuple {
  readonly items: readonly Value[];
  constructor(items: readonly Value[]) {
    this.items = items;
  }
}

/** Items that Python makes when they are asked for: what a dictionary has, or a range. They print as what they are. */
export class View extends Tuple {
  readonly kind: "dict_keys" | "dict_values" | "dict_items" | "range";
  /** Where a range begins and ends, and its step. */
  readonly range: readonly [from: number, to: number, step: number] | undefined;
  constructor(kind: View["kind"], items: readonly Value[], range?: View["range"]) {
    super(items);
    this.kind = kind;
    this.range = range;
  }
}

/** A group of `groupby`: its key and its items, by place or as `grouper` and `list`. */
export class Group extends Tuple {
  constructor(grouper: Value, list: readonly Value[]) {
    super([grouper, list]);
  }
}

export class Dict {
  readonly entries: Map<Key, Value>;
  constructor(entries: Map<Key, Value> = new Map()) {
    this.entries = entries;
  }
}

/** `namespace()`: the one thing that a template may change. */
export class Namespace {
  readonly entries: Map<string, Value>;
  constructor(entries: Map<string, Value>) {
    this.entries = entries;
  }
}

/** Arguments of a call, by place and by name. */
export interface Arguments {
  readonly args: readonly Value[];
  readonly named: ReadonlyMap<string, Value>;
}

export class Callable {
  readonly name: string;
  readonly call: (given: Arguments) => Value;
  /** The names of a macro's arguments. */
  readonly parameters: readonly string[] | undefined;
  constructor(name: string, call: (given: Arguments) => Value, parameters?: readonly string[]) {
    this.name = name;
    this.call = call;
    this.parameters = parameters;
  }
}

/** Attributes that are computed when they are asked for: `loop`, a `cycler`. */
export class Attributes {
  readonly get: (name: string) => Value;
  /** What a call of it gives; a recursive loop can be called. */
  readonly call: ((given: Arguments) => Value) | undefined;
  constructor(get: (name: string) => Value, call?: (given: Arguments) => Value) {
    this.get = get;
    this.call = call;
  }
}

export type Key = string | number | bigint | boolean | null;
/** `undefined` is Jinja's, which prints as nothing; a number is a whole one, and a bigint one that a number cannot hold. */
export type Value =
  | undefined
  | null
  | boolean
  | number
  | bigint
  | string
  | Float
  | readonly Value[]
  | Tuple
  | Dict
  | Namespace
  | Callable
  | Attributes;

export function isList(value: Value): value is readonly Value[] {
  return Array.isArray(value);
}

/** The items of a list or tuple; undefined for anything else. */
export function listOf(value: Value): readonly Value[] | undefined {
  return isList(value) ? value : value instanceof Tuple ? value.items : undefined;
}

/** Python's name of a value's type, for messages. */
export function typeOf(value: Value): string {
  if (value === undefined) return "undefined";
  if (value === null) return "None";
  if (typeof value === "boolean") return "bool";
  if (typeof value === "number" || typeof value === "bigint") return "int";
  if (typeof value === "string") return "str";
  if (value instanceof Float) return "float";
  if (isList(value)) return "list";
  if (value instanceof View) return value.kind;
  if (value instanceof Tuple) return "tuple";
  if (value instanceof Dict) return "dict";
  if (value instanceof Callable) return "function";
  return value instanceof Namespace ? "namespace" : "object";
}

export function truth(value: Value): boolean {
  if (value instanceof Float) return value.value !== 0;
  const items = listOf(value);
  if (items !== undefined) return items.length > 0;
  if (value instanceof Dict) return value.entries.size > 0;
  return Boolean(value);
}

/** Digits of a whole number at most: as many as Python writes. */
const MOST_DIGITS = 4_300;
const MOST_WHOLE = 10n ** BigInt(MOST_DIGITS);

/** A whole number as templates hold it: a number where it is exact. @throws FormatError for more digits than Python writes */
export function wholeNumber(value: bigint): number | bigint {
  if (BigInt.asIntN(54, value) === value && Number.isSafeInteger(Number(value))) return Number(value);
  return value < MOST_WHOLE && value > -MOST_WHOLE
    ? value
    : refuse(`a whole number has more than ${MOST_DIGITS} digits`);
}

/** A whole number or boolean; undefined for anything else. */
export function wholeOf(value: Value): bigint | undefined {
  return typeof value === "number" || typeof value === "boolean" || typeof value === "bigint"
    ? BigInt(value)
    : undefined;
}

/** A number as it is, whole ones exactly, to be compared; undefined for anything else. */
export function exactOf(value: Value): number | bigint | undefined {
  return typeof value === "bigint" ? value : numberOf(value);
}

/** A number or boolean as a number, the nearest one to what is too large; undefined for anything else. */
export function numberOf(value: Value): number | undefined {
  if (typeof value === "number") return value;
  if (typeof value === "bigint") {
    const near = Number(value);
    return Number.isFinite(near) ? near : refuse("a whole number is too large for a float");
  }
  if (typeof value === "boolean") return Number(value);
  return value instanceof Float ? value.value : undefined;
}

/** What is the same for values that Python counts as one in a set: 1, 1.0 and True. @throws FormatError for what cannot be in one */
export function identityOf(value: Value): string {
  const number = exactOf(value);
  if (typeof number === "number" && Number.isInteger(number)) return `#${BigInt(number)}`;
  if (number !== undefined) return `#${number}`;
  if (typeof value === "string") return `"${value}`;
  if (value === undefined || value === null) return String(value);
  if (value instanceof Tuple && !(value instanceof View)) {
    return `(${value.items.map((item) => JSON.stringify(identityOf(item))).join()})`;
  }
  return refuse(`${typeOf(value)} cannot be counted once`);
}

/** True for what a dictionary of a template can have as a key. */
export function isKey(value: Value): value is Key | Float {
  return value === null || ["string", "number", "bigint", "boolean"].includes(typeof value) || value instanceof Float;
}

/** A key of a dictionary. @throws FormatError for what cannot be one */
export function keyOf(value: Value): Key {
  if (isKey(value) && !(value instanceof Float)) return value;
  return refuse(`${typeOf(value)} cannot be the key of a dictionary`);
}

/** Items that a loop, a filter or `list` goes through. @throws FormatError for what has none */
export function itemsOf(value: Value, budget: Budget): readonly Value[] {
  if (typeof value === "string") {
    budget.items(Math.min(value.length, 200_000));
    return Array.from(value);
  }
  const items = value === undefined ? [] : value instanceof Dict ? [...value.entries.keys()] : listOf(value);
  if (items === undefined) return refuse(`${typeOf(value)} is not a list`);
  budget.items(items.length);
  return items;
}

/** Values that one call may hand to a template, and their levels. */
const MOST_VALUES = 1_000_000;
const MOST_LEVELS = 100;

/** Turns a caller's values into a template's, and counts them. */
export class Reader {
  /** Values that were read. */
  count = 0;
  readonly #place: string;

  constructor(place: string) {
    this.#place = place;
  }

  /** @throws OptionError for what JSON has not, what is nested too deeply or too long, and what throws when it is read */
  read(what: string, given: unknown): Value {
    try {
      return this.#value(what, given, 0);
    } catch (cause) {
      if (cause instanceof OptionError) throw cause;
      throw new OptionError(`${this.#place}: ${what} cannot be read: ${show(given)}`, { cause });
    }
  }

  #value(what: string, given: unknown, level: number): Value {
    if (++this.count > MOST_VALUES)
      throw new OptionError(`${this.#place}: ${what} has more than ${MOST_VALUES} values`);
    if (level > MOST_LEVELS)
      throw new OptionError(`${this.#place}: ${what} is nested deeper than ${MOST_LEVELS} levels`);
    switch (typeof given) {
      case "undefined":
        return null;
      case "string":
      case "boolean":
        return given;
      case "number":
        return Number.isSafeInteger(given) ? given + 0 : new Float(given);
      case "bigint":
        return wholeNumber(given);
      case "object": {
        if (given === null) return null;
        if (Array.isArray(given)) {
          return Array.from(given as unknown[], (entry, i) => this.#value(`${what}[${i}]`, entry, level + 1));
        }
        const prototype: unknown = Object.getPrototypeOf(given);
        if (prototype !== null && prototype !== Object.prototype) break;
        const entries = new Map<Key, Value>();
        for (const [key, value] of Object.entries(given)) {
          if (value !== undefined) entries.set(key, this.#value(`${what}.${key}`, value, level + 1));
        }
        return new Dict(entries);
      }
    }
    throw new OptionError(`${this.#place}: ${what} must be text, numbers, lists and objects, got ${show(given)}`);
  }
}
