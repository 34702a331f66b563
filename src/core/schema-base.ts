// What all schemas (schema.ts) share: how a value is read, and schemas made of another one.

/** What is wrong with a value, or with a part of it. */
export interface Issue {
  /** Where the part is: keys and indices from the value that was given. */
  readonly path: readonly (string | number)[];
  readonly message: string;
  /** The value has not even the right type. */
  readonly fatal: boolean;
}

export type Result<T> =
  | { readonly success: true; readonly data: T }
  | { readonly success: false; readonly issues: readonly Issue[] };

/** One reading: where it is, and what is wrong so far. */
export class Reading {
  readonly issues: Issue[] = [];
  readonly #path: (string | number)[] = [];

  add(message: string, fatal = false): void {
    this.issues.push({ path: [...this.#path], message, fatal });
  }

  wrongType(expected: string, value: unknown): void {
    this.add(`Invalid input: expected ${expected}, received ${typeName(value)}`, true);
  }

  part<T>(key: string | number, schema: Schema<T>, value: unknown): T {
    this.#path.push(key);
    const result = schema.read(value, this);
    this.#path.pop();
    return result;
  }

  /** What `body` adds, taken away again. */
  apart<T>(body: () => T): { readonly value: T; readonly issues: readonly Issue[] } {
    const before = this.issues.length;
    const value = body();
    return { value, issues: this.issues.splice(before) };
  }
}

/** A schema whose values are of type T. */
export abstract class Schema<T> {
  /** Of the type alone: what a reading gives. */
  declare readonly _output: T;

  /** The value as it is to be used. If `reading` has new issues, it means nothing. */
  abstract read(value: unknown, reading: Reading): T;

  safeParse(value: unknown): Result<T> {
    const reading = new Reading();
    const data = this.read(value, reading);
    return reading.issues.length === 0 ? { success: true, data } : { success: false, issues: reading.issues };
  }

  /** @throws TypeError; for values that the program itself gives */
  parse(value: unknown): T {
    const result = this.safeParse(value);
    if (result.success) return result.data;
    throw new TypeError(result.issues.map(({ message }) => message).join("; "));
  }

  optional(): Schema<T | undefined> {
    return new Otherwise<T, undefined>(this, (value) => value === undefined, undefined);
  }

  nullable(): Schema<T | null> {
    return new Otherwise<T, null>(this, (value) => value === null, null);
  }

  nullish(): Schema<T | null | undefined> {
    return this.nullable().optional();
  }

  /** What is left out is `value`. */
  default(value: Exclude<T, undefined>): DefaultSchema<T> {
    return new DefaultSchema<T>(this, value);
  }

  /** What is read becomes what `change` makes of it, which may refuse it. */
  transform<U>(change: (value: T, reading: Reading) => U): Schema<U> {
    return new Changed(this, change);
  }
}

/** What a schema reads. */
export type Output<S extends Schema<unknown>> = S["_output"];

/** A value, or one that stands for another. */
class Otherwise<T, Other> extends Schema<T | Other> {
  readonly #inner: Schema<T>;
  readonly #stands: (value: unknown) => boolean;
  readonly #other: Other;

  constructor(inner: Schema<T>, stands: (value: unknown) => boolean, other: Other) {
    super();
    this.#inner = inner;
    this.#stands = stands;
    this.#other = other;
  }

  read(value: unknown, reading: Reading): T | Other {
    return this.#stands(value) ? this.#other : this.#inner.read(value, reading);
  }
}

export class DefaultSchema<T> extends Schema<Exclude<T, undefined>> {
  readonly #inner: Schema<T>;
  readonly #value: Exclude<T, undefined>;

  constructor(inner: Schema<T>, value: Exclude<T, undefined>) {
    super();
    this.#inner = inner;
    this.#value = value;
  }

  read(value: unknown, reading: Reading): Exclude<T, undefined> {
    return value === undefined ? this.#value : (this.#inner.read(value, reading) as Exclude<T, undefined>);
  }

  /** The schema without its default. */
  unwrap(): Schema<T> {
    return this.#inner;
  }
}

class Changed<T, U> extends Schema<U> {
  readonly #inner: Schema<T>;
  readonly #change: (value: T, reading: Reading) => U;

  constructor(inner: Schema<T>, change: (value: T, reading: Reading) => U) {
    super();
    this.#inner = inner;
    this.#change = change;
  }

  read(value: unknown, reading: Reading): U {
    const before = reading.issues.length;
    const read = this.#inner.read(value, reading);
    return reading.issues.length === before ? this.#change(read, reading) : (undefined as U);
  }
}

function typeName(value: unknown): string {
  if (value === null) return "null";
  if (typeof value === "number" && !Number.isFinite(value)) return String(value);
  return Array.isArray(value) ? "array" : typeof value;
}
