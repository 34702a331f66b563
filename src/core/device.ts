// A device as the rest of Octavo sees it: a backend with an arena, a recorder of commands and a list of module paths
// for error messages. Ops record here; nothing waits except `read`.

import { Arena, type Block, type MemoryReport } from "./arena.js";
import type { Backend, BackendFailure, BufferId, PreparedCommands } from "./backend.js";
import { CommandBuffer } from "./command.js";
import type { DType } from "./dtype.js";
import { DeviceError, KernelError, OctavoError, OutOfMemoryError } from "./errors.js";

/** Commands that are recorded before they are handed to the backend without anybody waiting. */
const FLUSH_AT = 24;
/** Words that may wait where memory is taken and given back and no command is recorded. */
const FLUSH_WORDS = 1 << 14;

export class Device implements AsyncDisposable {
  readonly backend: Backend;
  readonly arena: Arena;
  readonly commands = new CommandBuffer();
  /** Why it was taken, if that was left to Octavo ("auto"). */
  reason: string | undefined;
  /** Number of commands recorded since the device was opened. */
  recorded = 0;
  readonly #kernels = new Map<string, number>();
  readonly #sites: string[] = [""];
  readonly #siteIds = new Map<string, number>([["", 0]]);
  #site = 0;
  #capturing = false;
  #path = "";
  #closed = false;

  constructor(backend: Backend) {
    this.backend = backend;
    this.arena = new Arena(
      backend,
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

  /** Path of the module that records now; ops carry it into error messages and leak reports. */
  get path(): string {
    return this.#path;
  }

  /** Number that commands recorded now carry. */
  get site(): number {
    return this.#site;
  }

  /** Names the module that records from now on; returns the path before. */
  enter(path: string): string {
    const before = this.#path;
    this.#path = path;
    let id = this.#siteIds.get(path);
    if (id === undefined) {
      id = this.#sites.push(path) - 1;
      this.#siteIds.set(path, id);
    }
    this.#site = id;
    return before;
  }

  /** Called after each recorded command. */
  recordedOne(): void {
    this.recorded++;
    if (this.commands.commands >= FLUSH_AT && !this.#capturing) this.flush();
  }

  /**
   * Records what `body` does without running it. Replaying it runs the same commands on the same memory again, which
   * costs microseconds where recording costs a fraction of a millisecond. So `body` must take everything that changes
   * from tensors that outlive the recording, leave its results in such tensors, and write nothing from the host.
   * The caller disposes the recording.
   */
  capture(body: () => void): Recording {
    if (this.#capturing) throw new DeviceError("a recording cannot be made inside another");
    this.flush();
    this.#capturing = true;
    this.arena.beginCapture();
    let words: Int32Array | undefined;
    let commands = 0;
    let blocks: Block[] = [];
    try {
      body();
      words = this.commands.words.slice(0, this.commands.length);
      commands = this.commands.commands;
    } finally {
      this.#capturing = false;
      this.commands.reset();
      blocks = this.arena.endCapture();
      if (!words) for (const block of blocks) this.release(block);
    }
    return new Recording(this, words, commands, blocks);
  }

  /** Runs a recording once more: `run` hands it to the backend. Returns at once. */
  replay(run: () => void, commands: number): void {
    this.flush();
    if (this.#closed) throw new DeviceError(`device ${this.name} is closed`);
    run();
    this.recorded += commands;
  }

  /** Hands what is recorded to the backend. Returns at once. */
  flush(): void {
    const { commands } = this;
    if (commands.length === 0) return;
    if (this.#closed) throw new DeviceError(`device ${this.name} is closed`);
    try {
      this.backend.submit(commands.words, commands.length);
    } finally {
      // What a backend refuses to take must not come back with the next commands.
      commands.reset();
    }
  }

  /** Hands over what is recorded before memory goes back; a device that is gone takes nothing, and needs nothing. */
  #settle(): void {
    if (this.backend.lost) this.commands.reset();
    else this.flush();
  }

  allocate(bytes: number, label: string): Block {
    if (this.#closed) throw new DeviceError(`device ${this.name} is closed`);
    if (this.commands.length > FLUSH_WORDS && !this.#capturing) this.flush();
    return this.arena.allocate(bytes, label, this.#path);
  }

  release(block: Block): void {
    if (!this.#closed) this.arena.release(block);
  }

  write(buffer: BufferId, offset: number, bytes: Uint8Array): void {
    if (this.#capturing) throw new DeviceError("a recording cannot take values from the host");
    this.flush();
    this.backend.write(buffer, offset, bytes);
  }

  /** @throws KernelError naming op and module if a command failed that should have written these bytes, or what they were made of */
  async read(buffer: BufferId, offset: number, bytes: number, checked = bytes): Promise<Uint8Array> {
    if (this.#capturing) throw new DeviceError("a recording cannot be read while it is made");
    this.flush();
    try {
      return await this.backend.read(buffer, offset, bytes, checked);
    } catch (error) {
      if (error instanceof OutOfMemoryError) throw this.arena.explain(error);
      if (error instanceof OctavoError) throw error;
      const failure = (error as { failure?: BackendFailure }).failure;
      if (!failure) throw new DeviceError(`device ${this.name}: ${(error as Error).message}`, { cause: error });
      const path = this.#sites[failure.site];
      throw new KernelError(`${failure.op}${path ? ` in ${path}` : ""}: ${failure.message}`, {
        details: { op: failure.op, module: path ?? "" },
      });
    }
  }

  /** Resolves when everything recorded so far has run, whether it failed or not. */
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
    await this.backend.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

/** Commands that can be run again and again; see `Device.capture`. */
export class Recording implements Disposable {
  readonly #device: Device;
  readonly #prepared: PreparedCommands;
  readonly #commands: number;
  #blocks: readonly Block[];
  #alive = true;

  constructor(device: Device, words: Int32Array, commands: number, blocks: readonly Block[]) {
    const { backend } = device;
    this.#device = device;
    this.#prepared = backend.prepare?.(words, words.length) ?? {
      run: () => backend.submit(words, words.length),
      dispose: () => {},
    };
    this.#commands = commands;
    this.#blocks = blocks;
  }

  /** Runs it once more, after everything recorded so far. Returns at once. */
  replay(): void {
    if (!this.#alive) throw new OctavoError("ERR_DISPOSED", "a recording was replayed after dispose()");
    this.#device.replay(() => this.#prepared.run(), this.#commands);
  }

  dispose(): void {
    this.#alive = false;
    this.#prepared.dispose();
    for (const block of this.#blocks) this.#device.release(block);
    this.#blocks = [];
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}
