// Downloaded files in the origin's private file system. Only Workers can write there chunk by chunk. Each download is two
// files: `<hash>.data` holds the chunks at their offsets, `<hash>.meta` the address and a mark for each chunk. Marks are
// written after the bytes are flushed, so a page that is closed during a download loses at most the last few chunks.

import { type CachedFile, CHUNK_BYTES, type FileIdentity, type RangeCache } from "../sources/range-cache.js";
import { type FileHandle, type FolderHandle, type SyncAccessHandle, WEB } from "./web.js";

const FOLDER = "octavo";
/** Chunks between two flushes. */
const FLUSH_EVERY = 16;

interface Meta extends FileIdentity {
  readonly url: string;
  readonly piece: number;
}

/** The cache of this origin; undefined outside of Workers and without such a file system. */
export async function openOpfsCache(): Promise<RangeCache | undefined> {
  if (!WEB.FileSystemSyncAccessHandle || !WEB.navigator?.storage?.getDirectory) return undefined;
  try {
    const root = await WEB.navigator.storage.getDirectory();
    return new OpfsCache(await root.getDirectoryHandle(FOLDER, { create: true }));
  } catch {
    return undefined; // private windows of some browsers
  }
}

class OpfsCache implements RangeCache {
  readonly #folder: FolderHandle;
  /** Open files. A file has at most one handle, but a model and its tokenizer read the same config. */
  readonly #open = new Map<string, Promise<OpfsFile>>();

  constructor(folder: FolderHandle) {
    this.#folder = folder;
  }

  async find(url: string): Promise<CachedFile | undefined> {
    const name = await nameOf(url);
    const inUse = this.#open.get(name);
    if (inUse) return (await inUse).share();
    if (!(await this.#exists(name))) return undefined;
    return this.#enter(name, () => this.#reopen(name, url)).catch(async () => {
      await this.#remove(name); // cut short, of another version, or of another address
      return undefined;
    });
  }

  async create(url: string, { size, etag }: FileIdentity): Promise<CachedFile> {
    const name = await nameOf(url);
    const before = await this.#open.get(name)?.catch(() => undefined);
    if (before && before.size === size && before.etag === etag) return before.share();
    return this.#enter(name, () => this.#begin(name, { url, size, etag, piece: CHUNK_BYTES }));
  }

  async size(): Promise<{ bytes: number; files: number }> {
    let bytes = 0;
    let files = 0;
    for await (const [name, entry] of this.#folder.entries()) {
      if (entry.kind !== "file") continue;
      bytes += (await entry.getFile()).size;
      if (name.endsWith(".data")) files++;
    }
    return { bytes, files };
  }

  async clear(): Promise<void> {
    const names: string[] = [];
    for await (const [name] of this.#folder.entries()) names.push(name);
    for (const name of names) await this.#folder.removeEntry(name).catch(() => {}); // in use, here or in another tab
  }

  async #exists(name: string): Promise<boolean> {
    return this.#folder.getFileHandle(`${name}.meta`).then(
      () => true,
      () => false,
    );
  }

  #enter(name: string, open: () => Promise<OpfsFile>): Promise<OpfsFile> {
    const leave = (): void => {
      if (this.#open.get(name) === opening) this.#open.delete(name);
    };
    const opening = open().then((file) => {
      file.closed = leave;
      return file;
    });
    this.#open.set(name, opening);
    opening.catch(leave);
    return opening;
  }

  async #handles(name: string): Promise<{ data: SyncAccessHandle; meta: SyncAccessHandle }> {
    const file = async (end: string): Promise<SyncAccessHandle> => {
      const handle: FileHandle = await this.#folder.getFileHandle(`${name}.${end}`, { create: true });
      return handle.createSyncAccessHandle!();
    };
    const data = await file("data");
    try {
      return { data, meta: await file("meta") };
    } catch (error) {
      data.close();
      throw error;
    }
  }

  async #reopen(name: string, url: string): Promise<OpfsFile> {
    const { data, meta } = await this.#handles(name);
    try {
      const text = new Uint8Array(meta.getSize());
      meta.read(text, { at: 0 });
      const length = new DataView(text.buffer).getUint32(0, true);
      const known = JSON.parse(new TextDecoder().decode(text.subarray(4, 4 + length))) as Meta;
      const marks = text.slice(4 + length);
      if (known.url !== url || known.piece !== CHUNK_BYTES || marks.length !== marksFor(known.size)) {
        throw new Error("another file");
      }
      return new OpfsFile(known, data, meta, 4 + length, marks);
    } catch (error) {
      data.close();
      meta.close();
      throw error;
    }
  }

  async #begin(name: string, what: Meta): Promise<OpfsFile> {
    const { data, meta } = await this.#handles(name);
    try {
      const text = new TextEncoder().encode(JSON.stringify(what));
      const marks = new Uint8Array(marksFor(what.size));
      const head = new Uint8Array(4 + text.length + marks.length);
      new DataView(head.buffer).setUint32(0, text.length, true);
      head.set(text, 4);
      data.truncate(0);
      meta.truncate(0);
      meta.write(head, { at: 0 });
      meta.flush();
      return new OpfsFile(what, data, meta, 4 + text.length, marks);
    } catch (error) {
      data.close();
      meta.close();
      throw error;
    }
  }

  async #remove(name: string): Promise<void> {
    for (const end of ["data", "meta"]) await this.#folder.removeEntry(`${name}.${end}`).catch(() => {});
  }
}

class OpfsFile implements CachedFile {
  readonly size: number;
  readonly etag: string;
  /** Called when the last user closes it, before other tasks run. */
  closed: () => void = () => {};
  readonly #data: SyncAccessHandle;
  readonly #meta: SyncAccessHandle;
  readonly #marksAt: number;
  /** A byte for each chunk that is there. */
  readonly #marks: Uint8Array;
  /** Chunks whose marks are not on disk yet. */
  #unmarked = 0;
  #users = 1;

  constructor(
    { size, etag }: FileIdentity,
    data: SyncAccessHandle,
    meta: SyncAccessHandle,
    at: number,
    marks: Uint8Array,
  ) {
    this.size = size;
    this.etag = etag;
    this.#data = data;
    this.#meta = meta;
    this.#marksAt = at;
    this.#marks = marks;
  }

  share(): this {
    this.#users++;
    return this;
  }

  has(chunk: number): boolean {
    return this.#marks[chunk] === 1;
  }

  async read(chunk: number): Promise<Uint8Array> {
    const at = chunk * CHUNK_BYTES;
    const bytes = new Uint8Array(Math.min(CHUNK_BYTES, this.size - at));
    const count = this.#data.read(bytes, { at });
    return count === bytes.length ? bytes : bytes.subarray(0, count);
  }

  async write(chunk: number, bytes: Uint8Array): Promise<void> {
    if (this.has(chunk)) return;
    const written = this.#data.write(bytes, { at: chunk * CHUNK_BYTES });
    if (written !== bytes.length) throw new Error(`quota: ${written} of ${bytes.length} bytes were written`);
    this.#marks[chunk] = 1;
    if (++this.#unmarked >= FLUSH_EVERY) this.#mark();
  }

  async close(): Promise<void> {
    if (--this.#users > 0) return;
    try {
      this.#mark();
    } finally {
      this.#data.close();
      this.#meta.close();
      this.closed();
    }
  }

  #mark(): void {
    if (this.#unmarked === 0) return;
    this.#unmarked = 0;
    this.#data.flush();
    this.#meta.write(this.#marks, { at: this.#marksAt });
    this.#meta.flush();
  }
}

function marksFor(size: number): number {
  return Math.ceil(size / CHUNK_BYTES);
}

/** A file name for an address. */
async function nameOf(url: string): Promise<string> {
  const hash = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(url));
  return Array.from(new Uint8Array(hash), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
