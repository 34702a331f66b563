// The part of the JavaScript interface of WebAssembly that is used here; neither Node's types nor the language's
// declare it, and the browser's would bring a window along.

/** A compiled module, such as `new WebAssembly.Module(bytes)` makes. */
export type WasmModule = object;

export interface WasmMemory {
  readonly buffer: ArrayBuffer;
}

interface WebAssemblyApi {
  readonly Module: new (bytes: ArrayBufferView | ArrayBuffer) => WasmModule;
  readonly Instance: new (module: WasmModule, imports: object) => { readonly exports: unknown };
}

/** @throws TypeError where there is no WebAssembly */
export function compile(bytes: ArrayBufferView | ArrayBuffer): WasmModule {
  const { Module } = api();
  return new Module(bytes);
}

/** @throws TypeError where there is no WebAssembly */
export function instantiate(module: WasmModule, imports: object): unknown {
  const { Instance } = api();
  return new Instance(module, imports).exports;
}

function api(): WebAssemblyApi {
  const { WebAssembly } = globalThis as { WebAssembly?: WebAssemblyApi };
  if (!WebAssembly) throw new TypeError("this runtime has no WebAssembly");
  return WebAssembly;
}
