// Few files from a bundle that is split. esbuild makes a chunk for each set of entries that reach a module, and every `import()` is an entry:
// with a hundred of them, what a program loads at first would come in as many small files, which start slower and compress worse.

import { readFileSync } from "node:fs";
import { resolve } from "node:path";

/**
 * Bundles twice: first to learn what `import()` asks for, then so that each of these modules seems to import what is there before it.
 * esbuild drops such an import, of a module without side effects, but what it leads to is reached by all of them alike: it is one chunk.
 * @param {(options: import("esbuild").BuildOptions) => Promise<{ metafile: import("esbuild").Metafile }>} build
 * @param {import("esbuild").BuildOptions & { absWorkingDir: string }} options with a metafile
 * @param {(file: string) => readonly string[]} before the modules that are loaded before a file, by their whole paths
 */
export async function bundleInFewChunks(build, options, before) {
  const { absWorkingDir: root, entryPoints } = options;
  const { metafile } = await build({ ...options, write: false });
  const later = new Set(
    Object.values(metafile.outputs).flatMap(({ entryPoint: file }) => (file ? [resolve(root, file)] : [])),
  );
  for (const file of Object.values(entryPoints)) later.delete(resolve(root, file));
  const plugin = {
    name: "few chunks",
    setup({ onLoad }) {
      onLoad({ filter: /\.ts$/ }, ({ path }) => {
        const there = later.has(path) ? before(path) : [];
        const imports = there.map((file) => `import ${JSON.stringify(file)};`).join("");
        return imports === "" ? undefined : { contents: imports + readFileSync(path, "utf8"), loader: "ts" };
      });
    },
  };
  return build({ ...options, plugins: [plugin], logOverride: { "ignored-bare-import": "silent" } });
}
