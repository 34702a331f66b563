// The contract of a backend: memory, an in-order queue, and named kernels. It never sees tensors, models or quantization
// schemes. Everything is ordered as the calls were made: a free takes effect after the commands submitted before it, a write
// is visible to the commands submitted after it. A failed command makes its outputs, and everything computed from them,
// invalid ("spoilt"); other reads are not affected.

import type { DType } from "./dtype.js";

/** Identifies one allocation of one backend. Ids may be reused after `free`. */
export type BufferId = number;

/** A kernel that a backend offers: its op's name and the signature text it was written for. */
export interface KernelInfo {
  readonly name: string;
  readonly signature: string;
}

/** A backend failure: the op, and the site number of the command. */
export interface BackendFailure {
  readonly op: string;
  readonly site: number;
  readonly message: string;
}

/** Commands in a form that the backend can run repeatedly at low cost. */
export interface PreparedCommands {
  /** Queues the commands once more, as `submit` would. */
  run(): void;
  dispose(): void;
}

/** A transfer between two devices whose backends share memory. Each side is called once, in any order. */
export interface Link {
  /** Queues sending the bytes as they are at that point in the queue, with the failure that spoilt them if any. */
  send(buffer: BufferId, offset: number, bytes: number): void;
  /** Queues receiving them: later commands wait for the bytes. */
  receive(buffer: BufferId, offset: number, bytes: number): void;
  /** One side will not come: fails the other one if it waits. */
  fail(message: string): void;
}

/** Which file it is, and when it was last written to. */
export interface FileStamp {
  readonly inode: bigint;
  /** Nanoseconds since 1970. */
  readonly modified: bigint;
}

export interface LoadOptions {
  readonly ahead?: boolean;
  readonly site?: number;
  /** Once it has been read, the file must still be this one; else the bytes are spoilt. */
  readonly stamp?: FileStamp | undefined;
}

export interface Backend {
  /** "cpu", "reference", "webgpu", ... */
  readonly name: string;
  /** One line for people: device, instruction set, threads. */
  readonly description: string;
  /** Kernels by the number that commands carry (the index in this list). */
  readonly kernels: readonly KernelInfo[];
  /** Most bytes that allocations may take together. */
  readonly budget: number;
  /** True once the device is gone for good: every call rejects, and a new one must be opened. */
  readonly lost?: boolean;

  /** Work submitted to a device so far, on backends that count it. */
  readonly statistics?: { readonly dispatches: number; readonly submits: number };

  /** @throws OutOfMemoryError */
  allocate(bytes: number): BufferId;
  free(buffer: BufferId): void;
  /** Copies `bytes` before it returns. */
  write(buffer: BufferId, offset: number, bytes: Uint8Array): void;
  /** Queues `words` words of encoded commands (see command.ts); copies them, returns at once. */
  submit(commands: Int32Array, words: number): void;
  /** Prepares commands that will run many times; copies the words. Backends with a cheap `submit` leave it out. */
  prepare?(commands: Int32Array, words: number): PreparedCommands;
  /**
   * Resolves after all earlier commands ran. Rejects with a BackendFailure as `failure` if one of the `checked` bytes from
   * `offset` on is spoilt: the output of a command that failed, or that was skipped because its input was spoilt. The
   * failure is that of the first such command. A later write to the bytes, or a new owner of the buffer, makes them valid.
   * @param checked bytes to check; default: `bytes`
   */
  read(buffer: BufferId, offset: number, bytes: number, checked?: number): Promise<Uint8Array>;

  /**
   * Bytes of a matrix in the layout that this backend's kernels prefer, or undefined where plain rows are best.
   * The layout is private to the backend; its `pack` and `unpack` kernels convert rows to it and back.
   */
  panelBytes?(dtype: DType, rows: number, columns: number): number | undefined;
  /**
   * Reads a byte range of a file straight into a buffer, in order. With `ahead` it is read while later commands run; those
   * that use the bytes wait. A range that cannot be read is spoilt. Backends without file access omit it.
   */
  load?(buffer: BufferId, offset: number, file: string, position: number, bytes: number, options?: LoadOptions): void;
  /** Marks bytes as spoilt, in order, by a failure of another device. */
  spoil(buffer: BufferId, offset: number, bytes: number, failure: BackendFailure): void;
  /** A link to another backend that shares memory with this one; undefined where there is none. */
  link?(to: Backend): Link | undefined;

  close(): Promise<void>;
}
