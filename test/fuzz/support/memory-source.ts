// A model's folder in memory: mutants are read without a disk, and files that stay open are counted.

import { FormatError, NotFoundError } from "../../../src/core/errors.js";
import type { Source, SourceFile } from "../../../src/sources/source.js";

export type Files = Readonly<Record<string, Uint8Array>>;

export class MemorySource implements Source {
  readonly location = "model";
  readonly local: boolean;
  /** Files that are open now. */
  open_files = 0;
  readonly #files: ReadonlyMap<string, Uint8Array>;

  /** @param local as a folder on disk is read */
  constructor(files: Files, local = false) {
    this.local = local;
    this.#files = new Map(Object.entries(files));
  }

  path(name: string): string {
    return `${this.location}/${name}`;
  }

  name(path: string): string {
    return path.slice(this.location.length + 1);
  }

  async names(): Promise<ReadonlySet<string>> {
    return new Set(this.#files.keys());
  }

  async absent(names: readonly string[]): Promise<string[]> {
    return names.filter((name) => !this.#files.has(name));
  }

  async open(path: string, what: string): Promise<SourceFile> {
    const bytes = this.#files.get(this.name(path));
    if (bytes === undefined) throw new NotFoundError(`${path}: no such ${what}`);
    this.open_files++;
    return {
      path,
      size: bytes.length,
      far: !this.local,
      read: async (position, count) => {
        if (position + count > bytes.length) throw new FormatError(`${path}: ended while it was read`);
        return new Uint8Array(bytes.slice(position, position + count));
      },
      close: async () => {
        this.open_files--;
      },
    };
  }

  async close(): Promise<void> {}
}
