// The WASM backend: the C++ kernels built for WebAssembly with SIMD (scripts/build-wasm.mjs), for browsers without
// WebGPU and platforms without a native add-on. Nothing of Node's here: the caller passes the module.

import type { Backend } from "../../core/backend.js";
import { checkOptions, DeviceError, OptionError } from "../../core/errors.js";
import { canShare, compileLater, relaxedSimd, type WasmModule } from "./api.js";
import { WasmHere } from "./here.js";
import { Instance } from "./instance.js";
import { WasmServed } from "./served.js";
import { type StartThread, webWorkers } from "./threads.js";

export interface WasmOptions {
  /** Compute threads; default 1. The main thread of a page and pages without isolation get one. */
  readonly threads?: number;
  /**
   * "worker": commands run in a thread of their own; the calling thread never blocks. "here": commands run at once in the
   * calling thread; browsers start its helper threads only when it returns to its event loop. Default: "worker" where
   * threads are available.
   */
  readonly host?: "here" | "worker";
  /** Signature text by op name; the kernels of these ops must have exactly this text. */
  readonly signatures?: ReadonlyMap<string, string>;
  /** Most bytes that allocations may take; default: the reach of 32-bit addresses. */
  readonly budget?: number;
  /** False keeps all matrices in rows. */
  readonly panels?: boolean;
  /** Starts a thread; default: a Web Worker. */
  readonly startThread?: StartThread;
}

/** A compiled module, or the bytes of one, which are compiled synchronously: browsers allow that in Workers only. */
export type WasmSource = { readonly module: WasmModule } | { readonly bytes: Uint8Array | ArrayBuffer };

const MOST_THREADS = 64;

/** Name of the file to fetch for this runtime. */
export function wasmFileName(relaxed = relaxedSimd()): "octavo.wasm" | "octavo-relaxed.wasm" {
  return relaxed ? "octavo-relaxed.wasm" : "octavo.wasm";
}

/**
 * Compiles a module off this thread: from a URL, a response to one, or bytes.
 * @throws DeviceError if it cannot be fetched or is not a module
 */
export async function loadWasm(source: string | URL | Response | ArrayBuffer): Promise<WasmModule> {
  try {
    if (source instanceof ArrayBuffer) return await compileLater(source);
    const response = source instanceof Response ? source : await fetch(source);
    if (!response.ok) throw new Error(`status ${response.status} of ${response.url}`);
    return await compileLater(await response.arrayBuffer());
  } catch (error) {
    const from = source instanceof ArrayBuffer ? "" : ` ${source instanceof Response ? source.url : source}`;
    throw new DeviceError(`wasm: the module${from} cannot be loaded: ${(error as Error).message}`, {
      hint: "build/octavo.wasm and octavo-relaxed.wasm of this package belong there, or say where they are: { wasm: address }",
      cause: error,
    });
  }
}

/**
 * Opens a device on a memory of its own.
 * @throws DeviceError if the module is not ours or was built for other signatures, or if threads cannot be started;
 *   OptionError for bad options
 */
export function openWasm(options: WasmSource & WasmOptions): Backend {
  const known = ["module", "bytes", "threads", "host", "signatures", "budget", "panels", "startThread"];
  checkOptions("openWasm", options, known);
  const { threads = 1, signatures, startThread = webWorkers() } = options;
  if (!Number.isInteger(threads) || threads < 1 || threads > MOST_THREADS) {
    throw new OptionError(`openWasm: threads must be a whole number from 1 to ${MOST_THREADS}, got ${threads}`);
  }
  const shares = canShare();
  const host = options.host ?? (shares && (options.startThread || "Worker" in globalThis) ? "worker" : "here");
  if (host === "worker" && !shares) {
    throw new DeviceError("wasm: this thread cannot wait for other threads", { hint: "open the device in a Worker" });
  }
  const source = "module" in options ? options.module : options.bytes;
  const instance = new Instance(source, shares ? threads : 1, host === "worker");
  for (const { name, signature } of instance.kernels) {
    const wanted = signatures?.get(name);
    if (wanted === undefined || wanted === signature) continue;
    throw new DeviceError(
      `the WASM module has another signature for ${name}\n  module:  ${signature}\n  library: ${wanted}`,
      {
        hint: "build the module of this version: node scripts/build-wasm.mjs in the package's folder",
        details: { op: name, expected: wanted, got: signature },
      },
    );
  }
  return host === "worker"
    ? new WasmServed(instance, startThread, options)
    : new WasmHere(instance, startThread, options);
}
