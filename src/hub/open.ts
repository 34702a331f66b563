// Finds a model or a data set by its id: on the hub, whose files come into the cache, or in the cache alone, if the hub may not or cannot be asked.

import { join } from "node:path";
import { NetworkError, NotFoundError, OptionError, suggestion } from "../core/errors.js";
import { folderAddress, tokenForServer } from "../sources/address.js";
import { COMMIT, cachedFolder, type RepoKind } from "../sources/cache-paths.js";
import { Disk } from "../sources/disk.js";
import { quote } from "../sources/files.js";
import { HttpClient, TIMEOUT } from "../sources/http-client.js";
import { cachedSnapshot, cacheFolder, fromCache, nearNames } from "../sources/hub.js";
import { checkRevision, subfolderParts } from "../sources/model-id.js";
import type { DownloadEvent, Source } from "../sources/source.js";
import { hubEndpoint, hubToken, offlineBy } from "./environment.js";
import { type Asked, explained, mayUseCache } from "./errors.js";
import { commitOf } from "./listing.js";
import { DownloadProgress } from "./progress.js";
import { HubSource } from "./source.js";

export interface HubOptions {
  /** Address of the hub; by default the one that HF_ENDPOINT names. A token of this machine does not go to another. */
  readonly hub?: string;
  readonly cache_dir?: string;
  readonly revision?: string;
  readonly local_files_only?: boolean;
  readonly force_download?: boolean;
  readonly subfolder?: string;
  readonly token?: string | boolean;
  readonly timeout?: number;
  readonly signal?: AbortSignal;
  readonly warn?: (message: string) => void;
  /** Hears of downloads; by default a bar shows them where stderr is a terminal. */
  readonly download?: (event: DownloadEvent) => void;
  /** Read parts of large files that are not cached, and keep nothing of them. */
  readonly peek?: boolean;
}

/** Seconds that the hub has to say which commit a revision is, if there is one in the cache. */
const SOON = 10;

/**
 * The model of an id. As in Python the hub is asked which commit the revision is now, and what is cached of it is not loaded again. A
 * full commit that is cached costs no request. If the hub cannot be asked, the cached commit is used, with a warning.
 * @throws OptionError, NotFoundError, NetworkError, FormatError, AbortError
 */
export function openModel(id: string, options: HubOptions): Promise<Source> {
  return openRepo("model", id, options);
}

/** The data set of an id, as `openModel` finds a model. @throws what `openModel` throws */
export function openDataset(id: string, options: HubOptions): Promise<Source> {
  return openRepo("dataset", id, options);
}

async function openRepo(kind: RepoKind, id: string, options: HubOptions): Promise<Source> {
  const { revision = "main", force_download: force = false, signal, timeout = TIMEOUT, warn = () => {} } = options;
  checkRevision(revision);
  const subfolder = subfolderParts(options.subfolder ?? "");
  const cache = cacheFolder(options.cache_dir);
  const cached = async (forbidden?: string): Promise<Source> => {
    const { folder, revision: commit } = await (kind === "model"
      ? fromCache(id, cache, revision, forbidden)
      : cachedDataset(id, cache, revision, forbidden));
    return new Disk(join(folder, ...subfolder), commit);
  };
  const forbidden = options.local_files_only ? "local_files_only" : offlineBy();
  if (forbidden !== undefined) {
    if (force) throw new OptionError(`force_download cannot be used with ${forbidden}`);
    return cached(forbidden);
  }
  const { hub } = options;
  const endpoint = hub === undefined ? hubEndpoint() : folderAddress(hub, "hub");
  const token =
    hub === undefined
      ? await hubToken(options.token)
      : { token: tokenForServer(options.token), from: "the option `token`" };
  const asked: Asked = { endpoint, kind, id, revision, token };
  let commit = revision;
  if (!COMMIT.test(revision)) {
    const known = await cached().catch(() => undefined);
    const client = new HttpClient({ signal, token: token.token, timeout: known ? Math.min(timeout, SOON) : timeout });
    try {
      commit = await commitOf(client, asked, revision);
    } catch (error) {
      const near = kind === "model" ? await nearNames(id, cache) : [];
      const told = explained(error, { ...asked, known: near });
      if (!known) throw unreachable(told, asked, cache, suggestion(id, near));
      if (force || !mayUseCache(error)) throw told;
      warn(`${firstLine(told)}; using what is cached of ${id}`);
      return known;
    } finally {
      client.close();
    }
  }
  return new HubSource({
    asked,
    folder: cachedFolder(cache, id, kind),
    commit,
    client: new HttpClient({ signal, token: token.token, timeout }),
    progress: new DownloadProgress(id, options.download),
    subfolder,
    force,
    peek: options.peek ?? false,
    warn,
  });
}

/** @throws NotFoundError where the revision of a data set is not in the cache */
async function cachedDataset(id: string, cache: string, revision: string, forbidden: string | undefined) {
  const found = await cachedSnapshot(cachedFolder(cache, id, "dataset"), revision);
  if (found) return found;
  throw new NotFoundError(`dataset ${quote(id)}, revision ${quote(revision)}, is not in the cache ${cache}`, {
    details: { id, revision },
    hint: forbidden && `${forbidden} forbids downloads: leave it out`,
  });
}

/** The error for a model that is not here, where the hub cannot be asked: then it may be a folder's name with a typo as well. */
function unreachable(error: unknown, { kind, id }: Asked, cache: string, near: string | undefined): unknown {
  if (!(error instanceof NetworkError)) return error;
  const question = near === undefined ? "" : `; did you mean ${quote(near)}?`;
  const place = `${kind} ${quote(id)} is neither a folder nor in the cache ${cache}${question}`;
  const reason = firstLine(error);
  return new NetworkError(`${place}\n  and the hub did not give it: ${reason}`, {
    details: { ...error.details, id, suggestion: near, reason },
    hint: error.hint,
    cause: error,
  });
}

const firstLine = (error: unknown): string => (error as Error).message.split("\n")[0]!;
