// What a disk refuses, as typed errors.

import { statfs } from "node:fs/promises";
import { dirname } from "node:path";
import { FileError, OctavoError } from "../core/errors.js";

const FULL = /^(ENOSPC|EDQUOT|EFBIG)$/;

/** The result of `work`, whose failures become typed ones that name the file. @throws FileError, and OctavoErrors as they are */
export async function storing<T>(file: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (cause) {
    if (cause instanceof OctavoError) throw cause;
    const { code = String(cause) } = cause as NodeJS.ErrnoException;
    if (FULL.test(code)) {
      throw new FileError(`${file}: the disk is full (${code})`, {
        details: { file, code },
        hint: "make room and load it again: what has arrived is kept, and the rest is fetched then",
        cause,
      });
    }
    throw new FileError(`${file}: cannot be written (${code})`, {
      details: { file, code },
      hint: "check the permissions of the cache's folder, or choose another with cache_dir or HF_HUB_CACHE",
      cause,
    });
  }
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
