// What is kept of a file behind a server: found, compared with the server's, and done without where the cache fails.

import { NetworkError, OctavoError } from "../core/errors.js";
import { show } from "../core/show.js";
import { scrub } from "./address.js";
import type { HttpClient } from "./http-client.js";
import { type CachedFile, CHUNK_BYTES, type RangeCache } from "./range-cache.js";

/** What the files of a source share. */
export interface RemoteContext {
  readonly client: HttpClient;
  readonly cache: RangeCache | undefined;
  /** Bytes received from the server so far. */
  received: number;
  /** Called when the cache fails; the file is then read without it. */
  warn(message: string): void;
}

/**
 * The cached file, if it is the server's or the server cannot be reached. It costs a request for one byte.
 * @throws NotFoundError, NetworkError, FormatError, AbortError
 */
export async function findKept(path: string, what: string, context: RemoteContext): Promise<CachedFile | undefined> {
  const cached = await usable(context.cache?.find(path), context);
  if (!cached) return undefined;
  let same = false;
  try {
    same = await isCurrent(cached, path, what, context);
  } finally {
    if (!same) await cached.close().catch(() => {}); // nothing of it is read
  }
  return same ? cached : undefined;
}

async function isCurrent(cached: CachedFile, path: string, what: string, context: RemoteContext): Promise<boolean> {
  const { client } = context;
  // Without an etag nothing would say that further chunks are of the same version.
  if (cached.etag === "" && !isWhole(cached)) return false;
  try {
    const now = await client.identity(path, what);
    return now !== undefined && now.size === cached.size && now.etag === cached.etag;
  } catch (error) {
    client.checkAborted();
    const offline = error instanceof NetworkError && error.details.status === undefined;
    if (!offline) throw error;
    context.warn(`${path}: the server cannot be reached; using the cached file`);
    return true;
  }
}

function isWhole(file: CachedFile): boolean {
  for (let chunk = 0; chunk * CHUNK_BYTES < file.size; chunk++) if (!file.has(chunk)) return false;
  return true;
}

/** What the cache gives; undefined, with a warning, if it fails. */
export async function usable(
  work: Promise<CachedFile | undefined> | undefined,
  context: RemoteContext,
): Promise<CachedFile | undefined> {
  try {
    return await work;
  } catch (error) {
    context.warn(unusable(error));
    return undefined;
  }
}

/** A failure of the cache, as a warning. */
export function unusable(error: unknown): string {
  const { name = "", message = show(error) } = (error ?? {}) as Partial<Error>;
  const full = name === "QuotaExceededError" || /quota/i.test(message);
  if (error instanceof OctavoError) return error.message;
  return full
    ? "the browser's storage is full: further downloads are not kept"
    : `the cache cannot be used (${name || "error"}: ${scrub(message)}): downloads are not kept`;
}
