// Renames where another program holds a file: Windows refuses them, and gives way a moment later.

import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test, vi } from "vitest";
import { renameOver } from "../../src/sources/rename.js";
import { temporary } from "../support/temporary.js";

/** Refuses a number of times. */
function held(code: string, times: number) {
  return vi.fn(async () => {
    if (times-- > 0) throw Object.assign(new Error(`${code}: held`), { code });
  });
}

test("a file takes another's place", async () => {
  const folder = temporary("rename");
  mkdirSync(folder);
  const [from, to] = [join(folder, "new"), join(folder, "old")];
  writeFileSync(from, "new");
  writeFileSync(to, "old");
  await renameOver(from, to);
  expect(readFileSync(to, "utf8")).toBe("new");
});

test.each(["EPERM", "EACCES", "EBUSY"])("Windows is asked again after %s", async (code) => {
  const by = held(code, 3);
  await renameOver("a", "b", { system: "win32", by });
  expect(by).toHaveBeenCalledTimes(4);
  expect(by).toHaveBeenLastCalledWith("a", "b");
});

test("what is refused for other reasons, elsewhere, or for long is an error", async () => {
  const elsewhere = held("EPERM", 1);
  await expect(renameOver("a", "b", { system: "linux", by: elsewhere })).rejects.toThrow("EPERM");
  expect(elsewhere).toHaveBeenCalledTimes(1);
  const absent = held("ENOENT", 1);
  await expect(renameOver("a", "b", { system: "win32", by: absent })).rejects.toThrow("ENOENT");
  expect(absent).toHaveBeenCalledTimes(1);
  const always = held("EBUSY", Number.POSITIVE_INFINITY);
  const began = Date.now();
  await expect(renameOver("a", "b", { system: "win32", by: always })).rejects.toThrow("EBUSY");
  expect(Date.now() - began).toBeLessThan(4000);
  expect(always.mock.calls.length).toBeGreaterThan(5);
});
