// The classes of errors: all of them are exported to users, and all of them come back from a Worker as they went.

import { expect, test } from "vitest";
import { carry, revive } from "../../src/browser/protocol.js";
import * as browser from "../../src/browser.js";
import { ERROR_CLASSES, OctavoError } from "../../src/core/errors.js";
import * as node from "../../src/index.js";

/** Every class of errors that users of an entry can name, found without the list. */
function exportedBy(entry: object): string[] {
  const classes = Object.entries(entry).filter(
    ([, value]) => typeof value === "function" && value.prototype instanceof OctavoError,
  );
  return classes.map(([name]) => name).sort();
}

test("the list has every class once, each with a code of its own", () => {
  const names = ERROR_CLASSES.map(({ name }) => name).sort();
  expect(names.length).toBeGreaterThan(10);
  expect(exportedBy(node)).toEqual(names);
  expect(exportedBy(browser)).toEqual(names);
  const codes = ERROR_CLASSES.map((Class) => new Class("").code);
  expect(new Set(codes).size).toBe(codes.length);
  for (const code of codes) expect(code).toMatch(/^ERR_[A-Z_]+$/);
});

test.each(ERROR_CLASSES.map((Class) => [Class.name, Class] as const))("%s comes back from a Worker", (name, Class) => {
  const sent = new Class("it failed", { hint: "try this", details: { file: "a.json", offset: 3 } });
  const back = revive(structuredClone(carry(sent))) as OctavoError;
  expect(back).toBeInstanceOf(Class);
  expect(back.constructor).toBe(Class);
  expect(back).toMatchObject({ name, code: sent.code, message: sent.message, hint: "try this", details: sent.details });
  // Without a hint, and with the message that a class gives itself.
  const bare = revive(structuredClone(carry(new Class("")))) as OctavoError;
  expect(bare).toBeInstanceOf(Class);
  expect(bare.hint).toBeUndefined();
});

test("an error of another kind comes back as a bare OctavoError with its name", () => {
  const back = revive(structuredClone(carry(new RangeError("too far")))) as OctavoError;
  expect(back.constructor).toBe(OctavoError);
  expect(back).toMatchObject({ name: "RangeError", code: "ERR_UNKNOWN", message: "too far" });
});
