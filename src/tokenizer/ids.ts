// Lists of ids and of rows as callers pass them: whatever they are, they become arrays of numbers or an OptionError.

import { OctavoError, OptionError } from "../core/errors.js";
import { show } from "../core/show.js";
import type { IdRows } from "./batch.js";

/** One id, or several in any list. */
export type IdList = number | bigint | Iterable<number | bigint>;

/** Most ids of one list. */
const MOST_IDS = 2 ** 26;
const ROWS_HINT = "for several rows at once use tokenizer.batch_decode(rows)";

/**
 * Reads what a caller passed.
 * @throws OptionError in place of whatever a proxy, a getter, an iterator or a detached array throws
 */
export function reading<T>(place: string, what: string, given: unknown, read: () => T): T {
  try {
    return read();
  } catch (cause) {
    if (cause instanceof OctavoError) throw cause;
    throw new OptionError(`${place}: ${what} cannot be read: ${show(given)}`, { cause });
  }
}

/**
 * Ids as numbers.
 * @throws OptionError for what is not an integer or a list of integers
 */
export function readIds(place: string, given: unknown): number[] {
  if (typeof given === "number" || typeof given === "bigint") return [idOf(place, given)];
  return reading(place, "ids", given, () => {
    if (!isIterable(given)) {
      throw new OptionError(`${place}: ids must be a list of integers, got ${show(given)}`, { hint: ROWS_HINT });
    }
    return Array.from(given, (id, i) => {
      if (i === MOST_IDS) throw new OptionError(`${place}: more than ${MOST_IDS} ids`); // an iterator may never end
      return idOf(place, id);
    });
  });
}

function idOf(place: string, id: unknown): number {
  if (typeof id === "bigint") return Number(id);
  if (Number.isInteger(id)) return id as number;
  const nested = typeof id === "object" && id !== null;
  throw new OptionError(`${place}: ids must be integers, got ${Array.isArray(id) ? "a list" : show(id)}`, {
    hint: nested ? "use tokenizer.batch_decode(rows)" : undefined,
  });
}

function isIterable(value: unknown): value is Iterable<unknown> {
  return typeof value === "object" && value !== null && Symbol.iterator in value;
}

/**
 * Rows of a tensor or of nested lists, as arrays.
 * @throws OptionError for anything else
 */
export function readRows(place: string, given: IdRows): number[][] {
  return reading(place, "rows", given, () => {
    if (isIterable(given)) return Array.from(given, (row, b) => readRow(place, row, b));
    const { shape, data } = (typeof given === "object" && given !== null ? given : {}) as Partial<
      Record<string, unknown>
    >;
    const [B, T] = Array.isArray(shape) && shape.length === 2 ? (shape as unknown[]) : [];
    if (!isCount(B) || !isCount(T) || !isIterable(data)) {
      throw new OptionError(
        `${place}: rows must be a list of lists of integers or a tensor [B, T], got ${show(given)}`,
      );
    }
    const ids = readIds(place, data);
    // Rows without ids are rows, too, but nobody has more of them than a batch can hold.
    if (B * T !== ids.length || B > MOST_ROWS) {
      throw new OptionError(`${place}: a tensor of shape [${B}, ${T}] cannot hold ${ids.length} ids`);
    }
    return Array.from({ length: B }, (_, b) => ids.slice(b * T, (b + 1) * T));
  });
}

const MOST_ROWS = 1 << 24;

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && Number(value) >= 0;
}

function readRow(place: string, row: unknown, b: number): number[] {
  if (isIterable(row)) return readIds(place, row);
  throw new OptionError(`${place}: row ${b} must be a list of integers, got ${show(row)}`, {
    hint: "for one row use tokenizer.decode(ids)",
  });
}

/**
 * Texts as an array.
 * @throws OptionError for anything but a string or an array of strings
 */
export function readTexts(place: string, what: string, given: unknown): string[] {
  if (typeof given === "string") return [given];
  return reading(place, what, given, () => {
    if (!Array.isArray(given)) {
      throw new OptionError(`${place}: ${what} must be a string or an array of strings, got ${show(given)}`);
    }
    return Array.from(given as unknown[], (one, i) => {
      if (typeof one === "string") return one;
      throw new OptionError(`${place}: ${what} must be a string or an array of strings, got ${show(one)} at ${i}`);
    });
  });
}
