// Builds the example into a folder that any static server can serve: page, Worker, the WASM module where it is built, and
// the storyteller. `node examples/browser/build.mjs [folder]`

import { cpSync, existsSync, mkdirSync, readFileSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";

const here = dirname(fileURLToPath(import.meta.url));
const root = join(here, "..", "..");
/** A browser loads the one that fits it. */
const MODULES = ["octavo-relaxed.wasm", "octavo.wasm"];
const STATIC = ["index.html", "style.css"];

/** Those of the modules that are not built. */
export function missingModules() {
  return MODULES.filter((name) => !existsSync(join(root, "build", name)));
}

/**
 * @param {string} [folder]
 * @returns {Promise<{ folder: string, gzipped: Record<string, number>, wasm: number | undefined }>} bytes after gzip of
 * what the page loads before any model, by file; and of the WASM module, which only devices without WebGPU load
 */
export async function build(folder = join(here, "dist")) {
  const { build: bundle } = await import("esbuild"); // not before it is needed: a fresh clone has no packages yet
  mkdirSync(folder, { recursive: true });
  await bundle({
    entryPoints: [join(here, "main.ts"), join(here, "worker.ts")],
    outdir: folder,
    bundle: true,
    minify: true,
    format: "esm",
    target: "es2022",
    tsconfig: join(root, "tsconfig.browser.json"),
    sourcemap: "linked",
    logLevel: "warning",
  });
  for (const name of STATIC) cpSync(join(here, name), join(folder, name));
  cpSync(join(root, "models", "storyteller"), join(folder, "models", "storyteller"), { recursive: true });
  const missing = missingModules();
  const modules = MODULES.filter((name) => !missing.includes(name));
  for (const name of modules) cpSync(join(root, "build", name), join(folder, name));
  const gzip = (name) => gzipSync(readFileSync(join(folder, name)), { level: 9 }).length;
  const gzipped = Object.fromEntries([...STATIC, "main.js", "worker.js"].map((name) => [name, gzip(name)]));
  return { folder, gzipped, wasm: modules.length > 0 ? gzip(modules[0]) : undefined };
}

/** @param {Awaited<ReturnType<typeof build>>} built */
export function describe({ folder, gzipped, wasm }) {
  const kb = (bytes) => `${(bytes / 1000).toFixed(1)} kB`;
  const sum = Object.values(gzipped).reduce((a, b) => a + b, 0);
  const parts = Object.entries(gzipped).map(([name, bytes]) => `${name} ${kb(bytes)}`);
  const module =
    wasm === undefined ? "no octavo.wasm (npm run build:wasm)" : `one of ${MODULES.join(", ")} besides: ${kb(wasm)}`;
  return `${basename(folder)}: ${kb(sum)} gzipped (${parts.join(", ")}); ${module}`;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) console.log(describe(await build(process.argv[2])));
