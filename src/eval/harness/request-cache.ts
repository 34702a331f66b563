// Answers of a model that were given before, in a file of one JSON line each, so that an interrupted evaluation goes on where it
// stopped. Keys are hashes of all that an answer depends on.

import { createHash } from "node:crypto";
import { appendFile, readFile, truncate } from "node:fs/promises";
import { FormatError, OptionError } from "../../core/errors.js";
import { show } from "../../core/show.js";
import { systemCode, writing } from "../../sources/file-errors.js";

/** Answers by key. */
export interface RequestCache {
  get(key: string): unknown;
  /** @throws FileError */
  set(entries: readonly (readonly [key: string, answer: unknown])[]): Promise<void>;
}

export function isRequestCache(value: unknown): boolean {
  try {
    const { get, set } = value as RequestCache;
    return typeof get === "function" && typeof set === "function";
  } catch {
    return false; // nothing with members, or with members that cannot be read
  }
}

const HINTS = { full: "free some space", otherwise: "choose another file for the cache" };

/** The key of an answer: SHA-256 of what it depends on. */
export function keyOf(...parts: readonly unknown[]): string {
  return createHash("sha256").update(JSON.stringify(parts)).digest("hex").slice(0, 40);
}

/**
 * A cache in a file, which need not exist. A last line that was cut off is removed: its answer is asked for again.
 * @throws FormatError for a file of something else; FileError
 */
export async function openRequestCache(file: string): Promise<RequestCache> {
  if (typeof file !== "string" || file === "")
    throw new OptionError(`openRequestCache takes a path, got ${show(file)}`);
  const text = await writing(file, HINTS, () =>
    readFile(file, "utf8").catch((cause: unknown) => {
      if (systemCode(cause) === "ENOENT") return "";
      throw cause;
    }),
  );
  const known = new Map<string, unknown>();
  const strange = (n: number, cause?: unknown): FormatError =>
    new FormatError(`${file}: line ${n + 1} is no answer of an evaluation`, { cause, hint: HINTS.otherwise });
  const whole = text.slice(0, text.lastIndexOf("\n") + 1);
  const lines = whole.split("\n").slice(0, -1);
  for (const [n, line] of lines.entries()) {
    try {
      const [key, answer] = JSON.parse(line) as [string, unknown];
      if (typeof key !== "string") throw new TypeError("no key");
      known.set(key, answer);
    } catch (cause) {
      throw strange(n, cause);
    }
  }
  if (whole !== text) {
    // Only what this wrote itself is removed.
    if (!/^\[(?:$|"(?:[0-9a-f]{0,39}$|[0-9a-f]{40}(?:$|")))/.test(text.slice(whole.length)))
      throw strange(lines.length);
    await writing(file, HINTS, () => truncate(file, Buffer.byteLength(whole)));
  }
  return {
    get: (key) => known.get(key),
    set: async (entries) => {
      if (entries.length === 0) return;
      for (const [key, answer] of entries) known.set(key, answer);
      const added = entries.map((entry) => `${JSON.stringify(entry)}\n`).join("");
      await writing(file, HINTS, () => appendFile(file, added));
    },
  };
}
