// The part of WebAssembly's JavaScript interface that Octavo uses. Neither Node's types nor TypeScript's ES library declare
// it, and the DOM library would declare a window as well.

/** A compiled module, as made by `new WebAssembly.Module(bytes)`. */
export type WasmModule = object;

export interface WasmMemory {
  readonly buffer: SharedArrayBuffer;
  grow(pages: number): number;
}

interface WebAssemblyApi {
  readonly Module: new (bytes: ArrayBufferView | ArrayBuffer) => WasmModule;
  readonly Instance: new (module: WasmModule, imports: object) => { readonly exports: unknown };
  readonly Memory: new (shape: { initial: number; maximum: number; shared: true }) => WasmMemory;
  compile(bytes: ArrayBuffer): Promise<WasmModule>;
  validate(bytes: Uint8Array): boolean;
}

const PAGE = 65536;
/** Pages that a module needs at the start: its data and the first stack. */
const FIRST_PAGES = 64;

/** @throws TypeError where there is no WebAssembly */
export function compile(bytes: ArrayBufferView | ArrayBuffer): WasmModule {
  const { Module } = api();
  return new Module(bytes);
}

/** The same without blocking the thread. */
export async function compileLater(bytes: ArrayBuffer): Promise<WasmModule> {
  return api().compile(bytes);
}

/** @throws TypeError where there is no WebAssembly */
export function instantiate(module: WasmModule, imports: object): unknown {
  const { Instance } = api();
  return new Instance(module, imports).exports;
}

/**
 * A memory that threads can share. It may grow to 4 GB, or less where the runtime has less address space. (A page without
 * cross-origin isolation gets one too but cannot send it to a Worker.)
 */
export function sharedMemory(): { memory: WasmMemory; bytes: number } {
  const { Memory } = api();
  for (let maximum = 2 ** 32 / PAGE; ; maximum /= 2) {
    try {
      return { memory: new Memory({ initial: FIRST_PAGES, maximum, shared: true }), bytes: maximum * PAGE };
    } catch (error) {
      if (!(error instanceof RangeError) || maximum / 2 < FIRST_PAGES) throw error;
    }
  }
}

/** A module whose only function uses `i32x4.relaxed_dot_i8x16_i7x16_add_s`. */
const RELAXED_PROBE = Uint8Array.of(
  ...[0x00, 0x61, 0x73, 0x6d, 0x01, 0x00, 0x00, 0x00], // magic, version
  ...[0x01, 0x05, 0x01, 0x60, 0x00, 0x01, 0x7b], // type: () -> v128
  ...[0x03, 0x02, 0x01, 0x00], // one function of it
  ...[0x0a, 0x13, 0x01, 0x11, 0x00], // its body, without locals
  ...[0x41, 0x00, 0xfd, 0x0f, 0x41, 0x00, 0xfd, 0x0f, 0x41, 0x00, 0xfd, 0x0f], // three times i8x16.splat(0)
  ...[0xfd, 0x93, 0x02, 0x0b],
);

/** True if this runtime supports relaxed SIMD. */
export function relaxedSimd(): boolean {
  return api().validate(RELAXED_PROBE);
}

/** True if this thread may block and share memory; false on the main thread of a page. */
export function canShare(): boolean {
  if (typeof SharedArrayBuffer === "undefined") return false;
  try {
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 1, 0);
    return true;
  } catch {
    return false;
  }
}

function api(): WebAssemblyApi {
  const { WebAssembly } = globalThis as unknown as { WebAssembly?: WebAssemblyApi };
  if (!WebAssembly) throw new TypeError("this runtime has no WebAssembly");
  return WebAssembly;
}
