// An instance of the WASM module in this thread: the exports of native/wasm/module.cpp, its memory, and its threads.

import type { KernelInfo } from "../../core/backend.js";
import { DeviceError, OutOfMemoryError } from "../../core/errors.js";
import { compile, instantiate, sharedMemory, type WasmMemory, type WasmModule } from "./api.js";
import { type StartThread, THREAD_SOURCE, type Thread, type ThreadMessage } from "./threads.js";

/** The exports of native/wasm/module.cpp. Pointers and sizes come back signed. */
export interface Exports {
  open(threads: number, ownThread: boolean): number;
  relaxed(): number;
  threads(): number;
  kernel_name(index: number): number;
  kernel_signature(index: number): number;
  panel_bytes(dtype: number, rows: number, columns: number): number;
  allocate(bytes: number): number;
  address(buffer: number): number;
  size(buffer: number): number;

  release(buffer: number): void;
  words(count: number): number;
  submit(count: number): void;
  wrote(buffer: number, offset: number, bytes: number): void;
  verdict(buffer: number, offset: number, bytes: number): number;
  foreign_op(): number;
  foreign_message(): number;
  foreign_sizes(message: boolean): number;
  spoil(buffer: number, offset: number, bytes: number, site: number): void;

  queue_commands(count: number): number;
  queue_write(buffer: number, offset: number, bytes: number): number;
  queue_push(): void;
  queue_spoil(buffer: number, offset: number, bytes: number, site: number): number;
  queue_free(buffer: number): number;
  queue_read(buffer: number, offset: number, checked: number, completion: number): number;
  queue_close(completion: number): number;
  queue_idle(): number;

  completion_new(bytes: number): number;
  completion_bytes(completion: number): number;
  completion_failure(completion: number): number;
  completion_free(completion: number): void;
  failure_is(failure: number): number;
  failure_op(failure: number): number;
  failure_site(failure: number): number;
  failure_message(failure: number): number;
  running_op(): number;
  running_site(): number;

  threads_wanted(): number;
  thread_memory(bytes: number): number;
  readonly __tls_size: { readonly value: number };
}

const STACK = 1 << 20;

export class Instance {
  readonly exports: Exports;
  readonly kernels: readonly KernelInfo[];
  /** Largest size of the memory, in bytes. */
  readonly limit: number;
  readonly #module: WasmModule;
  readonly #memory: WasmMemory;
  /** A view of all of the memory; replaced when the memory has grown. */
  #bytes: Uint8Array;

  /** @throws DeviceError if the module is not ours, or memory ran out */
  constructor(source: WasmModule | Uint8Array | ArrayBuffer, threads: number, ownThread: boolean) {
    try {
      const bytes = source instanceof ArrayBuffer || ArrayBuffer.isView(source);
      this.#module = bytes ? compile(source) : source;
      const { memory, bytes: limit } = sharedMemory();
      this.#memory = memory;
      this.limit = limit;
      const host = { now: () => performance.now(), done: () => {} };
      this.exports = instantiate(this.#module, { math: Math, env: { memory }, host }) as Exports;
    } catch (error) {
      throw new DeviceError(`wasm: the module cannot be used: ${(error as Error).message}`, { cause: error });
    }
    this.#bytes = new Uint8Array(this.#memory.buffer);
    const kernels = this.exports.open(threads, ownThread);
    if (kernels < 0) throw new DeviceError("wasm: the device cannot be opened: no memory is left");
    this.kernels = Array.from({ length: kernels }, (_, index) => ({
      name: this.text(this.exports.kernel_name(index)),
      signature: this.text(this.exports.kernel_signature(index)),
    }));
  }

  /**
   * Starts the threads that the module asks for.
   * @param heard called with each message of a thread and the thread's number
   * @throws DeviceError if the runtime refuses one; the threads started before it are ended
   */
  start(start: StartThread, heard: (thread: number, message: ThreadMessage) => void): Thread[] {
    const started: Thread[] = [];
    const tls = Math.ceil(this.exports.__tls_size.value / 64) * 64;
    try {
      for (let thread = 0; thread < this.exports.threads_wanted(); thread++) {
        const base = this.exports.thread_memory(STACK + tls) >>> 0;
        if (base === 0) throw new OutOfMemoryError("wasm: no memory is left for a thread's stack");
        const stack = base + STACK;
        const facts = { module: this.#module, memory: this.#memory, thread, stack, tls: stack };
        started.push(start(THREAD_SOURCE, facts, (message) => heard(thread, message)));
      }
    } catch (error) {
      for (const thread of started) void thread.terminate();
      throw new DeviceError(`wasm: a thread cannot be started: ${(error as Error).message}`, {
        hint: "open the device with one thread",
        cause: error,
      });
    }
    return started;
  }

  /** A view of the memory that reaches `end` at least. */
  memory(end = 0): Uint8Array {
    const { buffer } = this.#memory;
    if (this.#bytes.buffer !== buffer) this.#bytes = new Uint8Array(buffer);
    if (end > this.#bytes.length) {
      // Another thread has grown it, and this thread's view is older.
      this.#memory.grow(0);
      this.#bytes = new Uint8Array(this.#memory.buffer);
    }
    return this.#bytes;
  }

  /** A zero-terminated text of the module. */
  text(pointer: number): string {
    const start = pointer >>> 0;
    const bytes = this.memory(start + 1);
    return new TextDecoder().decode(bytes.slice(start, bytes.indexOf(0, start)));
  }
}
