// A cache of downloads for tests of what reads from servers.

import type { CachedFile, FileIdentity, RangeCache } from "../../src/sources/range-cache.js";

/** A cache in memory. `full` refuses to keep more pieces than that. */
export class MemoryCache implements RangeCache {
  readonly files = new Map<string, FileIdentity & { pieces: Map<number, Uint8Array> }>();
  full = Number.POSITIVE_INFINITY;

  async find(url: string): Promise<CachedFile | undefined> {
    const file = this.files.get(url);
    return file && this.#view(file);
  }
  async create(url: string, { size, etag }: FileIdentity): Promise<CachedFile> {
    const file = { size, etag, pieces: new Map<number, Uint8Array>() };
    this.files.set(url, file);
    return this.#view(file);
  }
  #view({ size, etag, pieces }: FileIdentity & { pieces: Map<number, Uint8Array> }): CachedFile {
    return {
      size,
      etag,
      has: (piece) => pieces.has(piece),
      read: async (piece) => pieces.get(piece)!.slice(),
      write: async (piece, content) => {
        if (pieces.size >= this.full) throw Object.assign(new Error("no room"), { name: "QuotaExceededError" });
        pieces.set(piece, content.slice());
      },
      close: async () => {},
    };
  }
  async size(): Promise<{ bytes: number; files: number }> {
    return { bytes: 0, files: this.files.size };
  }
  async clear(): Promise<void> {
    this.files.clear();
  }
}
