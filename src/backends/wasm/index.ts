// The WASM backend: the C++ kernels built for WebAssembly with SIMD (scripts/build-wasm.mjs), for browsers without
// WebGPU and platforms without a native add-on. Nothing of Node's here: who opens it brings the module.

import type { Backend } from "../../core/backend.js";
import { checkOptions, DeviceError, OptionError } from "../../core/errors.js";
import { canShare, compileLater, relaxedSimd, type WasmModule } from "./api.js";
import { WasmHere } from "./here.js";
import { Instance } from "./instance.js";
import { WasmServed } from "./served.js";
import { type StartThread, webWorkers } from "./threads.js";

export interface WasmOptions {
  /** Threads that compute; 1 unless given. One is all that the main thread of a page and pages without isolation get. */
  readonly threads?: number;
  /**
   * "worker": commands run in a thread of their own, and the calling one, whose event loop keeps turning, never waits.
   * "here": they run at once in the thread that calls; browsers do not even start its helpers until it rests.
   * Unless given, "worker" where threads can be had.
   */
  readonly host?: "here" | "worker";
  /** Signature text by op name; kernels of these ops must have been written for exactly this text. */
  readonly signatures?: ReadonlyMap<string, string>;
  /** Bytes that allocations may take in all; what 32-bit addresses reach unless less is given. */
  readonly budget?: number;
  /** False keeps all matrices in rows. */
  readonly panels?: boolean;
  /** How workers are made; Web Workers unless given. */
  readonly startThread?: StartThread;
}

/** A compiled module, or the bytes of one: compiled here and now, which browsers allow in Workers only. */
export type WasmSource = { readonly module: WasmModule } | { readonly bytes: Uint8Array | ArrayBuffer };

const MOST_THREADS = 64;

/** Name of the file to fetch for this runtime. */
export function wasmFileName(relaxed = relaxedSimd()): "octavo.wasm" | "octavo-relaxed.wasm" {
  return relaxed ? "octavo-relaxed.wasm" : "octavo.wasm";
}

/**
 * Compiles a module off this thread: from a URL, a response to one, or bytes.
 * @throws DeviceError if it cannot be fetched or is no module
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
    throw new DeviceError("wasm: this thread cannot wait for another one", { hint: "open the device in a Worker" });
  }
  const source = "module" in options ? options.module : options.bytes;
  const instance = new Instance(source, shares ? threads : 1, host === "worker");
  for (const { name, signature } of instance.kernels) {
    const wanted = signatures?.get(name);
    if (wanted === undefined || wanted === signature) continue;
    throw new DeviceError(
      `the WASM module has another signature for ${name}\n  module:  ${signature}\n  library: ${wanted}`,
      { hint: "npm run build:wasm", details: { op: name, expected: wanted, got: signature } },
    );
  }
  return host === "worker"
    ? new WasmServed(instance, startThread, options)
    : new WasmHere(instance, startThread, options);
}
