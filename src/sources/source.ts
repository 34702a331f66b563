// Where the files of a model come from: a folder on disk (disk.ts) or behind a server (http.ts). All that reads a model
// reads through this, by name and by range, so none of it knows which of them it is.

export interface ReadOptions {
  /** What follows will be asked for next: a source behind a network may fetch it already, and let go what lies before. */
  readonly onward?: boolean;
}

/** One file, open for reading. */
export interface SourceFile {
  readonly path: string;
  readonly size: number;
  /**
   * Exactly `count` bytes at `position`, in memory of their own.
   * @throws FormatError if the file turns out to be shorter or another; NetworkError, AbortError
   */
  read(position: number, count: number, options?: ReadOptions): Promise<Uint8Array>;
  close(): Promise<void>;
}

/** The folder of a model. */
export interface Source {
  /** Path or URL of the folder, for messages. */
  readonly location: string;
  /** True where `path` is the path of a file on this machine, which a backend may read by itself. */
  readonly local: boolean;
  /** Bytes that came over a network so far; absent where there is none. */
  readonly network?: number;
  /** Where the file of that name lies: what `open` takes, and what messages say. */
  path(name: string): string;
  /** The last part of a path, or all of it below the folder. */
  name(path: string): string;
  /**
   * Names of files in the folder: at least those of `wanted` that are there.
   * @throws NotFoundError if there is no such folder; NetworkError, AbortError
   */
  names(wanted: readonly string[]): Promise<ReadonlySet<string>>;
  /**
   * Refuses names that lead out of the folder by links, before anything is opened; gives those that are not there.
   * Absent where there are no links.
   */
  outside?(names: readonly string[]): Promise<string[]>;
  /**
   * @param what the file's role in messages ("safetensors file")
   * @throws NotFoundError if it does not exist or may not be opened; FormatError if it is not a file; NetworkError, AbortError
   */
  open(path: string, what: string): Promise<SourceFile>;
  /** Ends what is under way. */
  close(): Promise<void>;
}

/** Opens a file, hands it to `use` and closes it whatever happens. @throws what `open` throws */
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
