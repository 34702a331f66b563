// Calls with odd arguments: each must be done, or refused with a typed error of a length that can be read.

import { expect } from "vitest";
import { OctavoError } from "../../src/core/errors.js";
import { Mine, ODD } from "./odd.js";

const LONGEST = 700;

/** What went wrong with a call; undefined if it was done, or refused as it should be. */
export async function complaint(call: () => unknown): Promise<string | undefined> {
  try {
    const result: unknown = await call();
    if (result && typeof result === "object" && Symbol.asyncIterator in result) {
      const steps = result as AsyncGenerator;
      await steps.next();
      await steps.return(undefined);
    }
    return undefined;
  } catch (error) {
    if (error instanceof Mine) return undefined; // thrown by a function of the caller's
    if (!(error instanceof OctavoError)) return `untyped: ${(error as Error)?.stack ?? String(error)}`;
    return error.message.length <= LONGEST ? undefined : `${error.message.length} characters: ${error.message}`;
  }
}

/** Calls with every odd value, and asserts that each was done or refused. */
export async function all(
  what: string,
  call: (value: unknown) => unknown,
  without: readonly string[] = [],
): Promise<void> {
  const complaints: string[] = [];
  for (const [name, make] of Object.entries(ODD)) {
    if (without.includes(name)) continue;
    const said = await complaint(() => call(make()));
    if (said) complaints.push(`${what}, ${name}: ${said}`);
  }
  expect(complaints).toEqual([]);
}
