// Where a page finds the WebAssembly module.

import { wasmFileName } from "../backends/wasm/index.js";

/** What leads to the modules from where Vite's development server keeps the packages that it has bundled beforehand. */
const FROM_DEPS = "../../octavo/build/";

/** True if a script is one of those packages. */
export function bundledByVite(script = import.meta.url): boolean {
  return new URL(script).pathname.includes("/.vite/deps/");
}

/**
 * Address of the module for this browser. Bundlers that know `new URL("...", import.meta.url)` (Vite) copy both files and
 * insert their addresses here; a package served unbundled needs no change. Others (esbuild) leave the text and move the
 * script: then the module is looked for beside the script. Vite's development server moves the script as well, unless its
 * option `optimizeDeps.exclude` names this package, but it serves the packages too.
 */
export function wasmFile(script = import.meta.url): URL {
  const name = wasmFileName();
  const ours =
    name === "octavo.wasm"
      ? new URL("../../build/octavo.wasm", import.meta.url)
      : new URL("../../build/octavo-relaxed.wasm", import.meta.url);
  if (bundledByVite(script)) return new URL(FROM_DEPS + name, script);
  const moved = !/\/wasm-file\.[jt]s$/.test(new URL(script).pathname);
  return moved && ours.pathname.endsWith(`/build/${name}`) ? new URL(name, script) : ours;
}
