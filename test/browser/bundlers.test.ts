// Pages that others build with the package as it is published: bundlers find the entries, and where the WASM modules are.

import { cpSync, mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { pathToFileURL } from "node:url";
import { build as esbuild } from "esbuild";
import { createServer as serveVite, build as vite } from "vite";
import { beforeAll, expect, test } from "vitest";
import { wasmFileName } from "../../src/backends/wasm/index.js";
import { findWasm } from "../../src/backends/wasm/node.js";
import { wasmFile } from "../../src/browser/wasm-file.js";
import { describeChromium, launchChromium } from "../support/chromium.js";
import { READY_TIMEOUT, ROOT, ready } from "../support/cli.js";
import { whyNoWasm } from "../support/devices.js";
import { STORYTELLER } from "../support/models.js";
import { temporary } from "../support/temporary.js";
import { serveFolder } from "./bundle.js";

const PAGE = `<!doctype html><title>test</title><link rel=icon href=data:,><script type="module" src="./main.js"></script>`;
const MAIN = `
import { WorkerHost } from "octavo/browser";
const host = new WorkerHost(new Worker(new URL("./worker.js", import.meta.url), { type: "module" }));
const load = host.load("./storyteller/", { device: "wasm", load_in_8bit: true });
globalThis.told = load.then(({ description }) =>
  host.generate({ prompt: "Once upon a time", max_new_tokens: 4, do_sample: false }).then(({ text }) => ({ description, text })),
);
`;
const WORKER = `import { serve } from "octavo/browser/worker";\nserve();\n`;
const FILES = { "index.html": PAGE, "main.js": MAIN, "worker.js": WORKER };

let project: string;

beforeAll(async () => {
  await ready();
  project = temporary("project");
  mkdirSync(join(project, "node_modules"), { recursive: true });
  symlinkSync(ROOT, join(project, "node_modules", "octavo"));
  for (const [name, contents] of Object.entries(FILES)) writeFileSync(join(project, name), contents);
}, READY_TIMEOUT);

test("the modules are looked for in the package where it is served as it is, else beside the bundle", async () => {
  expect(wasmFile()).toEqual(pathToFileURL(join(ROOT, "build", wasmFileName())));
  const outfile = join(project, "bundle", "script.mjs");
  const entry = join(ROOT, "src", "browser", "wasm-file.ts");
  await esbuild({ entryPoints: [entry], outfile, bundle: true, format: "esm", logLevel: "warning" });
  const { wasmFile: bundled } = (await import(outfile)) as { wasmFile: typeof wasmFile };
  expect(bundled()).toEqual(pathToFileURL(join(project, "bundle", wasmFileName())));
});

if (whyNoWasm) test.skip(`bundlers: ${whyNoWasm}`);
else {
  test("esbuild takes the modules by their names in the package", async () => {
    const outdir = join(project, "by-name");
    const contents = `import plain from "octavo/octavo.wasm"; import relaxed from "octavo/octavo-relaxed.wasm"; export { plain, relaxed };`;
    const stdin = { contents, resolveDir: project };
    await esbuild({ stdin, outdir, bundle: true, format: "esm", loader: { ".wasm": "file" }, logLevel: "warning" });
    expect(readdirSync(outdir).filter((name) => /^octavo(-relaxed)?-\w+\.wasm$/.test(name))).toHaveLength(2);
  });

  describeChromium("a page of Vite's development server, without any configuration", () => {
    test("finds the module in the package, though Vite moves the script", async () => {
      // Installed, and not linked: Vite bundles only such packages beforehand.
      const installed = temporary("installed");
      const modules = join(installed, "node_modules");
      mkdirSync(join(modules, "octavo", "build"), { recursive: true });
      cpSync(join(ROOT, "dist"), join(modules, "octavo", "dist"), { recursive: true });
      cpSync(join(ROOT, "package.json"), join(modules, "octavo", "package.json"));
      for (const relaxed of [false, true]) {
        cpSync(findWasm(relaxed)!, join(modules, "octavo", "build", wasmFileName(relaxed)));
      }
      const { dependencies } = JSON.parse(readFileSync(join(ROOT, "package.json"), "utf8"));
      for (const name of Object.keys(dependencies)) {
        mkdirSync(dirname(join(modules, name)), { recursive: true });
        symlinkSync(join(ROOT, "node_modules", name), join(modules, name));
      }
      for (const [name, contents] of Object.entries(FILES)) writeFileSync(join(installed, name), contents);
      cpSync(STORYTELLER, join(installed, "public", "storyteller"), { recursive: true });
      const server = await serveVite({ root: installed, configFile: false, logLevel: "error", server: { port: 0 } });
      const browser = await launchChromium();
      try {
        await server.listen();
        const page = await browser.newPage();
        const asked: string[] = [];
        page.context().on("request", (request) => asked.push(new URL(request.url()).pathname));
        await page.goto(server.resolvedUrls!.local[0]!);
        // Vite reloads the page once it has bundled what it found.
        await page.waitForFunction(`globalThis.told?.then(() => true)`, null, { timeout: 120_000 });
        const told = (await page.evaluate(`globalThis.told`)) as { description: string; text: string };
        expect(told.description).toMatch(/^WebAssembly/);
        expect(told.text.length).toBeGreaterThan(4);
        expect(asked.find((path) => path.startsWith("/node_modules/.vite/deps/octavo_browser_worker"))).toBeDefined();
        const modulesAsked = new Set(asked.filter((path) => path.endsWith(".wasm")));
        expect(modulesAsked).toEqual(new Set([`/node_modules/octavo/build/${wasmFileName(true)}`]));
      } finally {
        await browser.close();
        await server.close();
      }
    });
  });

  describeChromium("a page that Vite built, without any configuration", () => {
    test("copies both modules, loads the one that fits, and runs", async () => {
      const folder = join(project, "dist");
      await vite({ root: project, configFile: false, logLevel: "warn", build: { outDir: folder } });
      cpSync(STORYTELLER, join(folder, "storyteller"), { recursive: true });
      const site = await serveFolder(folder);
      const browser = await launchChromium();
      try {
        const page = await browser.newPage();
        await page.goto(site.address);
        await page.waitForFunction(`globalThis.told !== undefined`);
        const told = (await page.evaluate(`globalThis.told`)) as { description: string; text: string };
        expect(told.description).toMatch(/^WebAssembly with relaxed SIMD/);
        expect(told.text.length).toBeGreaterThan(4);
        const modules = site.asked.filter(({ path }) => path.endsWith(".wasm")).map(({ path }) => path);
        expect(modules).toEqual([expect.stringMatching(/^\/assets\/octavo-relaxed-[\w-]+\.wasm$/)]);
        expect(readdirSync(join(folder, "assets")).filter((name) => name.endsWith(".wasm"))).toHaveLength(2);
      } finally {
        await browser.close();
        await site.stop();
      }
    });
  });
}
