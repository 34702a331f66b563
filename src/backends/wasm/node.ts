// The WASM backend with a file system: finds octavo.wasm (OCTAVO_WASM, or build/ of this package) and runs it in
// threads of Node's.

import { existsSync, readFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { Worker } from "node:worker_threads";
import type { Backend } from "../../core/backend.js";
import { DeviceError, OptionError } from "../../core/errors.js";
import { builtFile, missingHint, packagePlace } from "../_package.js";
import { compile, relaxedSimd, type WasmModule } from "./api.js";
import { openWasm, type WasmOptions, wasmFileName } from "./index.js";
import type { StartThread } from "./threads.js";

/** More threads than this are slower, because they wait for each other. */
const DEFAULT_THREADS = 8;

/** How the module is built where it is missing. */
export function wasmBuildHint(): string {
  const hint = missingHint("build-wasm.mjs", "OCTAVO_WASM");
  return packagePlace().bundled ? hint : `${hint} (needs clang and lld, version 16 or newer)`;
}

export interface WasmFileOptions extends Omit<WasmOptions, "startThread"> {
  /** False selects the module without relaxed SIMD even where relaxed SIMD is supported. */
  readonly relaxed?: boolean;
}

/** Path of the built module, or undefined; the one with relaxed SIMD where this Node supports it. */
export function findWasm(relaxed = relaxedSimd()): string | undefined {
  const named = process.env.OCTAVO_WASM;
  if (named) return existsSync(named) ? named : undefined;
  return builtFile(wasmFileName(relaxed)) ?? (relaxed ? findWasm(false) : undefined);
}

/** Compiled modules by path: compiling is slow. */
const compiled = new Map<string, WasmModule>();

function threadsFromEnvironment(): number | undefined {
  const text = process.env.OCTAVO_THREADS;
  if (!text) return undefined;
  if (!/^[1-9]\d*$/.test(text)) throw new OptionError(`OCTAVO_THREADS must be a whole number from 1, got "${text}"`);
  return Number(text);
}

/** Starts Node's worker threads. */
export const nodeWorkers: StartThread = (source, start, heard) => {
  const worker = new Worker(source, { eval: true, workerData: start, execArgv: [], name: "octavo-wasm" });
  let ended = false;
  const broke = (why: string): void => {
    if (!ended) heard({ broke: why });
  };
  worker.on("message", heard);
  worker.on("error", (error) => broke(error.message));
  worker.on("exit", (code) => {
    if (code !== 0) broke(`the worker ended with code ${code}`);
  });
  // After the listeners, because adding a listener refs the worker.
  worker.unref();
  return {
    hold: (on) => {
      if (on) worker.ref();
      else worker.unref();
    },
    terminate: async () => {
      ended = true;
      await worker.terminate();
    },
  };
};

/**
 * Opens a device with threads of its own; `threads` or OCTAVO_THREADS sets their number, by default one per processor.
 * @throws DeviceError if the module is not built
 */
export function openWasmFile({ relaxed, ...options }: WasmFileOptions = {}): Backend {
  const file = findWasm(relaxed);
  if (!file)
    throw new DeviceError("the WASM module is not built: there is no build/octavo.wasm", { hint: wasmBuildHint() });
  let module = compiled.get(file);
  if (!module) {
    try {
      module = compile(readFileSync(file));
    } catch (error) {
      throw new DeviceError(`the WASM module ${file} cannot be loaded: ${(error as Error).message}`, {
        hint: wasmBuildHint(),
        cause: error,
      });
    }
    compiled.set(file, module);
  }
  return openWasm({
    module,
    panels: process.env.OCTAVO_PANELS !== "0",
    startThread: nodeWorkers,
    ...options,
    threads: options.threads ?? threadsFromEnvironment() ?? Math.min(availableParallelism(), DEFAULT_THREADS),
  });
}
