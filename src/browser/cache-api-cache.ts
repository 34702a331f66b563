// Downloaded files in the browser's Cache API, for pages and for browsers without a private file system: one entry for
// each chunk, and one that says what the file is.

import { type CachedFile, CHUNK_BYTES, type FileIdentity, type RangeCache } from "../sources/range-cache.js";
import { type CacheStorage, type CacheStore, WEB } from "./web.js";

const NAME = "octavo";
/** Keys are addresses under a host name that does not exist. */
const ROOT = "https://octavo.invalid/";

/** The cache of this origin; undefined where there is none (pages that are not secure). */
export async function openCacheApiCache(): Promise<RangeCache | undefined> {
  if (!WEB.caches) return undefined;
  try {
    return new CacheApiCache(WEB.caches, await WEB.caches.open(NAME));
  } catch {
    return undefined;
  }
}

function metaKey(url: string): string {
  return `${ROOT}meta?${encodeURIComponent(url)}`;
}

function chunkKey(url: string, { size, etag }: FileIdentity, chunk: number): string {
  return `${ROOT}piece?${encodeURIComponent(url)}&${size}&${encodeURIComponent(etag)}&${CHUNK_BYTES}&${chunk}`;
}

class CacheApiCache implements RangeCache {
  readonly #all: CacheStorage;
  #store: CacheStore;

  constructor(all: CacheStorage, store: CacheStore) {
    this.#all = all;
    this.#store = store;
  }

  async find(url: string): Promise<CachedFile | undefined> {
    const meta = await this.#store.match(metaKey(url));
    if (!meta) return undefined;
    const identity = (await meta.json()) as FileIdentity;
    const stem = chunkKey(url, identity, 0).slice(0, -1);
    const chunks = (await this.#store.keys()).flatMap(({ url: key }) =>
      key.startsWith(stem) ? [Number(key.slice(stem.length))] : [],
    );
    return new CacheApiFile(this.#store, url, identity, new Set(chunks));
  }

  async create(url: string, { size, etag }: FileIdentity): Promise<CachedFile> {
    const stem = `${ROOT}piece?${encodeURIComponent(url)}&`;
    for (const { url: key } of await this.#store.keys()) if (key.startsWith(stem)) await this.#store.delete(key);
    await this.#store.put(metaKey(url), new Response(JSON.stringify({ size, etag })));
    return new CacheApiFile(this.#store, url, { size, etag }, new Set());
  }

  async size(): Promise<{ bytes: number; files: number }> {
    let bytes = 0;
    let files = 0;
    for (const { url: key } of await this.#store.keys()) {
      const entry = await this.#store.match(key);
      bytes += entry ? (await entry.blob()).size : 0;
      if (key.startsWith(`${ROOT}meta`)) files++;
    }
    return { bytes, files };
  }

  async clear(): Promise<void> {
    await this.#all.delete(NAME);
    this.#store = await this.#all.open(NAME);
  }
}

class CacheApiFile implements CachedFile {
  readonly size: number;
  readonly etag: string;
  readonly #store: CacheStore;
  readonly #url: string;
  readonly #chunks: Set<number>;

  constructor(store: CacheStore, url: string, { size, etag }: FileIdentity, chunks: Set<number>) {
    this.#store = store;
    this.#url = url;
    this.size = size;
    this.etag = etag;
    this.#chunks = chunks;
  }

  has(chunk: number): boolean {
    return this.#chunks.has(chunk);
  }

  async read(chunk: number): Promise<Uint8Array> {
    const entry = await this.#store.match(chunkKey(this.#url, this, chunk));
    if (!entry) throw new Error(`chunk ${chunk} is gone`);
    return new Uint8Array(await entry.arrayBuffer());
  }

  async write(chunk: number, bytes: Uint8Array): Promise<void> {
    if (this.has(chunk)) return;
    await this.#store.put(chunkKey(this.#url, this, chunk), new Response(bytes.slice()));
    this.#chunks.add(chunk);
  }

  async close(): Promise<void> {
    // Nothing is held.
  }
}
