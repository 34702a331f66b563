// The device "wasm" of a page or Worker: finds the module, compiles it once, and starts its threads.

import type { WasmModule } from "../backends/wasm/api.js";
import { Device } from "../core/device.js";
import type { DeviceOptions } from "../load/options.js";
import { signatures } from "../ops/index.js";
import { wasmFile } from "./wasm-file.js";
import { fetchWasm, openWasmFrom } from "./wasm-module.js";
import { WEB } from "./web.js";

/** More threads than this make it slower: they wait for each other. */
const MOST_THREADS = 8;

/** The WASM device. Pages with cross-origin isolation (COOP and COEP headers) get threads. */
export async function openWasmDevice({ wasm, threads }: DeviceOptions): Promise<Device> {
  const most = Math.min(WEB.navigator?.hardwareConcurrency ?? 1, MOST_THREADS);
  const options = { threads: threads ?? most, signatures: signatures() };
  if (wasm instanceof Uint8Array || wasm instanceof ArrayBuffer)
    return new Device(openWasmFrom("the module", { bytes: wasm, ...options }));
  const url = new URL(wasm ?? wasmFile(), WEB.location?.href).href;
  return new Device(openWasmFrom(url, { module: await wasmModule(url, wasm !== undefined), ...options }));
}

/** Compiled modules by address. */
const compiled = new Map<string, Promise<WasmModule>>();

/** @throws DeviceError */
function wasmModule(url: string, chosen: boolean): Promise<WasmModule> {
  let module = compiled.get(url);
  if (!module) {
    module = fetchWasm(url, chosen);
    compiled.set(url, module);
    module.catch(() => compiled.delete(url));
  }
  return module;
}
