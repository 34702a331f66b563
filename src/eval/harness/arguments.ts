// Arguments of the public calls, checked before anything is computed.

import { isList } from "../../core/checks.js";
import { OptionError } from "../../core/errors.js";
import { show } from "../../core/show.js";

type Check = (value: unknown) => boolean;

export const isText: Check = (value) => typeof value === "string";
export const isTexts: Check = (value) => isList(value) && [...value].every(isText);
export const isOptions: Check = (value) => typeof value === "object" && value !== null && !isList(value);

/** A copy of a list whose entries are right. @throws OptionError */
export function listed<T>(call: string, given: unknown, check: Check, wanted: string): T[] {
  let strange = given;
  try {
    if (isList(given)) {
      const entries = Array.from(given);
      const at = entries.findIndex((entry) => !check(entry));
      if (at < 0) return entries as T[];
      strange = entries[at];
    }
  } catch (cause) {
    throw new OptionError(`${call} cannot read ${show(given)}`, { cause });
  }
  throw new OptionError(`${call} takes a list of ${wanted}, got ${show(strange)}`);
}

/** The same for a list of pairs. */
export function pairs<T>(call: string, given: unknown, first: Check, second: Check, wanted: string): T[] {
  const check: Check = (value) => isList(value) && value.length === 2 && first(value[0]) && second(value[1]);
  return listed<T>(call, given, check, wanted);
}
