// Writes into the Hugging Face cache (its paths: sources/cache-paths.ts). All that appears there appears at once, by a rename; names
// that begin with ".tmp-" are on their way.

import { randomBytes } from "node:crypto";
import { copyFile, lstat, mkdir, readdir, readFile, rm, stat, symlink, writeFile } from "node:fs/promises";
import { dirname, join, relative } from "node:path";
import { absenceOf, blobOf, refOf, snapshotOf } from "../sources/cache-paths.js";
import { renameOver } from "../sources/rename.js";
import { isOn } from "./environment.js";
import { storing } from "./storage-errors.js";

/** The size of a regular file, links followed; undefined if there is none. */
export async function sizeOf(file: string): Promise<number | undefined> {
  const info = await stat(file).catch(() => undefined);
  return info?.isFile() ? info.size : undefined;
}

/** A path for something that is not ready, in the same file system as its place. */
function unready(folder: string): string {
  return join(folder, `.tmp-${randomBytes(6).toString("hex")}`);
}

/** Milliseconds after which nobody finishes what is on its way. */
const OLD = 24 * 3600_000;

/** Deletes what processes that were killed had on its way. */
export async function sweep(folder: string): Promise<void> {
  for (const name of await readdir(folder).catch(() => [])) {
    if (!name.startsWith(".tmp-")) continue;
    const path = join(folder, name);
    const info = await lstat(path).catch(() => undefined);
    if (info && Date.now() - info.mtimeMs > OLD) await rm(path, { force: true }).catch(() => {});
  }
}

/** Notes which commit a revision is. A revision that is a commit itself needs no note. @throws FileError */
export async function writeRef(folder: string, revision: string, commit: string): Promise<void> {
  if (revision === commit) return;
  const file = refOf(folder, revision);
  if ((await readFile(file, "utf8").catch(() => undefined)) === commit) return;
  await storing(file, async () => {
    await mkdir(snapshotOf(folder, commit), { recursive: true }); // Python takes a ref to no snapshot for damage
    await mkdir(dirname(file), { recursive: true });
    const made = unready(folder);
    await writeFile(made, commit);
    await renameOver(made, file);
  });
}

/** The first line says to programs that make backups that a cache need not be kept (bford.info/cachedir). */
const TAG =
  "Signature: 8a477f597d28d172789f06886806bc55\n# The Hugging Face cache; its files can be downloaded again.\n";

/** Marks the folder of a cache as one, as Python does. */
export async function tagCache(cache: string): Promise<void> {
  await writeFile(join(cache, "CACHEDIR.TAG"), TAG, { flag: "wx" }).catch(() => {}); // it is there, or nothing may be written
}

/** True if the commit is known to have no such file. */
export async function isKnownAbsent(folder: string, commit: string, name: string): Promise<boolean> {
  return (await sizeOf(absenceOf(folder, commit, name))) !== undefined;
}

/** Notes that a commit has no such file. A note only saves a question, so one that cannot be written is done without. */
export async function noteAbsent(folder: string, commit: string, name: string): Promise<void> {
  const file = absenceOf(folder, commit, name);
  try {
    await mkdir(dirname(file), { recursive: true });
    await writeFile(file, "");
  } catch {
    // a cache that may only be read
  }
}

/**
 * Puts a blob into a snapshot: as a link, or where there are none (Windows without its developer mode, HF_HUB_DISABLE_SYMLINKS) as
 * Python does: a new blob is moved there, one that was there before is copied, because other snapshots may use it.
 * @returns false if the blob is not there any more: another process has moved it
 * @throws FileError
 */
export async function putIntoSnapshot(
  folder: string,
  etag: string,
  commit: string,
  name: string,
  fresh: boolean,
): Promise<boolean> {
  const pointer = join(snapshotOf(folder, commit), ...name.split("/"));
  const blob = blobOf(folder, etag);
  return storing(pointer, async () => {
    await mkdir(dirname(pointer), { recursive: true });
    const made = unready(folder);
    if (await linked(relative(dirname(pointer), blob), made)) {
      await renameOver(made, pointer);
      return true;
    }
    try {
      if (!fresh) await copyFile(blob, made);
      await renameOver(fresh ? blob : made, pointer);
      return true;
    } catch (error) {
      await rm(made, { force: true });
      if ((await sizeOf(blob)) === undefined) return false;
      throw error;
    }
  });
}

/** False where links cannot be made. */
async function linked(target: string, link: string): Promise<boolean> {
  if (isOn(process.env.HF_HUB_DISABLE_SYMLINKS)) return false;
  try {
    await symlink(target, link);
    return true;
  } catch (error) {
    const { code = "" } = error as NodeJS.ErrnoException;
    if (/^(EPERM|EACCES|ENOSYS|ENOTSUP|EOPNOTSUPP|UNKNOWN|EINVAL)$/.test(code)) return false;
    throw error;
  }
}
