// What keeps downloaded files between visits: chunks of files, by address. The places themselves are the platform's
// (src/browser/); http.ts asks them and writes into them.

/** Bytes of one chunk; the last of a file may be shorter. */
export const CHUNK_BYTES = 1 << 20;

/** What a server says about a file; another etag or size means another file. */
export interface FileIdentity {
  readonly size: number;
  /** ETag, else Last-Modified, else "". */
  readonly etag: string;
}

/** One file of a cache, whole or in part. Chunks are numbered from 0. */
export interface CachedFile extends FileIdentity {
  has(chunk: number): boolean;
  /** @throws Error of any kind if it cannot be read: the chunk is then fetched again */
  read(chunk: number): Promise<Uint8Array>;
  /** @throws Error of any kind if it cannot be kept, such as a full storage: the load goes on without the cache */
  write(chunk: number, bytes: Uint8Array): Promise<void>;
  close(): Promise<void>;
}

export interface RangeCache {
  /** What is kept of the file at this address, `undefined` if nothing. */
  find(url: string): Promise<CachedFile | undefined>;
  /** Begins a file, in place of what was kept under this address. */
  create(url: string, identity: FileIdentity): Promise<CachedFile>;
  /** Bytes and files that are kept. */
  size(): Promise<{ bytes: number; files: number }>;
  /** Forgets everything. Files that are in use stay until they are closed. */
  clear(): Promise<void>;
}
