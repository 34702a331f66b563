// The base of both forms of the WASM backend: memory, threads, and the state of a lost device.

import type { BackendFailure, BufferId, KernelInfo } from "../../core/backend.js";
import { DTYPE_CODE, type DType } from "../../core/dtype.js";
import { DeviceError, OutOfMemoryError } from "../../core/errors.js";
import type { Instance } from "./instance.js";
import type { StartThread, Thread, ThreadMessage } from "./threads.js";

export interface MemoryOptions {
  readonly budget?: number;
  readonly panels?: boolean;
}

export abstract class WasmDevice {
  readonly name = "wasm";
  readonly description: string;
  readonly kernels: readonly KernelInfo[];
  readonly budget: number;
  readonly threads: number;
  protected readonly workers: readonly Thread[];
  readonly #panels: boolean;
  /** Holds encoded text for the module, because encoders do not write to shared memory. */
  readonly #scratch = new Uint8Array(1024);
  #instance: Instance | undefined;
  /** Why the device is lost; every read rejects with it. A trap leaves the module in an undefined state. */
  protected trap: BackendFailure | undefined;

  constructor(instance: Instance, start: StartThread, { budget, panels = true }: MemoryOptions) {
    this.#instance = instance;
    this.#panels = panels;
    this.kernels = instance.kernels;
    this.threads = instance.exports.threads();
    const simd = instance.exports.relaxed() ? "relaxed SIMD" : "SIMD";
    this.description = `WebAssembly with ${simd}, ${this.threads} thread${this.threads === 1 ? "" : "s"}`;
    // The rest is for stacks, tables and scratch.
    const most = instance.limit - Math.min(2 ** 28, instance.limit / 4);
    this.budget = Math.min(budget ?? most, most);
    this.workers = instance.start(start, (thread, message) => this.heard(thread, message));
  }

  get lost(): boolean {
    return this.trap !== undefined;
  }

  allocate(bytes: number): BufferId {
    const { exports } = this.instance;
    let buffer = bytes <= this.budget ? exports.allocate(bytes) : -1;
    if (buffer < 0 && bytes <= this.budget && this.drain()) buffer = exports.allocate(bytes);
    if (buffer < 0) throw new OutOfMemoryError(`wasm: no ${bytes} bytes of memory are left (4 GB at most in all)`);
    return buffer;
  }

  /** Waits until pending frees have run; true if there were any. */
  protected drain(): boolean {
    return false;
  }

  panelBytes(dtype: DType, rows: number, columns: number): number | undefined {
    if (!this.#panels) return undefined;
    const bytes = this.instance.exports.panel_bytes(DTYPE_CODE[dtype], rows, columns);
    return bytes < 0 ? undefined : bytes;
  }

  /** @throws DeviceError after close() */
  protected get instance(): Instance {
    if (!this.#instance) throw new DeviceError("device wasm is closed");
    return this.#instance;
  }

  protected get closed(): boolean {
    return this.#instance === undefined;
  }

  /** Ends all threads and drops the memory, which is collected when nothing else refers to it. */
  protected async end(): Promise<void> {
    this.#instance = undefined;
    await Promise.all(this.workers.map((worker) => worker.terminate()));
  }

  protected heard(_thread: number, message: ThreadMessage): void {
    if ("broke" in message && !this.closed) this.lose(`a thread ended: ${message.broke}`);
  }

  /** Marks the device as lost. The command that runs, or ran last, counts as the failed one. */
  protected lose(why: string): void {
    const { exports } = this.instance;
    const op = this.instance.text(exports.running_op());
    this.trap ??= { op, site: exports.running_site(), message: `the device is lost: ${why}` };
  }

  /** The failure at an address, if there is one. */
  protected failureAt(address: number): BackendFailure | undefined {
    const { instance } = this;
    const { exports } = instance;
    if (!exports.failure_is(address)) return undefined;
    return {
      op: instance.text(exports.failure_op(address)),
      site: exports.failure_site(address),
      message: instance.text(exports.failure_message(address)),
    };
  }

  /** The contents of a buffer. Call it while nothing else runs. */
  protected readNow(buffer: BufferId, offset: number, bytes: number, checked: number): Uint8Array {
    const { instance } = this;
    const at = this.range(buffer, offset, Math.max(bytes, checked));
    const failure = this.failureAt(instance.exports.verdict(buffer, offset, checked));
    if (failure) throw rejection(failure);
    return instance.memory(at + bytes).slice(at, at + bytes);
  }

  /** Writes a buffer. Call it while nothing else runs. */
  protected writeNow(buffer: BufferId, offset: number, bytes: Uint8Array): void {
    const at = this.range(buffer, offset, bytes.length);
    this.instance.memory(at + bytes.length).set(bytes, at);
    this.instance.exports.wrote(buffer, offset, bytes.length);
  }

  /** Passes a failure of another device to the module, for `spoil` and `queue_spoil`. */
  protected tell({ op, message }: BackendFailure): void {
    const { instance } = this;
    const { exports } = instance;
    const put = (text: string, pointer: number, size: number): void => {
      const at = pointer >>> 0;
      const { written } = new TextEncoder().encodeInto(text, this.#scratch.subarray(0, size - 1));
      this.#scratch[written] = 0;
      instance.memory(at + size).set(this.#scratch.subarray(0, written + 1), at);
    };
    put(op, exports.foreign_op(), exports.foreign_sizes(false));
    put(message, exports.foreign_message(), exports.foreign_sizes(true));
  }

  /** Address of the bytes of a buffer. */
  protected range(buffer: BufferId, offset: number, bytes: number): number {
    const { exports } = this.instance;
    const start = exports.address(buffer) >>> 0;
    if (start === 0 || offset < 0 || offset + bytes > exports.size(buffer) >>> 0) {
      throw new DeviceError(`wasm: ${offset}+${bytes} bytes of buffer ${buffer} do not exist`);
    }
    return start + offset;
  }

  /** Copies words of commands to an address that the module allocated; 0 means out of memory. */
  protected putWords(address: number, commands: Int32Array, words: number): void {
    const at = address >>> 0;
    if (at === 0) throw new OutOfMemoryError(`wasm: no memory is left for ${words} words of commands`);
    const { buffer } = this.instance.memory(at + words * 4);
    new Int32Array(buffer, at, words).set(words === commands.length ? commands : commands.subarray(0, words));
  }
}

/** The error that carries a failure to `Device.read`. */
export function rejection(failure: BackendFailure): Error {
  return Object.assign(new Error(failure.message), { failure });
}
