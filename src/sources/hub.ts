// Resolves a model id or a folder to a folder on this machine: looks in the Hugging Face cache, which Python and src/hub/ fill. It
// uses no network; the error for a missing model names the command that downloads it.

import { readdir, readFile, stat } from "node:fs/promises";
import { homedir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { checkOptions, FormatError, NotFoundError, OptionError, suggestion } from "../core/errors.js";
import { quoteAddress, withoutSecrets } from "./address.js";
import { COMMIT, cachedFolder, idOf, refOf, refsOf, snapshotOf } from "./cache-paths.js";
import { Disk } from "./disk.js";
import { foreignKind, HEAD_BYTES, type Kind, quote } from "./files.js";
import { checkRevision, isModelId, STORYTELLER } from "./model-id.js";
import { withFile } from "./source.js";

export interface ResolveOptions {
  /** The cache to look in; default: the environment's (see `cacheFolder`). */
  readonly cache_dir?: string;
  /** A branch, a tag or a full commit hash. Default: "main". */
  readonly revision?: string;
  /** Accepted as in Python; without effect, because nothing is downloaded here. */
  readonly local_files_only?: boolean;
}

export interface ResolvedModel {
  readonly folder: string;
  /** Only for a model from the cache. */
  readonly id?: string;
  /** The commit, only for a model from the cache. */
  readonly revision?: string;
}

/**
 * The Hugging Face cache: `cache_dir`, else HF_HUB_CACHE, HUGGINGFACE_HUB_CACHE, HF_HOME/hub, XDG_CACHE_HOME/huggingface/hub,
 * ~/.cache/huggingface/hub. The order is huggingface_hub's; empty variables count as unset.
 */
export function cacheFolder(cache_dir?: string, env: NodeJS.ProcessEnv = process.env): string {
  const under = (folder: string | undefined, ...rest: string[]) => (folder ? join(folder, ...rest) : undefined);
  const chosen =
    under(cache_dir) ??
    under(env.HF_HUB_CACHE) ??
    under(env.HUGGINGFACE_HUB_CACHE) ??
    under(env.HF_HOME, "hub") ??
    under(env.XDG_CACHE_HOME, "huggingface", "hub") ??
    join(homedir(), ".cache", "huggingface", "hub");
  return resolve(/^~(?=[/\\]|$)/.test(chosen) ? join(homedir(), chosen.slice(1)) : chosen);
}

function looksLikePath(text: string): boolean {
  return /^[./~\\]|^[A-Za-z]:[\\/]|\\/.test(text) || text.split("/").length > 2;
}

/** @param shown the path for messages */
async function kindOf(path: string, shown = path): Promise<"folder" | "file" | undefined> {
  try {
    return (await stat(path)).isDirectory() ? "folder" : "file";
  } catch (cause) {
    const { code, name, message } = cause as NodeJS.ErrnoException;
    // Deno's own error names the missing permission flag.
    if (code !== "EACCES" && name !== "NotCapable") return undefined; // missing: the caller reports what it looked for
    throw new NotFoundError(`${shown}: not readable (${code ?? message})`, {
      details: { file: shown, expected: "a folder or a file" },
      hint: "check the permissions of this folder and of those above it",
      cause,
    });
  }
}

/** What a file is that was passed as a model, if it is of a kind that is not read. */
async function foreignKindOf(path: string): Promise<Kind | undefined> {
  try {
    const head = await withFile(new Disk(dirname(path)), path, "file", (file) =>
      file.read(0, Math.min(file.size, HEAD_BYTES)),
    );
    return foreignKind(head);
  } catch {
    return undefined; // it may not be read, or is a pipe; that it is no folder is said all the same
  }
}

/** The path of a `file:` address, which code in ES modules writes for "beside this file"; other values as they are. */
function withoutFileScheme<T>(given: T): T | string {
  if (!(given instanceof URL) && !(typeof given === "string" && /^file:/i.test(given))) return given;
  try {
    return fileURLToPath(given);
  } catch (cause) {
    throw new OptionError(
      `expected a model id such as "org/name" or a folder, got the address ${quoteAddress(String(given))}`,
      {
        hint: "an address of a folder on this machine is file:///path/of/the/folder",
        cause,
      },
    );
  }
}

/**
 * Finds the folder of a model: an existing folder, or its file: address, wins; otherwise `idOrFolder` is a hub id, looked up in the local
 * Hugging Face cache under `revision`.
 * @throws NotFoundError naming what was searched and where, with near names; OptionError for an argument that is neither
 * a folder nor an id, or a bad revision; FormatError for a damaged cache
 */
export async function resolveModel(given: string | URL, options: ResolveOptions = {}): Promise<ResolvedModel> {
  checkOptions("resolveModel", options, ["cache_dir", "revision", "local_files_only"]);
  const { folder, id } = await localModel(given);
  return id === undefined ? { folder } : fromCache(id, cacheFolder(options.cache_dir), options.revision ?? "main");
}

/** A folder on this machine, or an id. */
export type LocalModel = { folder: string; id?: undefined } | { folder?: undefined; id: string };

/** What a name means: an existing folder, or its file: address, else an id. @throws OptionError, NotFoundError as `resolveModel` */
export async function localModel(given: string | URL): Promise<LocalModel> {
  const idOrFolder = withoutFileScheme(given);
  if (typeof idOrFolder !== "string" || idOrFolder === "" || idOrFolder.includes("\0")) {
    const got = typeof idOrFolder === "string" ? JSON.stringify(idOrFolder) : String(idOrFolder);
    throw new OptionError(`expected a model id such as "org/name" or a folder, got ${got}`);
  }
  const shown = withoutSecrets(idOrFolder);
  const kind = await kindOf(idOrFolder, shown);
  if (kind === "folder") return { folder: idOrFolder };
  if (kind === "file") {
    const foreign = await foreignKindOf(idOrFolder);
    throw new OptionError(`${shown}: expected a model folder, got ${foreign?.name ?? "a file"}`, {
      details: { file: shown },
      hint: foreign?.hint ?? "pass the folder that holds config.json",
    });
  }
  if (!isModelId(idOrFolder)) {
    if (looksLikePath(idOrFolder)) {
      throw new NotFoundError(`${shown}: no such folder`, {
        details: { file: shown, expected: "a folder" },
        hint: "pass the folder that holds config.json, or the id of a model on the hub",
      });
    }
    throw new OptionError(`expected a model id such as "org/name" or a folder, got ${quoteAddress(idOrFolder)}`, {
      details: { got: quoteAddress(idOrFolder) },
    });
  }
  return { id: idOrFolder };
}

/**
 * The cached snapshot of a revision.
 * @param forbidden what forbids to download it, for hints
 * @throws NotFoundError, FormatError for a damaged cache, OptionError for a bad revision
 */
export async function fromCache(
  id: string,
  cache: string,
  revision: string,
  forbidden?: string,
): Promise<ResolvedModel & { id: string; revision: string }> {
  const command = `octavo pull ${id}${revision === "main" ? "" : ` --revision ${revision}`}`;
  const download = forbidden ? `${forbidden} forbids downloads: leave it out, or run ${command} before` : undefined;
  checkRevision(revision);
  const model = cachedFolder(cache, id);
  if ((await kindOf(model)) !== "folder") {
    const folders = await neighbours(id);
    const near = suggestion(id, await nearNames(id, cache));
    const question = near === undefined ? "" : `; did you mean ${quote(near)}?`;
    const local = folders.length > 0;
    throw new NotFoundError(`model ${quote(id)} is neither a folder nor in the cache ${cache}${question}`, {
      details: { id, file: model, suggestion: near },
      hint: local
        ? `the folders there are ${folders.slice(0, 5).join(", ")}${folders.length > 5 ? ", ..." : ""}`
        : (download ?? `download it (${command}), or read it from the hub: { hub: "https://huggingface.co" }`),
    });
  }
  const found = await cachedSnapshot(model, revision);
  if (found) return { ...found, id };
  const refs = await list(refsOf(model));
  const have = refs.length > 0 ? ` (cached revisions: ${refs.slice(0, 10).join(", ")})` : "";
  throw new NotFoundError(`model ${quote(id)} is in the cache, but not its revision ${quote(revision)}${have}`, {
    details: {
      id,
      revision,
      file: COMMIT.test(revision) ? snapshotOf(model, revision) : refOf(model, revision),
      got: refs.slice(0, 10),
    },
    hint: download ?? `download it: ${command}`,
  });
}

/** The snapshot of a revision in the folder of a model or data set; undefined where there is none. @throws FormatError */
export async function cachedSnapshot(
  repo: string,
  revision: string,
): Promise<{ readonly folder: string; readonly revision: string } | undefined> {
  const commit = COMMIT.test(revision) ? revision : await readRef(repo, revision);
  if (commit === undefined) return undefined;
  const folder = snapshotOf(repo, commit);
  return (await kindOf(folder)) === "folder" ? { folder, revision: commit } : undefined;
}

/** Names that may have been meant by an id: folders beside it, cached models, and the package's own. */
export async function nearNames(id: string, cache: string): Promise<string[]> {
  return [...(await neighbours(id)), ...(await cachedModels(cache)), STORYTELLER];
}

/** The folders beside the one that an id names, if its first part is a folder here: then the id is a path with a typo. */
async function neighbours(id: string): Promise<string[]> {
  const [parent, name] = id.split("/");
  if (name === undefined) return [];
  const entries = await readdir(parent!, { withFileTypes: true }).catch(() => []);
  return entries.filter((entry) => entry.isDirectory()).map((entry) => `${parent}/${entry.name}`);
}

/** The commit that a branch or tag stands for in this cache, `undefined` if it is not cached. */
async function readRef(model: string, revision: string): Promise<string | undefined> {
  const file = refOf(model, revision);
  const info = await stat(file).catch(() => undefined);
  if (!info?.isFile()) return undefined;
  const text = info.size <= 256 ? (await readFile(file, "latin1")).trim() : `${info.size} bytes`;
  if (COMMIT.test(text)) return text;
  throw new FormatError(`${file}: expected a commit hash of 40 hex digits, got ${quote(text)}`, {
    details: { file, offset: 0, expected: "40 hex digits", got: text },
    hint: "the cache is damaged; delete this file and download the model again",
  });
}

async function list(folder: string): Promise<string[]> {
  return (await readdir(folder).catch(() => [])).sort();
}

/** Ids of the models in a cache folder, sorted; none if there is no such folder. */
export async function cachedModels(cache: string = cacheFolder()): Promise<string[]> {
  const names = await list(cache);
  return names.flatMap((name) => idOf(name) ?? []);
}
