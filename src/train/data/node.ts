// Files of examples in Node: a file or a folder on disk, or a file on a server.

import { readdir, stat } from "node:fs/promises";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { NotFoundError } from "../../core/errors.js";
import { fetched } from "../../media/fetched.js";
import { Disk } from "../../sources/disk.js";
import { systemCode } from "../../sources/file-errors.js";
import { type DataPlace, type DataReader, inMemory } from "./files.js";
import { type LoadDataset, loaderOf } from "./load.js";

function onDisk(path: string): DataPlace {
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

export const NODE_DATA: DataReader = {
  async find(where) {
    if (/^https?:\/\//i.test(where)) return [{ name: where, open: async () => inMemory(where, await fetched(where)) }];
    const path = /^file:/i.test(where) ? fileURLToPath(where) : where;
    try {
      if (!(await stat(path)).isDirectory()) return [onDisk(path)];
      return (await filesIn(path)).map(onDisk);
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

export const load_dataset: LoadDataset = /* @__PURE__ */ loaderOf(NODE_DATA);
