// Partial downloads: `blobs/<etag>.<owner>.incomplete`. The bytes of one are always the first of the file, so that whoever takes it
// over only goes on at its end.
//
// Node has no locks on files, so nothing here depends on one: every download writes to a file of its own, and what is complete and
// proved is renamed into place. Two processes at once are both right. The owner in the name (machine, process, thread) only saves
// work: a second process waits while the first one gets on, and what a dead process has left is taken over.

import { readdir, rename, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { threadId } from "node:worker_threads";
import { isAlive, machine, OWNER, ownName } from "../sources/owners.js";

/** Milliseconds without a byte after which another process's download is not waited for any more. */
const QUIET = 60_000;
/** Milliseconds after which a partial file has no owner any more, whoever it was: longer than any `timeout`. */
const OLD = 2 * 3600_000;

const NAME = new RegExp(`^([0-9a-f]+)\\.(?:${OWNER}\\.|[0-9a-f]+\\.)?incomplete$`);

/** Partial files that this thread is writing. */
const writing = new Set<string>();

export class Partials {
  readonly #blobs: string;
  readonly #etag: string;

  constructor(blobs: string, etag: string) {
    this.#blobs = blobs;
    this.#etag = etag;
  }

  /** A new path, of this thread until it is released. */
  own(): string {
    const path = join(this.#blobs, `${this.#etag}.${ownName()}.incomplete`);
    writing.add(path);
    return path;
  }

  release(path: string): void {
    writing.delete(path);
  }

  /** True if another download of the same file gets on. @param mine it gives way only to those that sort before it */
  async busy(mine?: string): Promise<boolean> {
    for (const path of await this.#all()) {
      if (path === mine) return false;
      if ((await this.#state(path)) === "busy") return true;
    }
    return false;
  }

  /** Takes the longest of the partial files that nobody writes, and deletes the others. @returns false if there is none */
  async takeOver(mine: string): Promise<boolean> {
    const left: { path: string; size: number }[] = [];
    for (const path of await this.#all()) {
      if (path === mine || (await this.#state(path)) !== "left") continue;
      const info = await stat(path).catch(() => undefined);
      if (info?.isFile()) left.push({ path, size: info.size });
    }
    left.sort((a, b) => b.size - a.size);
    let taken = false;
    for (const { path } of left) {
      if (taken) await rm(path, { force: true }).catch(() => {});
      else {
        taken = await rename(path, mine).then(
          () => true,
          () => false, // another process was faster
        );
      }
    }
    return taken;
  }

  async #all(): Promise<string[]> {
    const names = await readdir(this.#blobs).catch(() => []);
    return names
      .filter((name) => NAME.exec(name)?.[1] === this.#etag)
      .sort()
      .map((name) => join(this.#blobs, name));
  }

  /** "idle": of an owner who may come back. */
  async #state(path: string): Promise<"busy" | "idle" | "left"> {
    const info = await stat(path).catch(() => undefined);
    if (!info) return "idle";
    const age = Date.now() - info.mtimeMs;
    const [, , place, pid, thread] = NAME.exec(path.slice(this.#blobs.length + 1))!;
    if (place !== machine()) return age > OLD ? "left" : "idle"; // Python's, or of another machine on the same disk
    if (Number(pid) === process.pid && Number(thread) === threadId) return writing.has(path) ? "busy" : "left";
    if (!isAlive(Number(pid))) return "left";
    return age < QUIET ? "busy" : age > OLD ? "left" : "idle";
  }
}

/** Bytes of a file that lie in a folder of blobs already: all of them, or those of its longest partial download. */
export async function bytesThere(blobs: string, etags: readonly string[]): Promise<Map<string, number>> {
  const wanted = new Set(etags);
  const there = new Map<string, number>();
  for (const name of await readdir(blobs).catch(() => [])) {
    const etag = NAME.exec(name)?.[1] ?? name;
    if (!wanted.has(etag)) continue;
    const size = (await stat(join(blobs, name)).catch(() => undefined))?.size ?? 0;
    there.set(etag, Math.max(size, there.get(etag) ?? 0));
  }
  return there;
}
