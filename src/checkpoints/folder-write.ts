// Writes the folder of a model so that it appears as a whole. The files go into a new folder beside the old one, with links to
// what the old one keeps; then both change places in one step of the file system. Where no system call does that (Windows,
// file systems without it, no add-on) the new files are moved in one by one, configuration last.

import {
  chmod,
  link,
  lstat,
  mkdir,
  open,
  readdir,
  readlink,
  realpath,
  rm,
  rmdir,
  stat,
  symlink,
} from "node:fs/promises";
import { basename, dirname, join, relative, resolve } from "node:path";
import { exchangePaths } from "../backends/native/addon.js";
import { OptionError } from "../core/errors.js";
import { cut, printable } from "../core/show.js";
import { type WriteHints, writing } from "../sources/file-errors.js";
import { isAlive, machine, OWNER, ownName } from "../sources/owners.js";
import { renameOver } from "../sources/rename.js";
import type { FolderFiles, FolderWriter } from "./folder.js";
import { syncFolder, writeSafetensors } from "./safetensors-write.js";

/** A path for messages. */
function shown(folder: string): string {
  return cut(printable(folder), 300);
}

/** What lies at a path: a folder, or nothing. @throws OptionError for a file */
async function placeOf(folder: string): Promise<{ path: string; there: boolean; empty: boolean }> {
  const path = await realpath(folder).catch(() => resolve(folder));
  const info = await stat(path).catch(() => undefined);
  if (info && !info.isDirectory()) {
    throw new OptionError(`${shown(folder)}: expected a folder to save into, got a file`, {
      details: { file: folder },
    });
  }
  return { path, there: info !== undefined, empty: info !== undefined && (await readdir(path)).length === 0 };
}

/** Writes files into a folder, each synced to disk. */
function filesIn(folder: string, written: Set<string>): FolderFiles {
  const place = async (name: string): Promise<string> => {
    const path = join(folder, name);
    await mkdir(dirname(path), { recursive: true });
    written.add(join(name));
    return path;
  };
  return {
    async tensors(name, tensors, metadata) {
      await writeSafetensors(await place(name), tensors, metadata);
    },
    async bytes(name, content) {
      const handle = await open(await place(name), "w");
      try {
        await handle.writeFile(content);
        await handle.sync();
      } finally {
        await handle.close();
      }
    },
  };
}

/** All files below a folder, relative to it, links to folders included as what they are. */
async function* below(folder: string, inner = ""): AsyncIterable<string> {
  for (const entry of await readdir(join(folder, inner), { withFileTypes: true })) {
    const name = join(inner, entry.name);
    if (entry.isDirectory()) yield* below(folder, name);
    else yield name;
  }
}

/** Links everything of `from` that the new folder does not have into it. False if the file system has no links. */
async function carryOver(from: string, into: string, gone: (name: string) => boolean): Promise<boolean> {
  for await (const name of below(from)) {
    if (gone(name)) continue;
    const [source, target] = [join(from, name), join(into, name)];
    await mkdir(dirname(target), { recursive: true });
    try {
      if ((await lstat(source)).isSymbolicLink()) await symlink(await readlink(source), target);
      else await link(source, target);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "EEXIST") continue;
      return false;
    }
  }
  return true;
}

/** Folders whose entries changed, each synced, the innermost first. */
async function syncAll(folder: string, names: Iterable<string>): Promise<void> {
  const inner = new Set<string>();
  for (const name of names) {
    for (let at = dirname(name); at !== "."; at = dirname(at)) inner.add(at);
  }
  for (const one of [...inner].sort((a, b) => b.length - a.length)) await syncFolder(join(folder, one));
  await syncFolder(folder);
}

/** Moves new files over old ones. config.json is last: until then the old model is named there. */
async function moveIn(from: string, to: string, names: ReadonlySet<string>, gone: (name: string) => boolean) {
  const last = (name: string): number => (name === "config.json" ? 1 : 0);
  for (const name of [...names].sort((a, b) => last(a) - last(b))) {
    await mkdir(dirname(join(to, name)), { recursive: true });
    await renameOver(join(from, name), join(to, name));
  }
  for await (const name of below(to)) if (gone(name) && !names.has(name)) await rm(join(to, name));
  await rm(from, { recursive: true, force: true });
  await syncAll(to, names);
}

/** Removes the temporary folders of saves that were killed: those whose process has gone. They are as large as a model. */
async function removeLeft(path: string): Promise<void> {
  const [before, after] = [`.${basename(path)}.`, ".tmp"];
  const owned = new RegExp(`^${OWNER}$`);
  for (const parent of [dirname(path), path]) {
    for (const name of await readdir(parent).catch(() => [])) {
      if (!name.startsWith(before) || !name.endsWith(after)) continue;
      const [, place, pid] = owned.exec(name.slice(before.length, -after.length)) ?? [];
      if (place !== machine() || isAlive(Number(pid))) continue;
      await rm(join(parent, name), { recursive: true, force: true }).catch(() => undefined);
    }
  }
}

/** A new folder beside `path`, or inside it where its parent cannot be written. */
async function temporaryFor(path: string, there: boolean): Promise<{ folder: string; beside: boolean }> {
  const name = `.${basename(path)}.${ownName()}.tmp`;
  const made = async (parent: string): Promise<string> => {
    const folder = join(parent, name);
    await mkdir(folder);
    if (there) await chmod(folder, (await stat(path)).mode & 0o7777);
    return folder;
  };
  try {
    return { folder: await made(dirname(path)), beside: true };
  } catch (error) {
    if (!there) throw error;
    return { folder: await made(path), beside: false };
  }
}

/** What to do where a folder or a file of weights cannot be saved. */
export const SAVING: WriteHints = {
  full: "free some space and save again",
  otherwise: "check the permissions of the folder and of the one above it, or save elsewhere",
};

export const FOLDERS: FolderWriter = {
  replace: (folder, replaces, write) => writing(folder, SAVING, () => replace(folder, replaces, write)),
};

async function replace(...[folder, replaces, write]: Parameters<FolderWriter["replace"]>): Promise<void> {
  const { path, there, empty } = await placeOf(folder);
  if (!there) await mkdir(dirname(path), { recursive: true });
  await removeLeft(path);
  const { folder: temporary, beside } = await temporaryFor(path, there);
  const written = new Set<string>();
  const gone = (name: string): boolean => written.has(name) || replaces(name) || inside(temporary, join(path, name));
  try {
    await write(filesIn(temporary, written));
    await syncAll(temporary, written);
    if (!there || (empty && beside)) {
      if (there) await rmdir(path).catch(() => undefined); // Windows renames over nothing
      await renameOver(temporary, path);
      await syncFolder(dirname(path));
      return;
    }
    const whole = beside && (await carryOver(path, temporary, gone));
    if (whole && exchangePaths(temporary, path)) await syncFolder(dirname(path));
    else await moveIn(temporary, path, written, gone);
  } finally {
    await rm(temporary, { recursive: true, force: true });
  }
}

function inside(folder: string, path: string): boolean {
  return !relative(folder, path).startsWith("..");
}
