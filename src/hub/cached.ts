// What lies in the Hugging Face cache, and its removal: models and their revisions, as Python's `scan_cache_dir` counts them.

import { lstat, readdir, readFile, readlink, realpath, rm, stat } from "node:fs/promises";
import { basename, dirname, join, resolve, sep } from "node:path";
import { NotFoundError, OptionError, suggestion } from "../core/errors.js";
import { show } from "../core/show.js";
import {
  absencesOf,
  blobOf,
  blobsOf,
  cachedFolder,
  locksOf,
  refOf,
  refsOf,
  snapshotOf,
  snapshotsOf,
  treeOf,
} from "../sources/cache-paths.js";
import { quote } from "../sources/files.js";
import { cachedModels, cacheFolder } from "../sources/hub.js";
import { isModelId } from "../sources/model-id.js";
import { storing } from "./storage-errors.js";

export interface CachedRevision {
  readonly commit: string;
  /** Branches and tags that are this commit. */
  readonly refs: readonly string[];
  readonly files: number;
  /** Bytes of its files; other revisions may share them. */
  readonly bytes: number;
  /** Its blobs by path, and files that are no links, with their sizes; what links lead to outside the model's folder is not its own. */
  readonly blobs: ReadonlyMap<string, number>;
}

export interface CachedModel {
  readonly id: string;
  readonly folder: string;
  readonly revisions: readonly CachedRevision[];
  /** Bytes on disk, each blob counted once, partial downloads included. */
  readonly bytes: number;
  /** Bytes of downloads that ended early; they go on with the next one. */
  readonly incomplete_bytes: number;
  /** When a file of it was last read, as far as the disk notes that; undefined if it has none. */
  readonly last_used: Date | undefined;
}

async function names(folder: string): Promise<string[]> {
  return (await readdir(folder).catch(() => [])).sort();
}

/** Files below a folder, as paths. */
async function filesUnder(folder: string): Promise<string[]> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true }).catch(() => []);
  return entries.filter((entry) => !entry.isDirectory()).map((entry) => join(entry.parentPath, entry.name));
}

/** The models in a cache, by their ids. None if there is no such folder. */
export async function listCache(cache_dir?: string): Promise<CachedModel[]> {
  const cache = cacheFolder(cache_dir);
  const models: CachedModel[] = [];
  for (const id of await cachedModels(cache)) models.push(await scan(id, cachedFolder(cache, id)));
  return models;
}

async function scan(id: string, folder: string): Promise<CachedModel> {
  const refs = new Map<string, string[]>();
  const refsFolder = refsOf(folder);
  for (const file of await filesUnder(refsFolder)) {
    const commit = (await readFile(file, "utf8").catch(() => "")).trim();
    const name = file.slice(refsFolder.length + 1).replaceAll("\\", "/");
    refs.set(commit, [...(refs.get(commit) ?? []), name]);
  }
  const revisions: CachedRevision[] = [];
  const root = await realpath(folder).catch(() => folder);
  const own = [blobsOf(root), snapshotsOf(root)];
  const all = new Map<string, number>();
  let used = 0;
  for (const commit of await names(snapshotsOf(folder))) {
    const blobs = new Map<string, number>();
    const elsewhere = new Map<string, number>();
    let files = 0;
    for (const file of await filesUnder(snapshotOf(folder, commit))) {
      const blob = await targetOf(file);
      const info = await stat(blob).catch(() => undefined);
      if (!info || info.isDirectory()) continue; // a link to nothing, or to a folder
      files++;
      used = Math.max(used, info.atimeMs);
      const isOwn = own.some((part) => isBelow(blob, part));
      (isOwn ? blobs : elsewhere).set(blob, info.size);
      if (isOwn) all.set(blob, info.size);
    }
    const bytes = sum(blobs) + sum(elsewhere);
    revisions.push({ commit, refs: (refs.get(commit) ?? []).sort(), files, bytes, blobs });
  }
  let incomplete_bytes = 0;
  for (const name of await names(blobsOf(folder))) {
    const path = blobOf(root, name);
    const size = (await stat(path).catch(() => undefined))?.size ?? 0;
    if (name.endsWith(".incomplete")) incomplete_bytes += size;
    if (!all.has(path)) all.set(path, size);
  }
  const last_used = used > 0 ? new Date(used) : undefined;
  return { id, folder, revisions, bytes: sum(all), incomplete_bytes, last_used };
}

const sum = (sizes: ReadonlyMap<string, number>): number => [...sizes.values()].reduce((a, b) => a + b, 0);

const isBelow = (path: string, folder: string): boolean => path.startsWith(`${folder}${sep}`);

/** The blob that a file of a snapshot is a link to, or the file itself, by a path whose folders are no links. */
async function targetOf(file: string): Promise<string> {
  const folder = await realpath(dirname(file)).catch(() => dirname(file));
  const info = await lstat(file).catch(() => undefined);
  if (!info?.isSymbolicLink()) return join(folder, basename(file));
  const target = resolve(folder, await readlink(file));
  return join(await realpath(dirname(target)).catch(() => dirname(target)), basename(target));
}

/** Deletes a path that really lies in a folder. A link goes, and never what it leads to: that belongs to whoever made the link. */
async function removeFrom(folder: string, path: string): Promise<void> {
  const [root, parent] = await Promise.all(
    [realpath(folder), realpath(dirname(path))].map((one) => one.catch(() => "")),
  );
  if (root && parent && (root === parent || isBelow(parent!, root))) await rm(path, { recursive: true, force: true });
}

/** What a removal deletes. */
export interface Removal {
  readonly id: string;
  /** The commits that go. */
  readonly commits: readonly string[];
  /** True if nothing of the model stays. */
  readonly whole: boolean;
  /** Bytes that are free afterwards. */
  readonly bytes: number;
  /** Deletes it. @throws FileError */
  run(): Promise<void>;
}

/**
 * Plans to remove a model from the cache, or one revision of it, with the blobs that no other revision has. Deletes nothing yet.
 * @param revision a branch, a tag, or a commit or its first digits, 6 at least
 * @throws OptionError, NotFoundError
 */
export async function planRemoval(id: string, revision?: string, cache_dir?: string): Promise<Removal> {
  if (typeof id !== "string" || !isModelId(id)) {
    throw new OptionError(`expected a model id such as "org/name", got ${show(id)}`);
  }
  const cache = cacheFolder(cache_dir);
  const known = await cachedModels(cache);
  if (!known.includes(id)) {
    const near = suggestion(id, known);
    throw new NotFoundError(
      `model ${quote(id)} is not in the cache ${cache}${near ? `; did you mean ${quote(near)}?` : ""}`,
      { details: { id, suggestion: near }, hint: "octavo list shows what is there" },
    );
  }
  const model = await scan(id, cachedFolder(cache, id));
  const going = revision === undefined ? model.revisions : [theRevision(model, revision)];
  const staying = model.revisions.filter((one) => !going.includes(one));
  const whole = staying.length === 0;
  const kept = new Set(staying.flatMap(({ blobs }) => [...blobs.keys()]));
  const blobs = new Map(going.flatMap((one) => [...one.blobs].filter(([blob]) => !kept.has(blob))));
  const { folder } = model;
  return {
    id,
    commits: going.map(({ commit }) => commit),
    whole,
    bytes: whole ? model.bytes : sum(blobs),
    run: () =>
      storing(folder, async () => {
        // First what leads to the files, so that nobody finds a model of which a part is gone.
        for (const { refs } of going) for (const ref of refs) await removeFrom(folder, refOf(folder, ref));
        for (const { commit } of going) {
          for (const pathOf of [snapshotOf, absencesOf, treeOf]) await removeFrom(folder, pathOf(folder, commit));
        }
        for (const blob of blobs.keys()) await removeFrom(folder, blob);
        if (!whole) return;
        await removeFrom(cache, folder);
        await removeFrom(cache, locksOf(cache, id));
      }),
  };
}

function theRevision(model: CachedModel, revision: string): CachedRevision {
  const found = model.revisions.filter(({ commit, refs }) => commit === revision || refs.includes(revision));
  const digits = /^[0-9a-f]{6,40}$/.test(revision);
  if (found.length === 0 && digits) found.push(...model.revisions.filter(({ commit }) => commit.startsWith(revision)));
  if (found.length === 1) return found[0]!;
  const have = model.revisions.flatMap(({ commit, refs }) => (refs.length > 0 ? refs : [commit.slice(0, 12)]));
  throw new NotFoundError(
    `${quote(model.id)} has ${found.length === 0 ? "no cached revision" : "several cached revisions"} ${quote(revision)}`,
    {
      details: { id: model.id, revision, got: have.slice(0, 10) },
      hint: `cached revisions: ${have.slice(0, 10).join(", ")}`,
    },
  );
}
