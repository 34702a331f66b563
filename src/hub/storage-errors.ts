// What the disk of the cache refuses, as typed errors.

import { statfs } from "node:fs/promises";
import { dirname } from "node:path";
import { FileError } from "../core/errors.js";
import { type WriteHints, writing } from "../sources/file-errors.js";

const HINTS: WriteHints = {
  full: "make room and load it again: what has arrived is kept, and the rest is fetched then",
  otherwise: "check the permissions of the cache's folder, or choose another with cache_dir or HF_HUB_CACHE",
};

/** The result of `work`, which writes into the cache. @throws FileError, and other errors as they are */
export function storing<T>(file: string, work: () => Promise<T>): Promise<T> {
  return writing(file, HINTS, work);
}

/**
 * Checks that a disk has room, before anything is written to it.
 * @param needed bytes
 * @throws FileError
 */
export async function checkRoom(folder: string, needed: number): Promise<void> {
  const free = await freeBytes(folder);
  if (free === undefined || needed <= free) return;
  throw new FileError(`${folder}: the disk has ${free} bytes left, and ${needed} are to come`, {
    details: { file: folder, expected: needed, got: free },
    hint: "make room (octavo list shows what is cached), or choose another disk with cache_dir or HF_HUB_CACHE",
  });
}

/** Bytes that this user may write; undefined where the system does not say. */
async function freeBytes(folder: string): Promise<number | undefined> {
  for (let at = folder; ; at = dirname(at)) {
    const info = await statfs(at).catch(() => undefined);
    if (info) return info.bavail * info.bsize;
    if (dirname(at) === at) return undefined;
  }
}
