// The classes of errors: all of them are exported to users, and all of them come back from a Worker as they went.

import { expect, test } from "vitest";
import { carry, revive } from "../../src/browser/protocol.js";
import * as browser from "../../src/browser.js";
import { ERROR_CLASSES, OctavoError } from "../../src/core/errors.js";
import { listed, show } from "../../src/core/show.js";
import * as node from "../../src/index.js";
import { quote } from "../../src/sources/files.js";

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

test("no message, hint or detail has the password of an address", () => {
  for (const address of [
    "http://user:hunter2@host/x",
    "HTTPS://hunter2@host",
    "s3://u:hun@hunter2@host/x",
    "/home/me/http:/user:hunter2@host",
  ]) {
    const error = new OctavoError("ERR_X", `got "${address}"`, {
      hint: `not ${address}`,
      details: { file: address, n: 1 },
    });
    expect(`${error.message} ${error.hint} ${JSON.stringify(error.details)}`).not.toContain("hunter2");
    expect(error.message).toContain("...@host");
    expect(error.details.n).toBe(1);
  }
  const plain = "mail a@b.org of https://host/path: 3@4";
  expect(new OctavoError("ERR_X", plain).message).toBe(plain);
});

test("a message cannot move a cursor or turn its line around: names of files are shown escaped", () => {
  const hostile = "x\u001b[2J\u009b1A\u202e\u2028\u0000\r";
  const { message } = new OctavoError("ERR_TEST", `tensor ${hostile} is gone`, { hint: `remove ${hostile}` });
  const shown = "x\\u001b[2J\\u009b1A\\u202e\\u2028\\u0000\\u000d";
  expect(message).toBe(`tensor ${shown} is gone\n  hint: remove ${shown}`);
  expect(show(hostile)).toBe(`"${shown.replace("\\u000d", "\\r")}"`);
  expect(quote(hostile)).toBe(show(hostile));
  expect(listed([`a\n${hostile}`, "é 😀 日本"])).toBe(`a\\n${shown}, é 😀 日本`);
  const long = new OctavoError("ERR_TEST", "\u001b".repeat(100_000), { hint: "\u001b".repeat(100_000) }).message;
  expect(long.length).toBeLessThanOrEqual(1000 + "\n  hint: ".length);
});
