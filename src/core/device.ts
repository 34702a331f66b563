// A device as the rest of Octavo sees it: a backend with an arena, a command recorder and a list of module paths for error
// messages. Ops record here; only `read` waits.

import { Arena, type Block, type MemoryReport } from "./arena.js";
import type { Backend, BackendFailure, BufferId, FileStamp } from "./backend.js";
import { checkBackend, checkOperation, checkPlace, isOf, isStamp, isWhole } from "./checks.js";
import { CommandBuffer } from "./command.js";
import { type DType, isDType } from "./dtype.js";
import {
  DeviceError,
  entriesOf,
  FormatError,
  KernelError,
  OctavoError,
  OptionError,
  OutOfMemoryError,
  ShapeError,
} from "./errors.js";
import { Capture, captureAll, type Recording } from "./recording.js";
import { show } from "./show.js";
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
  /** The file must still be this one whenever it has been read: one that was changed or replaced counts as unreadable. */
  readonly stamp?: FileStamp | undefined;
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
  #limit = Number.POSITIVE_INFINITY;

  /** @throws OptionError for what is no backend: users get devices from `openDevice` and `requestDevice` */
  constructor(backend: Backend) {
    checkBackend(backend);
    this.backend = backend;
    const limit = (): number => this.#limit;
    this.arena = new Arena(
      {
        get budget() {
          return Math.min(backend.budget, limit());
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

  /** True for a device itself, which a proxy of one is not. */
  static is(value: unknown): value is Device {
    return typeof value === "object" && value !== null && #kernels in value;
  }

  get name(): string {
    return this.backend.name;
  }

  /**
   * Lowers the budget: what needs more is refused with an OutOfMemoryError.
   * @param bytes most bytes that all allocations may take together
   * @throws OptionError
   */
  limit(bytes: number): void {
    if (!isWhole(bytes) || bytes === 0) {
      throw new OptionError(`limit: bytes must be a whole number above 0, got ${show(bytes)}`);
    }
    this.#limit = bytes;
  }

  /** One line: the device's name, what it is, and its memory. */
  toString(): string {
    const { live, budget } = this.memory;
    return `Device(${this.name}: ${this.backend.description}; ${live} of ${budget} bytes are in use)`;
  }

  [Symbol.for("nodejs.util.inspect.custom")](): string {
    return this.toString();
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
    if (!isDType(dtype) || !isWhole(rows) || !isWhole(columns)) {
      throw new ShapeError(`panelBytes: no matrix is [${show(rows)}, ${show(columns)}] ${show(dtype)}`);
    }
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
    if (typeof path !== "string") throw new OptionError(`enter: path must be text, got ${show(path)}`);
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
    if (!Capture.is(capture)) throw new OptionError(`beginCapture: ${show(capture)} is no capture`);
    if (this.#capture) throw new DeviceError("a recording cannot be made inside another");
    this.flush();
    this.#capture = capture;
    this.arena.beginCapture();
  }

  /** For `captureAll`: the blocks that only the recording uses, which the caller releases. */
  endCapture(): Block[] {
    if (!this.#capture) throw new DeviceError("endCapture: no recording is being made");
    this.#capture = undefined;
    this.commands.reset();
    return this.arena.endCapture();
  }

  /** Runs a segment of a recording once more: `run` hands it to the backend. Returns at once. */
  replay(run: () => void, commands: number): void {
    if (!isWhole(commands)) throw new OptionError(`replay: commands must be a whole number, got ${show(commands)}`);
    this.enqueue(run);
    this.recorded += commands;
  }

  /** Hands the backend an operation that is not a command, after everything recorded so far; see `record`. */
  enqueue(operation: Operation): void {
    checkOperation(operation);
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
    checkOperation(operation);
    if (this.#capture) this.#capture.push([this], () => this.enqueue(operation));
    else this.enqueue(operation);
  }

  /** True if `load` can be used: the backend reads files itself. */
  get readsFiles(): boolean {
    return this.backend.load !== undefined;
  }

  /**
   * Records a load of the tensor's bytes, as stored, from byte `position` of a file on. If they cannot be read, the tensor is
   * spoilt, and reading it rejects with a FormatError that names the file.
   * @throws DeviceError (a tensor of another device, a device that reads no files), ShapeError, OptionError
   */
  load(into: LoadTarget, file: string, position: number, given: LoadFileOptions = {}): void {
    const { backend } = this;
    if (!backend.load) throw new DeviceError(`load: device ${this.name} reads no files`);
    const { buffer, offset, nbytes } = this.#target(into);
    if (typeof file !== "string") throw new OptionError(`load: file must be a path, got ${show(file)}`);
    if (!isWhole(position)) throw new ShapeError(`load: position must be a whole number from 0, got ${show(position)}`);
    const { ahead, stamp } = Object.fromEntries(entriesOf("load", given, ["ahead", "stamp"])) as LoadFileOptions;
    if (stamp !== undefined && !isStamp(stamp)) {
      throw new OptionError(`load: stamp must be { inode, modified } as bigints, got ${show(stamp)}`);
    }
    const options = { ahead: ahead === true, site: this.#site, stamp };
    if (nbytes === 0) return;
    this.record(() => backend.load!(buffer, offset, file, position, nbytes, options));
  }

  /** A tensor that can be loaded into. @throws DeviceError, ShapeError */
  #target(into: LoadTarget): LoadTarget {
    try {
      const { device, buffer, offset, nbytes, strides } = into;
      if (device !== this) throw new DeviceError(`load: the tensor is on ${device.name}, not on ${this.name}`);
      if (strides !== null) throw new ShapeError("load: the tensor must be contiguous");
      return { device, buffer, offset, nbytes, strides };
    } catch (error) {
      if (error instanceof OctavoError) throw error;
      throw new DeviceError(`load: ${show(into)} is no tensor`, { cause: error });
    }
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

  /** @throws OutOfMemoryError, DeviceError (a closed device), OptionError */
  allocate(bytes: number, label: string): Block {
    if (!isWhole(bytes)) throw new OptionError(`allocate: bytes must be a whole number from 0, got ${show(bytes)}`);
    if (typeof label !== "string") throw new OptionError(`allocate: label must be text, got ${show(label)}`);
    this.checkOpen();
    if (this.commands.length > FLUSH_WORDS && !this.#capture) this.flush();
    return this.arena.allocate(bytes, label, this.#path);
  }

  release(block: Block): void {
    if (!this.#closed) this.arena.release(block);
  }

  /** @throws DeviceError (a closed device, no such place), OutOfMemoryError, OptionError */
  write(buffer: BufferId, offset: number, bytes: Uint8Array): void {
    checkPlace("write", buffer, offset);
    if (!ArrayBuffer.isView(bytes)) throw new OptionError(`write: bytes must be a Uint8Array, got ${show(bytes)}`);
    if (this.#capture) throw new DeviceError("a recording cannot take values from the host");
    this.flush();
    if (this.stream.held) {
      const copy = bytes.slice();
      this.stream.run(() => this.backend.write(buffer, offset, copy));
      return;
    }
    try {
      this.backend.write(buffer, offset, bytes);
    } catch (error) {
      throw this.#errorOf(error);
    }
  }

  /** @throws KernelError naming op and module if a command that should have written these bytes, or their inputs, failed */
  async read(buffer: BufferId, offset: number, bytes: number, checked = bytes): Promise<Uint8Array> {
    checkPlace("read", buffer, offset);
    if (!isWhole(bytes) || !isWhole(checked)) {
      throw new OptionError(`read: bytes must be a whole number from 0, got ${show(bytes)} and ${show(checked)}`);
    }
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
    if (isOf(error, OutOfMemoryError)) return this.arena.explain(error);
    if (isOf(error, OctavoError)) return error;
    const failure = failureIn(error);
    if (!failure) {
      const why = isOf(error, Error) ? error.message : show(error);
      return new DeviceError(`device ${this.name}: ${why}`, { cause: error });
    }
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
    const failure = failureIn(error);
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

/** What a backend found, if `error` is of one. */
function failureIn(error: unknown): BackendFailure | undefined {
  return isOf(error, Error) ? (error as { failure?: BackendFailure }).failure : undefined;
}
