// What readers of columnar formats share: the optional packages that decode them, and their numbers.

import { OctavoError } from "../../core/errors.js";

/**
 * A package that reads `what` in a file.
 * @throws OctavoError if it is not installed
 */
export async function installed<T>(name: string, file: string, what: string): Promise<T> {
  try {
    // Not a literal: bundlers would look for what need not be there.
    return (await import(/* @vite-ignore */ name)) as T;
  } catch (cause) {
    throw new OctavoError("ERR_UNSUPPORTED", `${file}: ${what} needs the package ${name}, which is not installed`, {
      details: { file },
      hint: `npm install ${name}`,
      cause,
    });
  }
}

/** A whole number of 64 bits as a number, if that is exact. */
export function asNumber(value: bigint): number | bigint {
  return Number.isSafeInteger(Number(value)) ? Number(value) : value;
}
