// Arguments of the public calls, checked before anything is computed.

import { isList, listOf } from "../../core/checks.js";
import { OptionError } from "../../core/errors.js";
import { show } from "../../core/show.js";

type Check<T> = (value: unknown) => value is T;

export const isText: Check<string> = (value) => typeof value === "string";
export const isTexts: Check<readonly string[]> = (value): value is readonly string[] =>
  listOf(value, isText) !== undefined;
export const isOptions: Check<Readonly<Record<string, unknown>>> = (
  value,
): value is Readonly<Record<string, unknown>> => typeof value === "object" && value !== null && !isList(value);

/** A copy of a list whose entries are right. @throws OptionError */
export function listed<T>(call: string, given: unknown, check: Check<T>, wanted: string): T[] {
  const made = listOf(given, check);
  if (made) return made;
  throw new OptionError(`${call} takes a list of ${wanted}, got ${show(given)}`);
}

/** The same for a list of pairs. */
export function pairs<A, B>(
  call: string,
  given: unknown,
  first: Check<A>,
  second: Check<B>,
  wanted: string,
): (readonly [A, B])[] {
  const check = (value: unknown): value is readonly [A, B] => {
    try {
      const [a, b, ...more] = isList(value) && value.length === 2 ? value : [];
      return first(a) && second(b) && more.length === 0;
    } catch {
      return false; // a list that throws when it is read
    }
  };
  return listed(call, given, check, wanted);
}

/** Whether a message of a conversation is its system's. */
export function isSystem(message: Readonly<Record<string, unknown>>): boolean {
  try {
    return message.role === "system";
  } catch {
    return false; // a message that throws when it is read
  }
}
