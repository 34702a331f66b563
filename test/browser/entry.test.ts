// What a browser gets: nothing of Node's in its import graph, and a bundle that is small.

import { cpSync, readFileSync, writeFileSync } from "node:fs";
import { join, relative } from "node:path";
import { build as bundle } from "esbuild";
import { expect, test } from "vitest";
// @ts-expect-error a script without types
import { build as buildOf, describe as describeOf } from "../../examples/browser/build.mjs";
// @ts-expect-error a script without types
import { ENTRIES, browserGraph as graphOf } from "../../scripts/check-browser.mjs";
import * as browser from "../../src/browser.js";
import * as node from "../../src/index.js";
import { ROOT, run } from "../support/cli.js";
import { temporary } from "../support/temporary.js";

interface Built {
  readonly gzipped: Readonly<Record<string, number>>;
  readonly writing: number;
  readonly later: number;
}
const build = buildOf as (folder: string) => Promise<Built>;
const describeBuilt = describeOf as (built: Built) => string;
const browserGraph = graphOf as (entries: readonly string[]) => { files: string[]; breaches: string[] };

test("the browser's entries reach nothing of Node's", () => {
  const { files, breaches } = browserGraph(ENTRIES as string[]);
  expect(breaches).toEqual([]);
  expect(files).toContain("src/backends/webgpu/index.ts");
  expect(files).not.toContain("src/sources/disk.ts");
});

test("the check finds Node's modules, behind imports and re-exports, and not those of types", () => {
  expect(browserGraph(["src/index.ts"]).breaches.join("\n")).toMatch(/src\/sources\/disk.ts imports node:fs/);
  const file = `${temporary("graph")}.ts`;
  const lines = [
    'import type { A } from "node:os"',
    'import { type B } from "node:path"',
    'export { c } from "node:url"',
  ];
  writeFileSync(file, [...lines, 'void import("node:zlib")', '// import "node:fs"'].join(";\n"));
  const { breaches } = browserGraph([relative(ROOT, file)]);
  expect(breaches.map((breach) => breach.split(" imports ")[1])).toEqual(["node:url", "node:zlib"]);
});

test("package.json leads browsers to that entry", () => {
  const { exports } = JSON.parse(readFileSync(join(ROOT, "package.json"), "utf8"));
  expect(exports["."].browser.default).toBe("./dist/browser.js");
  expect(Object.keys(exports["."])[0]).toBe("browser"); // the first that fits is taken
  expect(exports["./browser"].default).toBe("./dist/browser.js");
  expect(exports["./browser/worker"].default).toBe("./dist/browser/worker.js");
});

test("both entries give the same names, but for what one platform lacks", () => {
  const missing = (of: object, from: object) => Object.keys(of).filter((name) => !(name in from));
  // A cache of files, devices without a promise, and the memory of this machine.
  expect(missing(node, browser).sort()).toEqual([
    "cpu_offload",
    "disk_offload",
    "get_balanced_memory",
    "get_max_memory",
    "infer_auto_device_map",
    "load_checkpoint_and_dispatch",
    "openDevice",
    "pull",
    "pushFolder",
  ]);
  expect(missing(browser, node).sort()).toEqual(["WorkerHost", "cacheSize", "clearCache"]);
});

test("page and Worker of the example are under 124 kB after gzip, and what the first text needs besides is under 127 kB", async () => {
  const built = await build(temporary("example"));
  console.log(describeBuilt(built));
  const sum = Object.values(built.gzipped).reduce((a, b) => a + b, 0);
  // What looks at a model before anything of it is downloaded: its sizes, the devices, the cache.
  expect(sum).toBeLessThan(124_000);
  // Loading, tokenizing, generating on WebAssembly. Not templates, grammars, adapters, training, other tasks, PyTorch's and packed files.
  expect(built.writing).toBeLessThan(127_000);
  expect(built.later).toBeLessThan(440_000); // with some sixty architectures and the shaders
  // What is there before the Worker has been asked for anything.
  expect(built.gzipped["main.js"]).toBeLessThan(20_000);
});

test("errors keep their names where a bundler shortens those of classes", async () => {
  const contents = `import { OctavoError, OptionError } from "./src/core/error-classes.ts";
    class OwnError extends OptionError {}
    export const names = [new OctavoError("ERR_X", "x"), new OptionError("x"), new OwnError("x")].map(({ name }) => name);`;
  const { outputFiles } = await bundle({
    stdin: { contents, resolveDir: ROOT },
    bundle: true,
    minify: true,
    format: "esm",
    write: false,
  });
  const file = `${temporary("names")}.mjs`;
  writeFileSync(file, outputFiles[0]!.text);
  const { names } = (await import(file)) as { names: string[] };
  expect(names.slice(0, 2)).toEqual(["OctavoError", "OptionError"]);
  expect(names[2]).not.toBe("OptionError");
});

test("the example's server refuses to build a page without WebAssembly, at once and with the command to type", async () => {
  // A checkout in which nothing is built, and no package installed.
  const checkout = temporary("checkout");
  cpSync(join(ROOT, "examples"), join(checkout, "examples"), { recursive: true });
  const serve = join(checkout, "examples", "browser", "serve.mjs");
  expect(await run([serve, "--build", "--port", "0"])).toEqual({
    code: 1,
    stdout: "",
    stderr: expect.stringMatching(/^error: there is no build\/octavo\S*\.wasm, .*`npm run build:wasm`.* --no-wasm\n$/),
  });
  // Without it the way goes on, here to the set-up, which this checkout lacks.
  const { stderr } = await run([serve, "--build", "--no-wasm", "--port", "0"]);
  expect(stderr).toContain("setup.mjs");
  expect(stderr).not.toContain("there is no build/");
});

test("requestDevice refuses options that a device does not have, as it does in Node", async () => {
  const { requestDevice } = await import("../../src/browser/platform.js");
  for (const [name, options, words] of [
    ["webgpu", { threads: 4 }, 'threads cannot be chosen for device "webgpu"'],
    ["reference", { threads: 4 }, 'threads cannot be chosen for device "reference"'],
    ["wasm", { thread: 4 }, "unknown option `thread`; did you mean `threads`?"],
    ["wasm", { isa: "avx2" }, "unknown option `isa`"],
    ["reference", null, "options must be an object, got null"],
  ] as const) {
    await expect(requestDevice(name, options as object), `${name} ${JSON.stringify(options)}`).rejects.toThrow(words);
  }
  await using device = await requestDevice("reference", { threads: undefined });
  expect(device.name).toBe("reference");
});
