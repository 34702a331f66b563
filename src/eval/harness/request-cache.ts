// Answers of a model that were given before, in a file of one JSON line each, so that an interrupted evaluation goes on where it
// stopped. Keys are hashes of all that an answer depends on.

import { createHash } from "node:crypto";
import { appendFile, readFile } from "node:fs/promises";
import { FormatError } from "../../core/errors.js";
import { systemCode, writing } from "../../sources/file-errors.js";

/** Answers by key. */
export interface RequestCache {
  get(key: string): unknown;
  /** @throws FileError */
  set(entries: readonly (readonly [key: string, answer: unknown])[]): Promise<void>;
}

/** The key of an answer: SHA-256 of what it depends on. */
export function keyOf(...parts: readonly unknown[]): string {
  return createHash("sha256").update(JSON.stringify(parts)).digest("hex").slice(0, 40);
}

/**
 * A cache in a file, which need not exist. A last line that was cut off is left out: its answer is asked for again.
 * @throws FormatError for a file of something else; FileError
 */
export async function openRequestCache(file: string): Promise<RequestCache> {
  const hints = { full: "free some space", otherwise: "choose another file for the cache" };
  const text = await writing(file, hints, () =>
    readFile(file, "utf8").catch((cause: unknown) => {
      if (systemCode(cause) === "ENOENT") return "";
      throw cause;
    }),
  );
  const known = new Map<string, unknown>();
  const lines = text.split("\n");
  for (const [n, line] of lines.entries()) {
    if (line === "") continue;
    try {
      const [key, answer] = JSON.parse(line) as [string, unknown];
      if (typeof key !== "string") throw new TypeError("no key");
      known.set(key, answer);
    } catch (cause) {
      if (n === lines.length - 1) continue;
      throw new FormatError(`${file}: line ${n + 1} is no answer of an evaluation`, {
        cause,
        hint: "choose another file for the cache",
      });
    }
  }
  // A line that was cut off must not run into the next one.
  let start = text === "" || text.endsWith("\n") ? "" : "\n";
  return {
    get: (key) => known.get(key),
    set: async (entries) => {
      if (entries.length === 0) return;
      for (const [key, answer] of entries) known.set(key, answer);
      const added = entries.map((entry) => `${JSON.stringify(entry)}\n`).join("");
      await writing(file, hints, () => appendFile(file, start + added));
      start = "";
    },
  };
}
