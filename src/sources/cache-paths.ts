// Where things lie in the Hugging Face cache, as huggingface_hub has it: every path in it is made here.
//
//   models--org--name/blobs/<etag>              the bytes, by their hash: sha256 of large files, git's sha1 of small ones
//   models--org--name/snapshots/<commit>/<file> a link to them, or the bytes themselves where there are no links
//   models--org--name/refs/<revision>           the commit of a branch or a tag
//   models--org--name/.no_exist/<commit>/<file> an empty file: the commit has no file of that name
//   models--org--name/trees/<commit>.json       Python's note of a commit's files
//   .locks/models--org--name/                   Python's locks
//
// Data sets lie beside models, in datasets--org--name/.

import { join } from "node:path";

/** What the hub has. */
export type RepoKind = "model" | "dataset";

const PREFIX = "models--";

export const COMMIT = /^[0-9a-f]{40}$/;

function nameOf(id: string, kind: RepoKind): string {
  return `${kind}s--${id.replace("/", "--")}`;
}

/** The id of the model whose folder has that name; undefined for the name of another thing. */
export function idOf(name: string): string | undefined {
  return name.startsWith(PREFIX) ? name.slice(PREFIX.length).replace("--", "/") : undefined;
}

/** The folder of a model or a data set in a cache. */
export function cachedFolder(cache: string, id: string, kind: RepoKind = "model"): string {
  return join(cache, nameOf(id, kind));
}

/** The folder of a model's locks. */
export function locksOf(cache: string, id: string): string {
  return join(cache, ".locks", nameOf(id, "model"));
}

export const blobsOf = (folder: string): string => join(folder, "blobs");

/** The bytes of a file, by their hash. */
export function blobOf(folder: string, etag: string): string {
  return join(blobsOf(folder), etag);
}

export const snapshotsOf = (folder: string): string => join(folder, "snapshots");

/** The snapshot of a commit. */
export function snapshotOf(folder: string, commit: string): string {
  return join(snapshotsOf(folder), commit);
}

/** The commit of a snapshot, by the path of its folder or of one below it; undefined for other paths. */
export function commitIn(path: string): string | undefined {
  return /[\\/]snapshots[\\/]([0-9a-f]{40})(?:[\\/]|$)/.exec(path)?.[1];
}

export const refsOf = (folder: string): string => join(folder, "refs");

/** The note of a revision's commit. */
export function refOf(folder: string, revision: string): string {
  return join(refsOf(folder), ...revision.split("/"));
}

/** Notes of what a commit does not have. */
export function absencesOf(folder: string, commit: string): string {
  return join(folder, ".no_exist", commit);
}

export function absenceOf(folder: string, commit: string, name: string): string {
  return join(absencesOf(folder, commit), ...name.split("/"));
}

/** Python's note of a commit's files. */
export function treeOf(folder: string, commit: string): string {
  return join(folder, "trees", `${commit}.json`);
}
