// Servers that do not give the WebAssembly module: each error says what came, and what to do with that server.

import { readFileSync } from "node:fs";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { build as esbuild } from "esbuild";
import { afterAll, afterEach, beforeAll, expect, test, vi } from "vitest";
import { wasmFileName } from "../../src/backends/wasm/index.js";
import { findWasm } from "../../src/backends/wasm/node.js";
import { requestDevice } from "../../src/browser/platform.js";
import { bundledByVite, wasmFile } from "../../src/browser/wasm-file.js";
import { fetchWasm, openWasmFrom } from "../../src/browser/wasm-module.js";
import { DeviceError } from "../../src/core/errors.js";
import { ROOT } from "../support/cli.js";
import { whyNoWasm } from "../support/devices.js";
import { temporary } from "../support/temporary.js";

const ANSWERS: Readonly<Record<string, { status: number; body: Uint8Array | string }>> = {
  "/gone.wasm": { status: 404, body: "" },
  "/secret.wasm": { status: 403, body: "" },
  "/page.wasm": { status: 200, body: "\n<!DOCTYPE html><title>all</title>" },
  "/text.wasm": { status: 200, body: "version https://git-lfs.github.com/spec/v1" },
  "/empty.wasm": { status: 200, body: "" },
  "/short.wasm": { status: 200, body: new Uint8Array([0, 0x61, 0x73, 0x6d, 1, 0, 0, 0, 10]) },
};

let server: Server;
let address: string;

beforeAll(async () => {
  server = createServer(({ url }, response) => {
    const { status, body } = ANSWERS[url!]!;
    response.writeHead(status).end(body);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  address = `http://localhost:${(server.address() as AddressInfo).port}`;
});
afterAll(() => server.close());
afterEach(() => vi.unstubAllGlobals());

async function refusal(work: Promise<unknown>): Promise<DeviceError> {
  const error = await work.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  expect(error).toBeInstanceOf(DeviceError);
  return error as DeviceError;
}

test.each([
  ["/gone.wasm", "the server has no such file (404)", "serve octavo.wasm and octavo-relaxed.wasm"],
  ["/secret.wasm", "the server answers 403", "look into the server's log"],
  ["/page.wasm", "the server sends an HTML page in its place", "serve octavo.wasm and octavo-relaxed.wasm"],
  ["/text.wasm", "the server sends a file of another kind in its place", "serve octavo.wasm and octavo-relaxed.wasm"],
  ["/empty.wasm", "the server sends an empty file in its place", "serve octavo.wasm and octavo-relaxed.wasm"],
  ["/short.wasm", "section", "Copy it from the package again"],
])("%s", async (path, words, hint) => {
  const error = await refusal(requestDevice("wasm", { wasm: address + path }));
  expect(error.message).toContain(`wasm: the module ${address}${path} cannot be loaded: `);
  expect(error.message).toContain(words);
  expect(error.hint).toContain(hint);
  expect(error.details.url).toBe(address + path);
});

test("a server that is not there: other origins are a cause only for the address of another origin", async () => {
  const nowhere = "http://localhost:1/octavo.wasm";
  vi.stubGlobal("location", { href: "http://localhost:1/page.html" });
  const own = await refusal(fetchWasm(nowhere, true));
  expect(own.hint).toBe("is the server of this page still running?");
  vi.stubGlobal("location", { href: "http://localhost:2/page.html" });
  expect((await refusal(fetchWasm(nowhere, true))).hint).toContain("Access-Control-Allow-Origin");
});

test("a policy that forbids WebAssembly names what it must allow", async () => {
  const words = "Refused to compile WebAssembly module because 'unsafe-eval' is not an allowed source of script";
  vi.stubGlobal("WebAssembly", { compile: () => Promise.reject(new Error(words)), validate: () => true });
  const error = await refusal(fetchWasm(`${address}/short.wasm`, true));
  expect(error.message).toContain("the page's Content-Security-Policy forbids WebAssembly");
  expect(error.hint).toContain("'wasm-unsafe-eval'");
});

test.skipIf(whyNoWasm)(`a module of another version is told from one that is none ${whyNoWasm ?? ""}`, () => {
  const from = "https://example.org/octavo.wasm";
  const bytes = readFileSync(findWasm(false)!);
  const signatures = new Map([["add", "add of another time"]]);
  expect(() => openWasmFrom(from, { bytes, signatures })).toThrow(`${from} belongs to another version of octavo`);
  expect(() => openWasmFrom(from, { bytes: bytes.subarray(0, 1000) })).toThrow("the module cannot be used");
});

test("Vite's development server: the module is in the package, from where it has moved the script", () => {
  const script = "http://localhost:5173/base/node_modules/.vite/deps/octavo_browser_worker.js?v=12345678";
  expect(bundledByVite(script)).toBe(true);
  expect(wasmFile(script).href).toBe(`http://localhost:5173/base/node_modules/octavo/build/${wasmFileName()}`);
  expect(bundledByVite("http://localhost:5173/node_modules/octavo/dist/browser/wasm-file.js")).toBe(false);
});

test("where Vite has moved the script and the module is not found, the line for its configuration is named", async () => {
  const outfile = join(temporary("vite"), "node_modules", ".vite", "deps", "script.mjs");
  const entry = join(ROOT, "src", "browser", "wasm-module.ts");
  await esbuild({ entryPoints: [entry], outfile, bundle: true, format: "esm", keepNames: true, logLevel: "warning" });
  const moved = (await import(outfile)) as { fetchWasm: typeof fetchWasm };
  const hint = (path: string, chosen: boolean) =>
    moved.fetchWasm(address + path, chosen).catch((error: DeviceError) => error.hint);
  for (const path of ["/gone.wasm", "/page.wasm"]) {
    expect(await hint(path, false)).toContain('optimizeDeps: { exclude: ["octavo"] }');
    expect(await hint(path, true)).not.toContain("optimizeDeps"); // the page chose the address
  }
});

test("no adapter, no WebGPU: what a browser offers instead", async () => {
  vi.stubGlobal("navigator", { gpu: { requestAdapter: async () => null } });
  const none = await refusal(requestDevice("webgpu"));
  expect(none.message).toContain("webgpu: this browser offers no adapter");
  expect(none.hint).toMatch(/device "wasm".*hardware acceleration/);
  expect(none.message).not.toMatch(/Vulkan|\bcpu\b/);
  vi.stubGlobal("navigator", {});
  expect((await refusal(requestDevice("webgpu"))).message).toContain("this browser has no WebGPU");
});
