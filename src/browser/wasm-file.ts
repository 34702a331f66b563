// Where a page finds the WebAssembly module.

import { wasmFileName } from "../backends/wasm/index.js";

/**
 * Address of the module for this browser. Bundlers that know `new URL("...", import.meta.url)` (Vite) copy both files and
 * insert their addresses here; a package served unbundled needs no change. Others (esbuild) leave the text and move the
 * script: then the module is looked for beside the script. (Vite's development server moves packages as well, unless its
 * option `optimizeDeps.exclude` names this one.)
 */
export function wasmFile(): URL {
  const name = wasmFileName();
  const ours =
    name === "octavo.wasm"
      ? new URL("../../build/octavo.wasm", import.meta.url)
      : new URL("../../build/octavo-relaxed.wasm", import.meta.url);
  const moved = !/\/wasm-file\.[jt]s$/.test(new URL(import.meta.url).pathname);
  return moved && ours.pathname.endsWith(`/build/${name}`) ? new URL(name, import.meta.url) : ours;
}
