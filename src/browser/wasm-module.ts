// Fetches and compiles the WebAssembly module for a page or Worker. Its errors speak of the page's server, as whoever
// meets them can change that; src/backends/wasm knows of no server.

import type { WasmModule } from "../backends/wasm/api.js";
import { loadWasm, openWasm, type WasmOptions, type WasmSource } from "../backends/wasm/index.js";
import type { Backend } from "../core/backend.js";
import { DeviceError } from "../core/errors.js";
import { bundledByVite } from "./wasm-file.js";
import { WEB } from "./web.js";

const COPY =
  "serve octavo.wasm and octavo-relaxed.wasm of the package's folder build/ there, or say where they are: { wasm: address }";
const VITE = 'add `optimizeDeps: { exclude: ["octavo"] }` to vite.config, so that Vite serves the package as it is';
const POLICY = "let the header Content-Security-Policy of the page and of the Worker's script allow 'wasm-unsafe-eval'";

/** Bytes that every module begins with. */
const MAGIC = [0x00, 0x61, 0x73, 0x6d];

/**
 * Compiles the module at an address, off this thread.
 * @param chosen the page gave the address; else it is that of wasm-file.ts
 * @throws DeviceError that says what came instead: nothing, another status, a page, another file
 */
export async function fetchWasm(url: string, chosen: boolean): Promise<WasmModule> {
  const absent = !chosen && bundledByVite() ? VITE : COPY;
  const bytes = await bytesOf(url, absent);
  if (MAGIC.some((byte, i) => bytes[i] !== byte)) {
    const first = new TextDecoder().decode(bytes.subarray(0, 64)).trimStart();
    const what = first.startsWith("<") ? "an HTML page" : "a file of another kind";
    const got = bytes.length === 0 ? "an empty file" : what;
    throw failed(url, `the server sends ${got} in its place`, { hint: absent, got });
  }
  try {
    return await loadWasm(bytes.buffer);
  } catch (error) {
    const cause = (error as Error).cause ?? error;
    const { message } = cause as Error;
    if (/content.security.policy|unsafe-eval|\bCSP\b|disallowed by embedder/i.test(message)) {
      throw failed(url, "the page's Content-Security-Policy forbids WebAssembly", { hint: POLICY, cause });
    }
    const hint = "is the file whole? Copy it from the package again; browsers from 2022 on can compile it";
    throw failed(url, message, { hint, cause });
  }
}

async function bytesOf(url: string, absent: string): Promise<Uint8Array<ArrayBuffer>> {
  let response: Response;
  try {
    response = await fetch(url);
    if (response.ok) return new Uint8Array(await response.arrayBuffer());
  } catch (cause) {
    throw failed(url, "the server cannot be reached, or the connection broke off", {
      hint: unreachableHint(url),
      got: "nothing",
      cause,
    });
  }
  const { status } = response;
  const gone = status === 404 || status === 410;
  throw failed(url, gone ? `the server has no such file (${status})` : `the server answers ${status}`, {
    status,
    hint: gone ? absent : "look into the server's log: it must give this file to everybody who may open the page",
  });
}

function unreachableHint(url: string): string {
  const { location } = WEB;
  const own = location !== undefined && URL.canParse(url) && new URL(url).origin === new URL(location.href).origin;
  if (own) return "is the server of this page still running?";
  return "a server other than the page's must allow it to read the file: Access-Control-Allow-Origin";
}

interface Why {
  readonly hint: string;
  readonly status?: number;
  /** What came in place of a module. */
  readonly got?: string;
  readonly cause?: unknown;
}

function failed(url: string, why: string, { hint, status, got, cause }: Why): DeviceError {
  return new DeviceError(`wasm: the module ${url} cannot be loaded: ${why}`, {
    hint,
    cause,
    details: { url, status, got },
  });
}

/**
 * Opens the device, as `openWasm` does.
 * @param from where the module came from, for messages
 * @throws DeviceError, OptionError
 */
export function openWasmFrom(from: string, options: WasmSource & WasmOptions): Backend {
  try {
    return openWasm(options);
  } catch (error) {
    if (!(error instanceof DeviceError) || error.details.op === undefined) throw error;
    throw new DeviceError(`wasm: ${from} belongs to another version of octavo`, {
      hint: "octavo.wasm and octavo-relaxed.wasm must come from the package that the script was built with: copy them again",
      details: error.details,
      cause: error,
    });
  }
}
