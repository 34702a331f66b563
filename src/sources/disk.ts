// A model's folder on disk, for Node. Every open goes through `Disk.open`, so that "regular files only" holds everywhere.

import { constants } from "node:fs";
import { type FileHandle, open, readdir, readlink, stat } from "node:fs/promises";
import { basename, join } from "node:path";
import { FormatError, NotFoundError, type OctavoError } from "../core/errors.js";
import { cut, printable } from "../core/show.js";
import { systemCode } from "./file-errors.js";
import { bytesFor, type Source, type SourceFile } from "./source.js";

async function cannotOpen(file: string, what: string, cause: unknown): Promise<OctavoError> {
  const code = systemCode(cause);
  const absent = code === "ENOENT" || code === "ENOTDIR";
  const to = absent ? await readlink(file).catch(() => undefined) : undefined;
  if (to !== undefined) {
    return new NotFoundError(`${file}: this link leads to ${cut(printable(to), 300)}, where no ${what} is`, {
      details: { file, expected: what, got: code },
      hint: "the file was moved or deleted: bring it back, or download it again",
      cause,
    });
  }
  return new NotFoundError(absent ? `${file}: no such ${what}` : `${file}: the ${what} cannot be opened (${code})`, {
    details: { file, expected: what, got: code },
    hint: absent ? "is the download complete, and is this the right folder?" : "check the permissions of this file",
    cause,
  });
}

function notRegular(file: string, what: string): FormatError {
  return new FormatError(`${file}: expected a ${what}, got something that is not a regular file`, {
    details: { file, expected: "a regular file", got: "a folder, pipe or device" },
  });
}

export class Disk implements Source {
  readonly location: string;
  readonly local = true;
  readonly commit: string | undefined;

  /** @param commit that the folder is, in the cache of a hub */
  constructor(folder: string, commit?: string) {
    this.location = folder;
    this.commit = commit;
  }

  path(name: string): string {
    return join(this.location, name);
  }

  name(path: string): string {
    return basename(path);
  }

  /** All names, whatever is in `wanted`. */
  async names(): Promise<ReadonlySet<string>> {
    try {
      return new Set(await readdir(this.location));
    } catch (cause) {
      const code = systemCode(cause);
      const problem =
        code === "ENOENT" ? "no such folder" : code === "ENOTDIR" ? "not a folder" : `not readable (${code})`;
      throw new NotFoundError(`${this.location}: ${problem}`, {
        details: { file: this.location, expected: "a folder" },
        cause,
      });
    }
  }

  async list(folder: string): Promise<readonly string[]> {
    try {
      return (await readdir(this.path(folder))).sort();
    } catch {
      return [];
    }
  }

  /**
   * Those of `names` that are not there. Links are followed wherever they lead: whoever keeps the folder made them. Names that
   * come from a file are checked as text before (`badShardName`).
   * @throws FormatError for links in a circle and places that cannot be reached
   */
  async absent(names: readonly string[]): Promise<string[]> {
    const gone: string[] = [];
    for (const name of names) {
      const file = this.path(name);
      try {
        await stat(file);
      } catch (cause) {
        const code = systemCode(cause);
        if (code === "ENOENT" || code === "ENOTDIR") {
          gone.push(name);
          continue;
        }
        const problem = code === "ELOOP" ? "links that lead in a circle" : `a file that cannot be reached (${code})`;
        throw new FormatError(`${file}: expected a weight file, got ${problem}`, {
          details: { file, expected: "a weight file", got: code },
          cause,
        });
      }
    }
    return gone;
  }

  async open(path: string, what: string): Promise<SourceFile> {
    let handle: FileHandle;
    try {
      // Check before opening: opening a device file can have effects, and opening a pipe waits for a writer.
      if (!(await stat(path)).isFile()) throw notRegular(path, what);
      handle = await open(path, constants.O_RDONLY | (constants.O_NONBLOCK ?? 0));
    } catch (cause) {
      throw cause instanceof FormatError ? cause : await cannotOpen(path, what, cause);
    }
    const info = await handle.stat();
    if (!info.isFile()) {
      await handle.close();
      throw notRegular(path, what);
    }
    return new DiskFile(path, info.size, handle);
  }

  async close(): Promise<void> {
    // Callers of `open` close their files.
  }
}

class DiskFile implements SourceFile {
  readonly path: string;
  readonly size: number;
  readonly #handle: FileHandle;

  constructor(path: string, size: number, handle: FileHandle) {
    this.path = path;
    this.size = size;
    this.#handle = handle;
  }

  async read(position: number, count: number): Promise<Uint8Array> {
    const buffer = bytesFor(count, this.path);
    let done = 0;
    while (done < count) {
      const { bytesRead } = await this.#handle.read(buffer, done, count - done, position + done);
      if (bytesRead === 0) {
        throw new FormatError(`${this.path}: ended at byte ${position + done} while it was read`, {
          details: { file: this.path, offset: position + done, expected: count, got: done },
          hint: "another program is changing this file; wait for it to finish and try again",
        });
      }
      done += bytesRead;
    }
    return buffer;
  }

  close(): Promise<void> {
    return this.#handle.close();
  }
}
