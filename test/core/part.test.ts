// Parts of the library that come when they are needed: calls that do not wait, and calls that are done again.

import { expect, test } from "vitest";
import { OctavoError } from "../../src/core/errors.js";
import { Part, withParts } from "../../src/core/part.js";

test("a part is loaded once, and only when it is opened", async () => {
  let loads = 0;
  const part = new Part(async () => ({ number: ++loads }));
  expect(() => part.now).toThrow(OctavoError);
  expect(loads).toBe(0);
  expect(await part.open()).toEqual({ number: 1 });
  expect(await part.open()).toEqual({ number: 1 });
  expect(part.now).toEqual({ number: 1 });
});

test("a part that did not come is asked for again", async () => {
  let online = false;
  const part = new Part(async () => {
    if (!online) throw new Error("offline");
    return 7;
  });
  await expect(part.open()).rejects.toThrow("offline");
  await expect(withParts(() => part.now)).rejects.toThrow("offline");
  online = true;
  expect(await withParts(() => part.now)).toBe(7);
});

test("a call that finds no part runs again with it, whether it throws or rejects; other errors stay", async () => {
  const [first, second] = [new Part(async () => 1), new Part(async () => 2)];
  const runs: string[] = [];
  const sum = await withParts(async () => {
    runs.push("run");
    return first.now + second.now;
  });
  expect(sum).toBe(3);
  expect(runs).toHaveLength(3);
  const error = new Error("mine");
  await expect(
    withParts(() => {
      throw error;
    }),
  ).rejects.toBe(error);
});
