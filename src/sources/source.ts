// The source of a model's files: a folder on disk (disk.ts) or behind a server (http.ts). All readers of models use this
// interface, by file name and byte range, and do not know which of the two it is.

import { type OctavoError, OutOfMemoryError } from "../core/errors.js";

export interface ReadOptions {
  /** The following bytes will be read next: a source may prefetch them and drop the bytes before. */
  readonly onward?: boolean;
}

/** One file, open for reading. */
export interface SourceFile {
  readonly path: string;
  readonly size: number;
  /** True if each place that is read may cost a request over a network. */
  readonly far?: boolean;
  /**
   * Exactly `count` bytes at `position`, in memory of their own.
   * @throws FormatError if the file is shorter than its size or has changed; OutOfMemoryError, NetworkError, AbortError
   */
  read(position: number, count: number, options?: ReadOptions): Promise<Uint8Array>;
  close(): Promise<void>;
}

/** The folder of a model. */
export interface Source {
  /** Path or URL of the folder, for messages. */
  readonly location: string;
  /** True if paths are files on this machine, which a backend may read directly. */
  readonly local: boolean;
  /** The commit that it is, of a model on a hub: a branch may be another one later. */
  readonly commit?: string | undefined;
  /** Bytes received over a network so far; absent for local files. */
  readonly network?: number;
  /** The path of the file of that name, for `open` and for messages. */
  path(name: string): string;
  /** The last part of a path, or all of it below the folder. */
  name(path: string): string;
  /**
   * Names of files in the folder: at least those of `wanted` that are there.
   * @throws NotFoundError if there is no such folder; NetworkError, AbortError
   */
  names(wanted: readonly string[]): Promise<ReadonlySet<string>>;
  /**
   * Those of `names` that are not there, folders below this one included. Only a source that lists its files has it: others
   * find out when they open one.
   */
  absent?(names: readonly string[]): Promise<string[]>;
  /** Names of files in a folder below this one, none if it is not there. Only a source that lists its files has it. */
  list?(folder: string): Promise<readonly string[]>;
  /**
   * Names of all files, those in folders below this one by their paths. Only a source that asks a server for a list has it.
   * @throws NetworkError, AbortError
   */
  all?(): Promise<readonly string[]>;
  /**
   * Says that these files will be read whole: a source that keeps copies brings them all now, and others need not know.
   * @throws what `open` throws
   */
  bring?(names: readonly string[]): Promise<void>;
  /**
   * Why one of these files counts as absent, if that is not certain: a server may forbid to read it. For the error of a file
   * that is needed.
   */
  forbidden?(names: readonly string[]): OctavoError | undefined;
  /**
   * @param what the file's role in messages ("safetensors file")
   * @throws NotFoundError if it does not exist or may not be opened; FormatError if it is not a file; NetworkError, AbortError
   */
  open(path: string, what: string): Promise<SourceFile>;
  /** Ends pending reads. */
  close(): Promise<void>;
}

/** A report of files that come into the cache. */
export interface DownloadEvent {
  /** The file whose bytes came last. */
  readonly file: string;
  /** Bytes that are there, and all that are to come as far as it is known. */
  readonly loaded: number;
  readonly total: number;
  readonly bytes_per_second: number;
}

/** Opens a file, passes it to `use` and closes it in any case. @throws what `open` throws */
export async function withFile<T>(
  source: Source,
  path: string,
  what: string,
  use: (file: SourceFile) => Promise<T>,
): Promise<T> {
  const file = await source.open(path, what);
  try {
    return await use(file);
  } finally {
    await file.close();
  }
}

/** Bytes that `windowed` reads at once. */
const WINDOW = 1 << 12;

/**
 * Reads a few bytes here and there, in ascending order: what lies close together comes from one read.
 * @param end of what may be read
 */
export function windowed(file: SourceFile, end: number): (position: number, count: number) => Promise<Uint8Array> {
  let begin = 0;
  let bytes: Uint8Array = new Uint8Array(0);
  return async (position, count) => {
    if (position < begin || position + count > begin + bytes.length) {
      bytes = await file.read(position, Math.min(Math.max(count, WINDOW), end - position));
      begin = position;
    }
    return bytes.subarray(position - begin, position - begin + count);
  };
}

/** Memory for bytes of a file, whose count may be a claim of the file's own. @throws OutOfMemoryError */
export function bytesFor(count: number, file: string): Uint8Array {
  try {
    return new Uint8Array(count);
  } catch (cause) {
    throw new OutOfMemoryError(`${file}: ${count} bytes of it do not fit in memory at once`, {
      details: { file, expected: count },
      cause,
    });
  }
}
