// Downloads the bytes of one file into the cache: by several ranges at once (RemoteFile), appended in order and hashed on the way. The
// blob appears under its name when its hash is proved and the disk has it. A partial file stays for the next attempt.

import { createHash, type Hash } from "node:crypto";
import { type FileHandle, mkdir, open, rename, rm } from "node:fs/promises";
import { setTimeout } from "node:timers/promises";
import { syncFolder } from "../checkpoints/safetensors-write.js";
import { FormatError } from "../core/errors.js";
import { blobOf, blobsOf } from "../sources/cache-paths.js";
import { changed } from "../sources/http-errors.js";
import type { RemoteContext } from "../sources/kept.js";
import { CHUNK_BYTES } from "../sources/range-cache.js";
import { RemoteFile } from "../sources/remote-file.js";
import { sizeOf } from "./layout.js";
import type { HubFile } from "./listing.js";
import { Partials } from "./partials.js";
import { checkRoom, storing } from "./storage-errors.js";

/** Milliseconds between two looks at another process's download. */
const LOOK = 200;
/** Bytes that are read back at once from a partial file. */
const READ_BACK = 4 << 20;

export interface BlobJob {
  readonly context: RemoteContext;
  readonly url: string;
  readonly file: HubFile;
  /** The model's folder in the cache. */
  readonly folder: string;
  /**
   * Called with bytes that need not be waited for any more; below 0 where they have to come again.
   * @param received false if they were there before
   */
  readonly advance: (bytes: number, received: boolean) => void;
}

/**
 * Brings a blob into the cache.
 * @param force download it even if it is there
 * @returns false if another download has brought it meanwhile
 * @throws FormatError for bytes with another hash; FileError, NetworkError, NotFoundError, AbortError
 */
export async function fetchBlob(job: BlobJob, force: boolean): Promise<boolean> {
  const { file, folder, context } = job;
  const blob = blobOf(folder, file.etag);
  const blobs = blobsOf(folder);
  const partials = new Partials(blobs, file.etag);
  await storing(blobs, () => mkdir(blobs, { recursive: true }));
  for (;;) {
    while (await partials.busy()) {
      context.client.checkAborted();
      await setTimeout(LOOK);
    }
    if (!force && (await sizeOf(blob)) === file.size) {
      job.advance(file.size, false);
      return false;
    }
    const partial = partials.own();
    try {
      const resumed = await partials.takeOver(partial);
      if (!resumed) await storing(partial, async () => (await open(partial, "wx")).close());
      // Two that began at the same moment: one of them gives way.
      if (!resumed && (await partials.busy(partial))) {
        await rm(partial, { force: true });
        continue;
      }
      if (await fill(job, partial)) {
        if (!(await place(partial, blob, file.size))) return false;
        await syncFolder(blobs).catch(() => {}); // not every file system does that
        return true;
      }
      // What had been left there were not the first bytes of this file.
    } finally {
      partials.release(partial);
      if ((await sizeOf(partial)) === 0) await rm(partial, { force: true }).catch(() => {});
    }
  }
}

/** Gives a proved file its name. @returns false if it is there already, and in use, where such files cannot be replaced (Windows) */
async function place(partial: string, blob: string, size: number): Promise<boolean> {
  try {
    await storing(blob, () => rename(partial, blob));
    return true;
  } catch (error) {
    if ((await sizeOf(blob)) !== size) throw error;
    await rm(partial, { force: true });
    return false;
  }
}

/**
 * Completes a partial file and proves it.
 * @returns false if the part that was there before is not of this file; it is deleted then
 */
async function fill(job: BlobJob, partial: string): Promise<boolean> {
  const { file, context } = job;
  const handle = await storing(partial, () => open(partial, "r+"));
  let before = 0;
  let at = 0;
  let remote: RemoteFile | undefined;
  try {
    before = (await handle.stat()).size;
    if (before > file.size) before = -1;
    else {
      const hash = hashOf(file);
      await storing(partial, () => readBack(handle, before, hash));
      job.advance(before, false);
      at = before;
      await checkRoom(partial, file.size - at);
      if (at < file.size) remote = await openRemote(job);
      while (at < file.size) {
        const bytes = await remote!.read(at, Math.min(CHUNK_BYTES, file.size - at), { onward: true });
        await storing(partial, () => writeAll(handle, bytes, at));
        hash.update(bytes);
        at += bytes.length;
        job.advance(bytes.length, true);
      }
      if (hash.digest("hex") === file.etag) {
        await storing(partial, () => handle.sync());
        return true;
      }
    }
  } finally {
    await handle.close();
    await remote?.end();
  }
  await rm(partial, { force: true });
  job.advance(-at, false);
  if (before !== 0) return false;
  context.client.checkAborted();
  throw new FormatError(`${job.url}: the bytes that came are not those of the file: its hash should be ${file.etag}`, {
    details: { file: job.url, expected: file.etag },
    hint: "they are deleted; load it again. If it happens again, a proxy on the way changes files",
  });
}

async function openRemote({ url, file, context }: BlobJob): Promise<RemoteFile> {
  const remote = await RemoteFile.open(url, `file ${file.name}`, context);
  if (remote.size === file.size) return remote;
  await remote.end();
  throw changed(url, `${file.size} bytes`, `${remote.size} bytes`);
}

/** Git's hash of a file begins with its size; large files have their own sha256. */
function hashOf({ etag, size }: HubFile): Hash {
  return etag.length === 64 ? createHash("sha256") : createHash("sha1").update(`blob ${size}\0`);
}

async function readBack(handle: FileHandle, size: number, hash: Hash): Promise<void> {
  const buffer = Buffer.allocUnsafe(Math.min(size, READ_BACK));
  for (let at = 0; at < size; ) {
    const { bytesRead } = await handle.read(buffer, 0, Math.min(buffer.length, size - at), at);
    if (bytesRead === 0) throw new Error("it became shorter while it was read");
    hash.update(buffer.subarray(0, bytesRead));
    at += bytesRead;
  }
}

async function writeAll(handle: FileHandle, bytes: Uint8Array, position: number): Promise<void> {
  for (let done = 0; done < bytes.length; ) {
    done += (await handle.write(bytes, done, bytes.length - done, position + done)).bytesWritten;
  }
}
