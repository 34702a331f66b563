// Schemas: what a value of a file or of a caller must be. A schema reads a value: it fills in what is left out, leaves out what it does not
// name, and says what is wrong. It is the part of zod that tables of options and config.json need, with zod's names and messages, in a
// tenth of the bytes, which every page loads.

import { type Issue, type Output, type Reading, Schema } from "./schema-base.js";

export { Schema } from "./schema-base.js";
export type { Output as infer };

type Primitive = string | number | boolean | null;

/** What is wrong with a value of the right type; undefined if nothing is. */
type Check<T> = (value: T) => string | undefined;

export class NumberSchema extends Schema<number> {
  /** Whole numbers alone. */
  readonly isInt: boolean;
  readonly #checks: readonly Check<number>[];

  constructor(isInt: boolean, checks: readonly Check<number>[] = []) {
    super();
    this.isInt = isInt;
    this.#checks = checks;
  }

  read(value: unknown, reading: Reading): number {
    if (typeof value !== "number" || !Number.isFinite(value)) reading.wrongType("number", value);
    else if (this.isInt && !Number.isInteger(value)) reading.wrongType("int", value);
    else for (const check of this.#checks) addIf(reading, check(value));
    return value as number;
  }

  #with(check: Check<number>): NumberSchema {
    return new NumberSchema(this.isInt, [...this.#checks, check]);
  }

  min(least: number): NumberSchema {
    return this.#with((value) => (value < least ? tooSmall("number to be", `>=${least}`) : undefined));
  }

  max(most: number): NumberSchema {
    return this.#with((value) => (value > most ? tooBig("number to be", `<=${most}`) : undefined));
  }

  positive(): NumberSchema {
    return this.#with((value) => (value > 0 ? undefined : tooSmall("number to be", ">0")));
  }

  multipleOf(step: number): NumberSchema {
    return this.#with((value) => (value % step === 0 ? undefined : `Invalid number: must be a multiple of ${step}`));
  }

  refine(check: (value: number) => boolean): NumberSchema {
    return this.#with((value) => (check(value) ? undefined : "Invalid input"));
  }
}

/** Values that have one `typeof`. */
class TypeSchema<T> extends Schema<T> {
  readonly #type: string;

  constructor(type: string) {
    super();
    this.#type = type;
  }

  read(value: unknown, reading: Reading): T {
    if (typeof value !== this.#type) reading.wrongType(this.#type, value);
    return value as T;
  }
}

export class BooleanSchema extends TypeSchema<boolean> {
  constructor() {
    super("boolean");
  }
}

export class LiteralSchema<T extends Primitive> extends Schema<T> {
  readonly values: ReadonlySet<T>;
  readonly #message: string | undefined;

  constructor(values: readonly T[], message?: string) {
    super();
    this.values = new Set(values);
    this.#message = message;
  }

  read(value: unknown, reading: Reading): T {
    if (!this.values.has(value as T)) reading.add(this.#message ?? this.#wanted(), true);
    return value as T;
  }

  #wanted(): string {
    const words = [...this.values].map((value) => (typeof value === "string" ? `"${value}"` : String(value)));
    return words.length === 1
      ? `Invalid input: expected ${words[0]}`
      : `Invalid option: expected one of ${words.join("|")}`;
  }
}

/** Whatever a check lets through. */
class CustomSchema<T> extends Schema<T> {
  readonly #check: (value: unknown) => boolean;

  constructor(check: (value: unknown) => boolean) {
    super();
    this.#check = check;
  }

  read(value: unknown, reading: Reading): T {
    if (!this.#check(value)) reading.add("Invalid input", true);
    return value as T;
  }
}

class ArraySchema<T> extends Schema<T[]> {
  readonly #item: Schema<T>;
  readonly #least: number;
  readonly #most: number;

  constructor(item: Schema<T>, least = 0, most = Number.POSITIVE_INFINITY) {
    super();
    this.#item = item;
    this.#least = least;
    this.#most = most;
  }

  read(value: unknown, reading: Reading): T[] {
    if (!Array.isArray(value)) {
      reading.wrongType("array", value);
      return [];
    }
    const [least, most] = [this.#least, this.#most];
    const exact = least === most ? `exactly ${most}` : undefined;
    const { length } = value;
    // Before its items are read: a file may list millions.
    if (length > most) {
      reading.add(tooBig("array to have", `${exact ?? `<=${most}`} items`));
      return [];
    }
    const items = Array.from(value, (item, i) => reading.part(i, this.#item, item));
    if (length < least) reading.add(tooSmall("array to have", `${exact ?? `>=${least}`} items`));
    return items;
  }

  min(least: number): ArraySchema<T> {
    return new ArraySchema(this.#item, least, this.#most);
  }

  max(most: number): ArraySchema<T> {
    return new ArraySchema(this.#item, this.#least, most);
  }

  length(length: number): ArraySchema<T> {
    return new ArraySchema(this.#item, length, length);
  }
}

class TupleSchema<T extends readonly unknown[]> extends Schema<T> {
  readonly #items: { readonly [I in keyof T]: Schema<T[I]> };

  constructor(items: { readonly [I in keyof T]: Schema<T[I]> }) {
    super();
    this.#items = items;
  }

  read(value: unknown, reading: Reading): T {
    const items: readonly Schema<unknown>[] = this.#items;
    if (!Array.isArray(value)) reading.wrongType("tuple", value);
    else if (value.length < items.length) reading.add(tooSmall("array to have", `>=${items.length} items`), true);
    else {
      if (value.length > items.length) reading.add(tooBig("array to have", `<=${items.length} items`), true);
      return items.map((item, i) => reading.part(i, item, value[i])) as readonly unknown[] as T;
    }
    return value as T;
  }
}

export type Shape = Readonly<Record<string, Schema<unknown>>>;

type Read<S extends Shape> = {
  -readonly [K in keyof S as undefined extends Output<S[K]> ? never : K]: Output<S[K]>;
} & { -readonly [K in keyof S as undefined extends Output<S[K]> ? K : never]?: Output<S[K]> };
/** The same as one type, which messages show in full. */
type Fields<S extends Shape> = { [K in keyof Read<S>]: Read<S>[K] };

export class ObjectSchema<S extends Shape = Shape> extends Schema<Fields<S>> {
  readonly shape: S;
  readonly #strict: boolean;

  constructor(shape: S, strict = false) {
    super();
    this.shape = shape;
    this.#strict = strict;
  }

  read(value: unknown, reading: Reading): Fields<S> {
    const fields: Record<string, unknown> = {};
    if (isObject(value)) {
      for (const [key, schema] of Object.entries(this.shape)) {
        const field = reading.part(key, schema, value[key]);
        if (field !== undefined || key in value) fields[key] = field;
      }
      if (this.#strict) this.#checkKeys(value, reading);
    } else reading.wrongType("object", value);
    return fields as Fields<S>;
  }

  #checkKeys(value: object, reading: Reading): void {
    const unknown = Object.keys(value).filter((key) => !Object.hasOwn(this.shape, key));
    if (unknown.length === 0) return;
    reading.add(`Unrecognized key${unknown.length > 1 ? "s" : ""}: ${unknown.map((key) => `"${key}"`).join(", ")}`);
  }
}

class UnionSchema<T> extends Schema<T> {
  readonly #options: readonly Schema<T>[];

  constructor(options: readonly Schema<T>[]) {
    super();
    this.#options = options;
  }

  read(value: unknown, reading: Reading): T {
    const tries: { readonly value: T; readonly issues: readonly Issue[] }[] = [];
    for (const option of this.#options) {
      const attempt = reading.apart(() => option.read(value, reading));
      if (attempt.issues.length === 0) return attempt.value;
      tries.push(attempt);
    }
    // Of one type that fits, what else is wrong; of several or none, nothing is certain.
    const near = tries.filter(({ issues }) => !issues.some(({ fatal }) => fatal));
    if (near.length === 1) reading.issues.push(...near[0]!.issues);
    else reading.add("Invalid input", true);
    return value as T;
  }
}

class PartialRecordSchema<K extends string, T> extends Schema<{ [Key in K]?: T }> {
  readonly #keys: ReadonlySet<string>;
  readonly #value: Schema<T>;

  constructor(keys: readonly K[], value: Schema<T>) {
    super();
    this.#keys = new Set(keys);
    this.#value = value;
  }

  read(value: unknown, reading: Reading): { [Key in K]?: T } {
    const fields: Record<string, T> = {};
    if (isObject(value)) {
      const unknown = Object.keys(value).filter((key) => !this.#keys.has(key));
      for (const key of Object.keys(value)) {
        if (this.#keys.has(key)) fields[key] = reading.part(key, this.#value, value[key]);
      }
      if (unknown.length > 0) {
        reading.add(`Unrecognized key${unknown.length > 1 ? "s" : ""}: ${unknown.map((key) => `"${key}"`).join(", ")}`);
      }
    } else reading.wrongType("record", value);
    return fields as { [Key in K]?: T };
  }
}

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value);

const tooSmall = (what: string, bound: string): string => `Too small: expected ${what} ${bound}`;
const tooBig = (what: string, bound: string): string => `Too big: expected ${what} ${bound}`;

function addIf(reading: Reading, message: string | undefined): void {
  if (message !== undefined) reading.add(message);
}

// Schemas in zod's words: a file that imports all of this as `z` reads as it would with zod.

/** A number that is finite. */
export const number = (): NumberSchema => new NumberSchema(false);
/** A whole number that JavaScript counts exactly. */
export const int = (): NumberSchema =>
  new NumberSchema(true, [
    (value) => (value > Number.MAX_SAFE_INTEGER ? tooBig("int to be", `<=${Number.MAX_SAFE_INTEGER}`) : undefined),
    (value) => (value < Number.MIN_SAFE_INTEGER ? tooSmall("int to be", `>=${Number.MIN_SAFE_INTEGER}`) : undefined),
  ]);
export const boolean = (): BooleanSchema => new BooleanSchema();
export const string = (): Schema<string> => new TypeSchema<string>("string");
export const unknown = (): Schema<unknown> => new CustomSchema<unknown>(() => true);
/** Whatever `check` lets through; without it anything. */
export const custom = <T>(check: (value: unknown) => boolean = () => true): Schema<T> => new CustomSchema<T>(check);
/** One value, or one of several. @param message what is said of others */
export const literal = <const T extends Primitive>(values: T | readonly T[], message?: string): LiteralSchema<T> =>
  new LiteralSchema(Array.isArray(values) ? values : [values as T], message);
export const array = <T>(item: Schema<T>): ArraySchema<T> => new ArraySchema(item);
export const tuple = <const T extends readonly unknown[]>(
  items: {
    readonly [I in keyof T]: Schema<T[I]>;
  },
): Schema<T> => new TupleSchema<T>(items);
/** An object with these fields; others are left out. */
export const object = <const S extends Shape>(shape: S): ObjectSchema<S> => new ObjectSchema(shape);
/** An object with these fields and no others. */
export const strictObject = <const S extends Shape>(shape: S): ObjectSchema<S> => new ObjectSchema(shape, true);
export const union = <const S extends readonly Schema<unknown>[]>(options: S): Schema<Output<S[number]>> =>
  new UnionSchema<Output<S[number]>>(options as readonly Schema<Output<S[number]>>[]);
/** An object with some of these keys and no others. */
export const partialRecord = <K extends string, T>(keys: readonly K[], value: Schema<T>): Schema<{ [Key in K]?: T }> =>
  new PartialRecordSchema(keys, value);
