// Builds the example into a folder that any static server can serve: page, Worker, the WASM module where it is built, and
// the storyteller. `node examples/browser/build.mjs [folder]`

import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { basename, dirname, join, relative } from "node:path";
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

/** What the Worker loads when it needs it: shaders, architectures, training, older files. */
const CHUNK = /-[A-Z0-9]{8}\.js(\.map)?$/;

/** What the Worker loads with its first model, and what comes after it. */
const LOADING = join(root, "src", "browser", "held.ts");
const WITH_MODELS = /\/src\/(?:generate|tokenizer|adapters|browser|backends)\//;

/** What comes with the storyteller's first text, on a device without WebGPU. */
const WRITING = [relative(root, LOADING), "src/browser/wasm-device.ts", "src/models/llama.ts"];

/** The files that come with one at once: it, and what it imports before it runs. */
function atOnce(outputs, file, found = new Set()) {
  if (found.has(file)) return found;
  found.add(file);
  for (const { kind, path } of outputs[file].imports) if (kind === "import-statement") atOnce(outputs, path, found);
  return found;
}

/**
 * @param {string} [folder]
 * @returns {Promise<{ folder: string, gzipped: Record<string, number>, writing: number, later: number, wasm: number | undefined }>} bytes after
 * gzip of what the page loads before any model, by file (the Worker's with what it imports at once); of what the first text of the
 * storyteller needs besides; of all that the Worker may load later; and of the WASM module, which only devices without WebGPU load
 */
export async function build(folder = join(here, "dist")) {
  const { bundleInFewChunks } = await import("../../scripts/chunks.mjs");
  const { build: bundle } = await import("esbuild"); // not before it is needed: a fresh clone has no packages yet
  mkdirSync(folder, { recursive: true });
  for (const name of readdirSync(folder)) if (CHUNK.test(name)) rmSync(join(folder, name));
  const common = {
    outdir: folder,
    absWorkingDir: root,
    bundle: true,
    minify: true,
    format: "esm",
    target: "es2022",
    tsconfig: join(root, "tsconfig.browser.json"),
    sourcemap: "linked",
    logLevel: "warning",
    metafile: true,
  };
  // Apart from each other: what both need would else be one chunk with all that the Worker alone needs.
  await bundle({ ...common, entryPoints: [join(here, "main.ts")] });
  const first = join(here, "worker.ts");
  const worker = {
    ...common,
    entryPoints: [first],
    splitting: true,
    // All in one folder: octavo.wasm lies beside the script that asks for it.
    chunkNames: "[name]-[hash]",
  };
  const { metafile } = await bundleInFewChunks(bundle, worker, (file) =>
    file !== LOADING && WITH_MODELS.test(file) ? [first, LOADING] : [first],
  );
  for (const name of STATIC) cpSync(join(here, name), join(folder, name));
  cpSync(join(root, "models", "storyteller"), join(folder, "models", "octavo", "storyteller"), { recursive: true });
  const missing = missingModules();
  const modules = MODULES.filter((name) => !missing.includes(name));
  for (const name of modules) cpSync(join(root, "build", name), join(folder, name));
  const gzip = (path) => gzipSync(readFileSync(path), { level: 9 }).length;
  const sum = (paths) => paths.reduce((bytes, path) => bytes + gzip(join(root, path)), 0);
  const scripts = Object.keys(metafile.outputs).filter((path) => path.endsWith(".js"));
  const atFirst = atOnce(metafile.outputs, relative(root, join(folder, "worker.js")));
  const gzipped = Object.fromEntries([...STATIC, "main.js"].map((name) => [name, gzip(join(folder, name))]));
  const entryOf = (path) => scripts.find((script) => metafile.outputs[script].entryPoint === path);
  const writing = new Set(atFirst);
  for (const path of WRITING) atOnce(metafile.outputs, entryOf(path), writing);
  return {
    folder,
    gzipped: { ...gzipped, "worker.js": sum([...atFirst]) },
    writing: sum([...writing].filter((path) => !atFirst.has(path))),
    later: sum(scripts.filter((path) => !atFirst.has(path))),
    wasm: modules.length > 0 ? gzip(join(folder, modules[0])) : undefined,
  };
}

/** @param {Awaited<ReturnType<typeof build>>} built */
export function describe({ folder, gzipped, writing, later, wasm }) {
  const kb = (bytes) => `${(bytes / 1000).toFixed(1)} kB`;
  const sum = Object.values(gzipped).reduce((a, b) => a + b, 0);
  const parts = Object.entries(gzipped).map(([name, bytes]) => `${name} ${kb(bytes)}`);
  const module =
    wasm === undefined ? "no octavo.wasm (npm run build:wasm)" : `one of ${MODULES.join(", ")} besides: ${kb(wasm)}`;
  return `${basename(folder)}: ${kb(sum)} gzipped (${parts.join(", ")}), ${kb(writing)} more with the first text, ${kb(later)} on demand in all; ${module}`;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) console.log(describe(await build(process.argv[2])));
