// How the files of a model are written, whatever the platform: a folder as a whole, or nothing of it.

import type { StoredDType } from "./stored.js";

/** A tensor to write. `data` may be a function, called once when its turn comes, so that one tensor is held at a time. */
export interface TensorToWrite {
  readonly name: string;
  readonly dtype: StoredDType;
  readonly shape: readonly number[];
  readonly data: Uint8Array | (() => Uint8Array | Promise<Uint8Array>);
}

/** The files of a folder that is being written; names are those of files in it, or in folders below it. */
export interface FolderFiles {
  /** A safetensors file. */
  tensors(name: string, tensors: Iterable<TensorToWrite>, metadata: Readonly<Record<string, string>>): Promise<void>;
  bytes(name: string, content: Uint8Array): Promise<void>;
}

export interface FolderWriter {
  /**
   * Writes a folder. What is there already stays, except files of the names written, and those for which `replaces` is true.
   * If writing fails or the process ends, the old folder is there as it was.
   * @throws what `write` throws; OptionError if `folder` is a file; FileError
   */
  replace(
    folder: string,
    replaces: (name: string) => boolean,
    write: (files: FolderFiles) => Promise<void>,
  ): Promise<void>;
}
