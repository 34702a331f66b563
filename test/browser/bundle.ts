// Bundles scripts for pages of tests, and serves them: with the WASM module beside them where it is built.

import { cpSync, existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { build } from "esbuild";
import type { Browser, Worker } from "playwright-core";
import { vi } from "vitest";
// @ts-expect-error a script without types
import { serveFile as serveFileOf } from "../../examples/browser/serve.mjs";
import { wasmFileName } from "../../src/backends/wasm/index.js";
import { findWasm } from "../../src/backends/wasm/node.js";

const serveFile = serveFileOf as (
  folder: string,
  request: IncomingMessage,
  response: ServerResponse,
  headers?: object,
) => void;

export interface Site {
  readonly folder: string;
  readonly address: string;
  /** Requests so far: method, path and range. */
  readonly asked: { method: string; path: string; range: string | undefined }[];
  /** Those whose answers were sent to their end. */
  readonly answered: Site["asked"];
  /** Milliseconds that an answer waits for each megabyte that lies before its first byte. */
  slowness: number;
  /** Pages may share memory with their Workers; true at first. */
  isolated: boolean;
  stop(): Promise<void>;
}

/** Answers a request, or gives false. */
export type Serve = (request: IncomingMessage, response: ServerResponse) => boolean;

/** Serves a folder as the example's server does; `first` may take requests before it. */
export async function serveFolder(folder: string, first: Serve = () => false): Promise<Site> {
  const asked: Site["asked"] = [];
  const answered: Site["asked"] = [];
  const server = createServer((request, response) => {
    const { range } = request.headers;
    const one = { method: request.method!, path: request.url!, range };
    asked.push(one);
    response.on("finish", () => answered.push(one));
    const start = Number(/^bytes=(\d+)/.exec(range ?? "")?.[1] ?? 0);
    if (first(request, response)) return;
    const headers = site.isolated ? undefined : {};
    setTimeout(() => serveFile(folder, request, response, headers), (site.slowness * start) / 1e6);
  });
  // Not closed while it is idle: a browser that posts at that moment gets an error, and does not repeat a POST.
  server.keepAliveTimeout = 0;
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const site: Site = {
    folder,
    slowness: 0,
    isolated: true,
    // A name of this machine that browsers take for secure.
    address: `http://localhost:${(server.address() as AddressInfo).port}`,
    asked,
    answered,
    async stop() {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
  return site;
}

/**
 * The Worker of a page of `serveWorker`, once its script has defined the global of that name: on a busy machine that takes
 * seconds, as some scripts make all tables of cases first.
 */
export async function startWorker(browser: Browser, site: Site, name: string): Promise<Worker> {
  const page = await browser.newPage();
  await page.goto(site.address);
  const started = page.waitForEvent("worker");
  await page.evaluate(`void new Worker("./worker.js", { type: "module" })`);
  const worker = await started;
  await vi.waitUntil(() => worker.evaluate((wanted) => wanted in globalThis, name), { timeout: 60_000, interval: 200 });
  return worker;
}

/** A page with the bundle of a test's script as `worker.js`, which it starts as its Worker or leaves to whoever drives it. */
export async function serveWorker(script: string, start = false, first?: Serve): Promise<Site> {
  const folder = mkdtempSync(join(tmpdir(), "octavo-page-"));
  await build({
    entryPoints: { worker: join(import.meta.dirname, script) },
    outdir: folder,
    bundle: true,
    format: "esm",
    target: "es2022",
    keepNames: true,
    logLevel: "warning",
  });
  const starting = start ? `<script>globalThis.worker = new Worker("./worker.js", { type: "module" })</script>` : "";
  writeFileSync(join(folder, "index.html"), `<!doctype html><title>test</title><link rel=icon href=data:,>${starting}`);
  for (const relaxed of [false, true]) {
    const wasm = findWasm(relaxed);
    if (wasm && existsSync(wasm)) cpSync(wasm, join(folder, wasmFileName(relaxed)));
  }
  const site = await serveFolder(folder, first);
  const { stop } = site;
  return Object.assign(site, {
    async stop() {
      await stop();
      rmSync(folder, { recursive: true, force: true });
    },
  });
}
