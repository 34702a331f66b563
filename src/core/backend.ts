// The contract that a backend fulfils: memory, an in-order queue, and named kernels. It never sees tensors, models or
// quantization schemes. Everything here is ordered like the calls were made: a free takes effect after the commands
// that were submitted before it, a write is seen by the commands submitted after it. A command that fails spoils what it
// should have written, and what is made from that; nobody else's reads hear of it.

import type { DType } from "./dtype.js";

/** Identifies one allocation of one backend. Ids may be reused after `free`. */
export type BufferId = number;

/** A kernel that a backend offers: its op's name and the signature text it was written for. */
export interface KernelInfo {
  readonly name: string;
  readonly signature: string;
}

/** How a backend failed: which op, and the site number that the command carried. */
export interface BackendFailure {
  readonly op: string;
  readonly site: number;
  readonly message: string;
}

/** Commands that a backend keeps in the form it likes best, to run them many times. */
export interface PreparedCommands {
  /** Queues the commands once more, as `submit` would. */
  run(): void;
  dispose(): void;
}

/** Bytes on their way between two devices whose backends share memory. Both ends are handed over, in any order. */
export interface Link {
  /** Queues the sending of what the bytes are by then, with the failure that spoilt them if one did. */
  send(buffer: BufferId, offset: number, bytes: number): void;
  /** Queues the taking of them: what comes later waits until they are there. */
  receive(buffer: BufferId, offset: number, bytes: number): void;
  /** One end will not come: the other one, if it waits, is told. */
  fail(message: string): void;
}

export interface LoadOptions {
  readonly ahead?: boolean;
  readonly site?: number;
}

export interface Backend {
  /** "cpu", "reference", "webgpu", ... */
  readonly name: string;
  /** One line for people: device, instruction set, threads. */
  readonly description: string;
  /** Kernels by the number that commands carry (the index in this list). */
  readonly kernels: readonly KernelInfo[];
  /** Bytes that allocations may take in all. */
  readonly budget: number;
  /** True once the device is gone for good: every call rejects, and a new one must be opened. */
  readonly lost?: boolean;

  /** Work handed to a device so far, where a backend counts it. */
  readonly statistics?: { readonly dispatches: number; readonly submits: number };

  /** @throws OutOfMemoryError */
  allocate(bytes: number): BufferId;
  free(buffer: BufferId): void;
  /** Copies `bytes` before it returns. */
  write(buffer: BufferId, offset: number, bytes: Uint8Array): void;
  /** Queues `words` words of encoded commands (see command.ts); copies them, returns at once. */
  submit(commands: Int32Array, words: number): void;
  /** Takes commands that will be submitted many times; copies the words. Backends whose `submit` is cheap leave it out. */
  prepare?(commands: Int32Array, words: number): PreparedCommands;
  /**
   * Resolves after all earlier commands ran. Rejects with a BackendFailure as `failure` if one of `sound` bytes from
   * `offset` on (`bytes` unless given) should have been written by a command that failed, or that was skipped because it would have read such
   * bytes: the failure that it began with. What is written to them later, or a new owner of the buffer, ends that.
   */
  read(buffer: BufferId, offset: number, bytes: number, sound?: number): Promise<Uint8Array>;

  /**
   * Bytes of a matrix in the layout that this backend's kernels like best, or undefined where plain rows are best.
   * The layout is the backend's own affair; `pack` and `unpack` kernels turn rows into it and back.
   */
  panelBytes?(dtype: DType, rows: number, columns: number): number | undefined;
  /**
   * Reads a byte range of a file straight into a buffer, in order. With `ahead` it is read while later commands run, those
   * that use the bytes wait. A range that cannot be read is spoilt. Backends without files leave it out.
   */
  load?(buffer: BufferId, offset: number, file: string, position: number, bytes: number, options?: LoadOptions): void;
  /** Marks bytes as spoilt, in order, by a failure of another device. */
  spoil(buffer: BufferId, offset: number, bytes: number, failure: BackendFailure): void;
  /** A way for bytes to another backend that shares memory with this one; undefined where there is none. */
  link?(to: Backend): Link | undefined;

  close(): Promise<void>;
}
