// What a file system refuses becomes one kind of error, wherever something is written.

import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { FOLDERS } from "../../src/checkpoints/folder-write.js";
import { FileError, FormatError } from "../../src/core/errors.js";
import { storing } from "../../src/hub/storage-errors.js";
import { offloadFolder } from "../../src/load/offload.js";
import { save } from "../../src/load/state-file.js";
import { writing } from "../../src/sources/file-errors.js";
import { temporary } from "../support/temporary.js";

const hints = { full: "make room", otherwise: "write elsewhere" };
const thrown = (error: unknown): Promise<unknown> =>
  writing("a/file\x1b", hints, () => Promise.reject(error)).catch((caught: unknown) => caught);
const system = (code: string, syscall?: string): Error => Object.assign(new Error(code), { code, syscall });

test("the code, the call and the place are said, and what to do; other errors stay what they are", async () => {
  const full = (await thrown(system("EDQUOT", "write"))) as FileError;
  expect(full).toBeInstanceOf(FileError);
  expect(full).toMatchObject({ hint: "make room", details: { file: "a/file\x1b", code: "EDQUOT" } });
  expect(full.message).toMatch(/^a\/file[ -~]*: the disk is full \(EDQUOT in write\)$/m);
  expect(String(await thrown(system("EROFS")))).toMatch(/cannot be written \(EROFS\)\n {2}hint: write elsewhere/);
  for (const other of [new FormatError("x"), new RangeError("y"), system("ERR_INVALID_ARG_TYPE"), "text"]) {
    expect(await thrown(other)).toBe(other);
  }
});

test("folders, states, offloaded weights and the cache", async () => {
  const place = temporary("file-in-place");
  mkdirSync(place);
  writeFileSync(join(place, "file"), "");
  const below = join(place, "file", "below");
  for (const [work, hint] of [
    [
      () =>
        FOLDERS.replace(
          below,
          () => false,
          async () => {},
        ),
      /permissions of the folder/,
    ],
    [() => save(new Map(), `${below}.safetensors`), /permissions of the folder/],
    [() => offloadFolder(below), /offload_folder/],
    [() => storing(below, () => Promise.reject(system("EACCES", "open"))), /HF_HUB_CACHE/],
  ] as const) {
    const error = await work().catch((caught: unknown) => caught);
    expect(error).toBeInstanceOf(FileError);
    expect(String(error)).toMatch(/below.*: cannot be written \(E[A-Z]+ in \w+\)/);
    expect((error as FileError).hint).toMatch(hint);
  }
});
