// Caches of downloaded files: chunks of files, by address. http.ts reads and writes them; the platform implements them
// (src/browser/).

/** Bytes of one chunk; the last of a file may be shorter. */
export const CHUNK_BYTES = 1 << 20;

/** The identity of a file on a server; another etag or size means another file. */
export interface FileIdentity {
  readonly size: number;
  /** ETag, else Last-Modified, else "": then only a whole file can be trusted to be of one version. */
  readonly etag: string;
}

/** One cached file, whole or in part. Chunks are numbered from 0. */
export interface CachedFile extends FileIdentity {
  has(chunk: number): boolean;
  /** @throws Error if it cannot be read; the chunk is then fetched again */
  read(chunk: number): Promise<Uint8Array>;
  /** @throws Error if it cannot be written, for example because storage is full; the load then continues without the cache */
  write(chunk: number, bytes: Uint8Array): Promise<void>;
  close(): Promise<void>;
}

export interface RangeCache {
  /** The cached file of this address; undefined if there is none. */
  find(url: string): Promise<CachedFile | undefined>;
  /** Begins a new file for this address and deletes the old one. */
  create(url: string, identity: FileIdentity): Promise<CachedFile>;
  /** Count of cached bytes and files. */
  size(): Promise<{ bytes: number; files: number }>;
  /** Deletes all files; files in use are deleted when they are closed. */
  clear(): Promise<void>;
}
