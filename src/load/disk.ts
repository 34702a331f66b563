// What training needs of a disk in Node: the files that a path names, and folders of checkpoints.

import { readdir, rm, stat } from "node:fs/promises";
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { FOLDERS } from "../checkpoints/folder-write.js";
import { NotFoundError } from "../core/errors.js";
import { fetched } from "../media/fetched.js";
import { Disk } from "../sources/disk.js";
import { systemCode } from "../sources/file-errors.js";
import { inMemory } from "../sources/in-memory.js";
import type { SourceFile } from "../sources/source.js";

/** Folders of checkpoints by their paths. */
export const DISK_FOLDERS = {
  ...FOLDERS,
  async folders(folder: string): Promise<string[]> {
    const entries = await readdir(folder, { withFileTypes: true }).catch(() => []);
    return entries.flatMap((entry) => (entry.isDirectory() ? [entry.name] : []));
  },
  open: async (folder: string): Promise<Disk> => new Disk(folder),
  remove: (folder: string): Promise<void> => rm(folder, { recursive: true, force: true }),
};

/** A file that can be opened, as often as it is read. */
interface Place {
  readonly name: string;
  /** Its path below the folder in which it was found. */
  readonly below?: string;
  open(): Promise<SourceFile>;
}

function onDisk(path: string): Place {
  return { name: path, open: () => new Disk(dirname(path)).open(path, "file of examples") };
}

/** Files of a folder and of those in it, by name; hidden ones are left out. */
async function filesIn(folder: string): Promise<string[]> {
  const entries = await readdir(folder, { withFileTypes: true });
  const files: string[] = [];
  for (const entry of entries.sort((a, b) => (a.name < b.name ? -1 : 1))) {
    if (entry.name.startsWith(".")) continue;
    const path = join(folder, entry.name);
    if (entry.isDirectory()) files.push(...(await filesIn(path)));
    else files.push(path);
  }
  return files;
}

/** The files that a path or an address names. */
export const DISK_FILES = {
  /**
   * The file, or those of a folder and the folders in it, by name.
   * @throws NotFoundError, NetworkError
   */
  async find(where: string): Promise<Place[]> {
    if (/^https?:\/\//i.test(where)) return [{ name: where, open: async () => inMemory(where, await fetched(where)) }];
    const path = /^file:/i.test(where) ? fileURLToPath(where) : where;
    try {
      if (!(await stat(path)).isDirectory()) return [onDisk(path)];
      return (await filesIn(path)).map((file) => ({ ...onDisk(file), below: relative(path, file) }));
    } catch (cause) {
      const code = systemCode(cause);
      const absent = code === "ENOENT" || code === "ENOTDIR";
      throw new NotFoundError(`${path}: ${absent ? "no such file or folder" : `cannot be read (${code})`}`, {
        details: { file: path },
        hint: absent
          ? "data sets of a hub are read from their files: download them, or pass a file's address"
          : undefined,
        cause,
      });
    }
  },
};
