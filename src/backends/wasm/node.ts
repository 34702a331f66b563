// Finds octavo.wasm where there are files: OCTAVO_WASM, or build/octavo.wasm of this package.

import { existsSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import type { Backend } from "../../core/backend.js";
import { DeviceError } from "../../core/errors.js";
import { compile, type WasmModule } from "./api.js";
import { openWasm, type WasmOptions } from "./index.js";

const HINT = "npm run build:wasm (needs clang and lld)";

/** Path of the module that is there, or undefined. */
export function findWasm(): string | undefined {
  const named = process.env.OCTAVO_WASM;
  if (named) return existsSync(named) ? named : undefined;
  let folder = dirname(fileURLToPath(import.meta.url));
  for (;;) {
    const file = join(folder, "build", "octavo.wasm");
    if (existsSync(file)) return file;
    const above = dirname(folder);
    if (above === folder || existsSync(join(folder, "package.json"))) return undefined;
    folder = above;
  }
}

/** Compiling takes long enough to do it once. */
const compiled = new Map<string, WasmModule>();

/** @throws DeviceError if the module is not built */
export function openWasmFile(options: WasmOptions = {}): Backend {
  const file = findWasm();
  if (!file) throw new DeviceError("the WASM module is not built: there is no build/octavo.wasm", { hint: HINT });
  let module = compiled.get(file);
  if (!module) {
    try {
      module = compile(readFileSync(file));
    } catch (error) {
      throw new DeviceError(`the WASM module ${file} cannot be loaded: ${(error as Error).message}`, {
        hint: HINT,
        cause: error,
      });
    }
    compiled.set(file, module);
  }
  return openWasm(module, { panels: process.env.OCTAVO_PANELS !== "0", ...options });
}
