// A device as the rest of Octavo sees it: a backend with an arena, a command recorder and a list of module paths for error
// messages. Ops record here; only `read` waits.

import { Arena, type Block, type MemoryReport } from "./arena.js";
import type { Backend, BackendFailure, BufferId } from "./backend.js";
import { CommandBuffer } from "./command.js";
import type { DType } from "./dtype.js";
import { DeviceError, FormatError, KernelError, OctavoError, OutOfMemoryError, ShapeError } from "./errors.js";
import { type Capture, captureAll, type Recording } from "./recording.js";
import { type Operation, Stream } from "./stream.js";

export { captureAll, Recording } from "./recording.js";

/** Commands recorded before they are handed to the backend. */
const FLUSH_AT = 24;
/** Words that may be pending when memory is taken and released without recording commands. */
const FLUSH_WORDS = 1 << 14;

/** Module paths of all devices, by the site number in commands: a failure that crosses devices keeps its number. */
const SITES: string[] = [""];
const SITE_IDS = new Map<string, number>([["", 0]]);

/** Errors of lost or full devices, by the (negative) site of the failures that represent them on other devices. */
const FOREIGN = new Map<number, OctavoError>();
const FOREIGN_AT_MOST = 64;
let foreign = 0;

export interface LoadFileOptions {
  /**
   * Read on a thread of the backend's own, while later commands that do not use `into` run. Otherwise all later commands
   * wait, and the backend reads as fast as it can.
   */
  readonly ahead?: boolean;
}

/** What a load needs of a tensor. */
interface LoadTarget {
  readonly device: Device;
  readonly buffer: BufferId;
  readonly offset: number;
  readonly nbytes: number;
  readonly strides: readonly number[] | null;
}

export class Device implements AsyncDisposable {
  readonly backend: Backend;
  readonly arena: Arena;
  readonly commands = new CommandBuffer();
  /** The order of everything handed to the backend. */
  readonly stream = new Stream();
  /** Why this device was chosen, if Octavo chose it ("auto"). */
  reason: string | undefined;
  /** Number of commands recorded since the device was opened. */
  recorded = 0;
  readonly #kernels = new Map<string, number>();
  #site = 0;
  #capture: Capture | undefined;
  #path = "";
  #closed = false;

  constructor(backend: Backend) {
    this.backend = backend;
    this.arena = new Arena(
      {
        get budget() {
          return backend.budget;
        },
        allocate: (bytes) => backend.allocate(bytes),
        free: (buffer) => this.stream.run(() => backend.free(buffer)),
      },
      () => this.#settle(),
      (buffer) => this.commands.forget(buffer),
    );
    backend.kernels.forEach((kernel, id) => {
      this.#kernels.set(kernel.name, id);
    });
  }

  get name(): string {
    return this.backend.name;
  }

  get memory(): MemoryReport {
    return this.arena.memory;
  }

  /** Number of a kernel, or -1 if this backend lacks it. */
  kernel(name: string): number {
    return this.#kernels.get(name) ?? -1;
  }

  supports(name: string): boolean {
    return this.#kernels.has(name);
  }

  panelBytes(dtype: DType, rows: number, columns: number): number | undefined {
    return this.backend.panelBytes?.(dtype, rows, columns);
  }

  /** Path of the module that is recording; ops put it into error messages and leak reports. */
  get path(): string {
    return this.#path;
  }

  /** Site number of the commands recorded now. */
  get site(): number {
    return this.#site;
  }

  /** Names the module that records from now on; returns the path before. */
  enter(path: string): string {
    const before = this.#path;
    this.#path = path;
    let id = SITE_IDS.get(path);
    if (id === undefined) {
      id = SITES.push(path) - 1;
      SITE_IDS.set(path, id);
    }
    this.#site = id;
    return before;
  }

  /** Called after each recorded command. */
  recordedOne(): void {
    this.recorded++;
    if (this.commands.commands >= FLUSH_AT && !this.#capture) this.flush();
  }

  /**
   * Records what `body` does without running it. A replay runs the same commands on the same memory again: microseconds,
   * where recording takes a fraction of a millisecond. So `body` must read all varying values from tensors that outlive the
   * recording, leave its results in such tensors, and write nothing from the host. The caller disposes the recording.
   */
  capture(body: () => void): Recording {
    return captureAll([this], body);
  }

  /** The recording in progress. */
  get capturing(): Capture | undefined {
    return this.#capture;
  }

  /** For `captureAll`. */
  beginCapture(capture: Capture): void {
    if (this.#capture) throw new DeviceError("a recording cannot be made inside another");
    this.flush();
    this.#capture = capture;
    this.arena.beginCapture();
  }

  /** For `captureAll`: the blocks that only the recording uses, which the caller releases. */
  endCapture(): Block[] {
    this.#capture = undefined;
    this.commands.reset();
    return this.arena.endCapture();
  }

  /** Runs a segment of a recording once more: `run` hands it to the backend. Returns at once. */
  replay(run: () => void, commands: number): void {
    this.enqueue(run);
    this.recorded += commands;
  }

  /** Hands the backend an operation that is not a command, after everything recorded so far; see `record`. */
  enqueue(operation: Operation): void {
    this.flush();
    this.checkOpen();
    this.stream.run(operation);
  }

  /** @throws DeviceError if the device was closed */
  checkOpen(): void {
    if (this.#closed) throw new DeviceError(`device ${this.name} is closed`);
  }

  /** Records an operation that is not a command: it runs once after everything recorded so far, or at each replay. */
  record(operation: Operation): void {
    if (this.#capture) this.#capture.push([this], () => this.enqueue(operation));
    else this.enqueue(operation);
  }

  /** True if `load` can be used: the backend reads files itself. */
  get readsFiles(): boolean {
    return this.backend.load !== undefined;
  }

  /**
   * Records a load of the tensor's bytes, as stored, from byte `position` of a file on. If they cannot be read, the tensor is
   * spoilt, and reading it rejects with a KernelError that names the file.
   * @throws DeviceError (a tensor of another device, a device that reads no files), ShapeError
   */
  load(into: LoadTarget, file: string, position: number, { ahead = false }: LoadFileOptions = {}): void {
    const { backend } = this;
    if (!backend.load) throw new DeviceError(`load: device ${this.name} reads no files`);
    if (into.device !== this) throw new DeviceError(`load: the tensor is on ${into.device.name}, not on ${this.name}`);
    if (into.strides !== null) throw new ShapeError("load: the tensor must be contiguous");
    if (!Number.isSafeInteger(position) || position < 0) {
      throw new ShapeError(`load: position must be a whole number from 0, got ${position}`);
    }
    const { buffer, offset, nbytes } = into;
    const options = { ahead, site: this.#site };
    if (nbytes > 0) this.record(() => backend.load!(buffer, offset, file, position, nbytes, options));
  }

  /** Hands the recorded commands to the backend. Returns at once. */
  flush(): void {
    const { commands } = this;
    if (commands.length === 0) return;
    this.checkOpen();
    try {
      if (this.stream.held) {
        const words = commands.words.slice(0, commands.length);
        this.stream.run(() => this.backend.submit(words, words.length));
      } else this.backend.submit(commands.words, commands.length);
    } finally {
      // Commands that a backend rejects must not be submitted again with the next ones.
      commands.reset();
    }
  }

  /** Submits the recorded commands before memory is freed; a lost device needs nothing. */
  #settle(): void {
    if (this.backend.lost) this.commands.reset();
    else this.flush();
  }

  allocate(bytes: number, label: string): Block {
    this.checkOpen();
    if (this.commands.length > FLUSH_WORDS && !this.#capture) this.flush();
    return this.arena.allocate(bytes, label, this.#path);
  }

  release(block: Block): void {
    if (!this.#closed) this.arena.release(block);
  }

  write(buffer: BufferId, offset: number, bytes: Uint8Array): void {
    if (this.#capture) throw new DeviceError("a recording cannot take values from the host");
    this.flush();
    if (this.stream.held) {
      const copy = bytes.slice();
      this.stream.run(() => this.backend.write(buffer, offset, copy));
    } else this.backend.write(buffer, offset, bytes);
  }

  /** @throws KernelError naming op and module if a command that should have written these bytes, or their inputs, failed */
  async read(buffer: BufferId, offset: number, bytes: number, checked = bytes): Promise<Uint8Array> {
    if (this.#capture) throw new DeviceError("a recording cannot be read while it is made");
    this.flush();
    try {
      if (!this.stream.held) return await this.#read(buffer, offset, bytes, checked);
      return await new Promise<Uint8Array>((resolve) => {
        this.stream.run(() => resolve(this.#read(buffer, offset, bytes, checked)));
      });
    } catch (error) {
      throw this.#errorOf(error);
    }
  }

  async #read(buffer: BufferId, offset: number, bytes: number, checked: number): Promise<Uint8Array> {
    const error = this.stream.takeError();
    if (error) throw error;
    return this.backend.read(buffer, offset, bytes, checked);
  }

  /** The typed error for a backend's error. */
  #errorOf(error: unknown): OctavoError {
    if (error instanceof OutOfMemoryError) return this.arena.explain(error);
    if (error instanceof OctavoError) return error;
    const failure = (error as { failure?: BackendFailure }).failure;
    if (!failure) return new DeviceError(`device ${this.name}: ${(error as Error).message}`, { cause: error });
    const { op, site, message } = failure;
    const told = FOREIGN.get(site);
    if (told) return told;
    const path = SITES[site];
    // What fails in a command that reads a file is the file.
    const Kind = op === "load" ? FormatError : KernelError;
    return new Kind(`${op}${path ? ` in ${path}` : ""}: ${message}`, { details: { op, module: path ?? "" } });
  }

  /** The failure that spoils the target of a transfer on another device when the read here was rejected. */
  failureOf(error: unknown): BackendFailure {
    const { failure } = error as { failure?: BackendFailure };
    if (failure) return failure;
    const told = this.#errorOf(error);
    const site = --foreign;
    FOREIGN.set(site, told);
    FOREIGN.delete(site + FOREIGN_AT_MOST);
    return { op: "transfer", site, message: told.message.split("\n")[0]! };
  }

  /** Resolves when everything recorded so far has run or failed. */
  async synchronize(): Promise<void> {
    const block = this.allocate(4, "synchronize");
    try {
      await this.read(block.buffer, 0, 4);
    } finally {
      this.release(block);
    }
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#settle();
    this.#closed = true;
    if (this.stream.held) await new Promise<void>((resolve) => this.stream.run(resolve));
    await this.backend.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}
