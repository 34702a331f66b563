// The WASM backend: the C++ kernels built for WebAssembly with SIMD (scripts/build-wasm.mjs), for browsers without
// WebGPU and platforms without a native add-on. It runs what is submitted at once, in the thread that calls; in a browser
// that is a Worker's. Nothing of Node's here: who opens it brings the module.

import type { Backend, BackendFailure, BufferId, KernelInfo } from "../../core/backend.js";
import { DTYPE_CODE, type DType } from "../../core/dtype.js";
import { checkOptions, DeviceError, OutOfMemoryError } from "../../core/errors.js";
import { compile, instantiate, type WasmMemory, type WasmModule } from "./api.js";

export interface WasmOptions {
  /** Signature text by op name; kernels of these ops must have been written for exactly this text. */
  readonly signatures?: ReadonlyMap<string, string>;
  /** Bytes that allocations may take in all; what 32-bit addresses reach unless less is given. */
  readonly budget?: number;
  /** False keeps all matrices in rows. */
  readonly panels?: boolean;
}

/** What native/wasm/module.cpp exports. Pointers and sizes come back signed. */
interface Exports {
  readonly memory: WasmMemory;
  open(): number;
  kernel_name(index: number): number;
  kernel_signature(index: number): number;
  panel_bytes(dtype: number, rows: number, columns: number): number;
  allocate(bytes: number): number;
  release(buffer: number): void;
  address(buffer: number): number;
  size(buffer: number): number;
  words(count: number): number;
  submit(count: number): void;
  wrote(buffer: number, offset: number, bytes: number): void;
  check(buffer: number, offset: number, bytes: number): number;
  failure_op(): number;
  failure_site(): number;
  failure_message(): number;
  running_op(): number;
  running_site(): number;
}

/** Less than 4 GB by what the stack, tables and scratch may take. */
const BUDGET = 2 ** 32 - 2 ** 28;

/**
 * Opens a device on a module of its own instance.
 * @param module a compiled module, or the bytes of octavo.wasm: compiled here and now, which browsers allow in Workers only
 * @throws DeviceError if it is not ours, or was built for other signatures
 */
export function openWasm(module: WasmModule | Uint8Array | ArrayBuffer, options: WasmOptions = {}): Backend {
  checkOptions("openWasm", options, ["signatures", "budget", "panels"]);
  let exports: Exports;
  try {
    const bytes = module instanceof ArrayBuffer || ArrayBuffer.isView(module);
    exports = instantiate(bytes ? compile(module) : module, { math: Math }) as Exports;
  } catch (error) {
    throw new DeviceError(`wasm: the module cannot be used: ${(error as Error).message}`, { cause: error });
  }
  const kernels = Array.from({ length: exports.open() }, (_, index) => ({
    name: textAt(exports, exports.kernel_name(index)),
    signature: textAt(exports, exports.kernel_signature(index)),
  }));
  for (const { name, signature } of kernels) {
    const wanted = options.signatures?.get(name);
    if (wanted === undefined || wanted === signature) continue;
    throw new DeviceError(
      `the WASM module has another signature for ${name}\n  module:  ${signature}\n  library: ${wanted}`,
      { hint: "npm run build:wasm", details: { op: name, expected: wanted, got: signature } },
    );
  }
  return new Wasm(exports, kernels, options);
}

/** A text of the module's, up to its zero. */
function textAt({ memory }: Exports, pointer: number): string {
  const bytes = new Uint8Array(memory.buffer);
  const start = pointer >>> 0;
  return new TextDecoder().decode(bytes.subarray(start, bytes.indexOf(0, start)));
}

function rejection(failure: BackendFailure): Error {
  return Object.assign(new Error(failure.message), { failure });
}

class Wasm implements Backend {
  readonly name = "wasm";
  readonly description = "WebAssembly with SIMD, 1 thread";
  readonly kernels: readonly KernelInfo[];
  readonly budget: number;
  readonly #exports: Exports;
  readonly #panels: boolean;
  /** All of the memory; made anew when it has grown. */
  #bytes = new Uint8Array(0);
  /** Why nothing runs any more: a trap leaves the module in the middle of something. */
  #trap: BackendFailure | undefined;
  #closed = false;

  constructor(exports: Exports, kernels: readonly KernelInfo[], { budget = BUDGET, panels = true }: WasmOptions) {
    this.#exports = exports;
    this.#panels = panels;
    this.kernels = kernels;
    this.budget = Math.min(budget, BUDGET);
  }

  get lost(): boolean {
    return this.#trap !== undefined;
  }

  allocate(bytes: number): BufferId {
    const buffer = bytes <= this.budget ? this.#exports.allocate(bytes) : -1;
    if (buffer < 0) throw new OutOfMemoryError(`wasm: no ${bytes} bytes of memory are left (4 GB at most in all)`);
    return buffer;
  }

  free(buffer: BufferId): void {
    if (!this.#closed) this.#exports.release(buffer);
  }

  write(buffer: BufferId, offset: number, bytes: Uint8Array): void {
    const at = this.#range(buffer, offset, bytes.length);
    this.#all().set(bytes, at);
    this.#exports.wrote(buffer, offset, bytes.length);
  }

  submit(commands: Int32Array, words: number): void {
    if (this.#trap) return;
    const exports = this.#exports;
    const at = exports.words(words) >>> 0;
    if (at === 0) throw new OutOfMemoryError(`wasm: no memory is left for ${words} words of commands`);
    const all = this.#all();
    new Int32Array(all.buffer, at, words).set(words === commands.length ? commands : commands.subarray(0, words));
    try {
      exports.submit(words);
    } catch (error) {
      const message = `the kernel ended the module, and the device is lost: ${(error as Error).message}`;
      this.#trap = { op: textAt(exports, exports.running_op()), site: exports.running_site(), message };
    }
  }

  async read(buffer: BufferId, offset: number, bytes: number, sound = bytes): Promise<Uint8Array> {
    if (this.#trap) throw rejection(this.#trap);
    const at = this.#range(buffer, offset, Math.max(bytes, sound));
    const exports = this.#exports;
    if (!exports.check(buffer, offset, sound)) {
      throw rejection({
        op: textAt(exports, exports.failure_op()),
        site: exports.failure_site(),
        message: textAt(exports, exports.failure_message()),
      });
    }
    return this.#all().slice(at, at + bytes);
  }

  panelBytes(dtype: DType, rows: number, columns: number): number | undefined {
    if (!this.#panels) return undefined;
    const bytes = this.#exports.panel_bytes(DTYPE_CODE[dtype], rows, columns);
    return bytes < 0 ? undefined : bytes;
  }

  async close(): Promise<void> {
    // The memory goes when nobody holds the instance.
    this.#closed = true;
  }

  #all(): Uint8Array {
    const { buffer } = this.#exports.memory;
    if (this.#bytes.buffer !== buffer) this.#bytes = new Uint8Array(buffer);
    return this.#bytes;
  }

  /** Where the bytes of a buffer lie. */
  #range(buffer: BufferId, offset: number, bytes: number): number {
    if (this.#closed) throw new DeviceError("device wasm is closed");
    const start = this.#exports.address(buffer) >>> 0;
    if (start === 0 || offset < 0 || offset + bytes > this.#exports.size(buffer) >>> 0) {
      throw new DeviceError(`wasm: ${offset}+${bytes} bytes of buffer ${buffer} do not exist`);
    }
    return start + offset;
  }
}
