// Bundles the command line with esbuild, dist/bin/octavo.js and its parts in dist/node/, and for a package that is published the
// library too. Some 600 files become a few dozen, the packages that they need are inside, and a start costs less. Types, and files for browsers,
// are what the TypeScript compiler writes to dist/.
//
//   node scripts/bundle.mjs

import { existsSync, readFileSync, rmSync } from "node:fs";
import { dirname, join, sep } from "node:path";
import { fileURLToPath } from "node:url";
import { bundleInFewChunks } from "./chunks.mjs";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const { peerDependencies } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));

const COMMAND_LINE = { "bin/octavo": "src/cli/main.ts" };

/** What is bundled for Node: the file of each entry below dist/, without its ending, and its source. */
export const NODE_ENTRIES = {
  ...COMMAND_LINE,
  "node/index": "src/index.ts",
  "node/nn": "src/nn.ts",
  "node/train": "src/train.ts",
  "node/bnb": "src/bnb/index.ts",
  "node/bnb-optim": "src/bnb/optim/index.ts",
  "node/eval": "src/eval/index.ts",
};

/** What does not come after the library: commands need little of it, and those that show a bar would have all of it with the bar. */
const ALONE = [join(root, "src", "cli") + sep, join(root, "src", "hub", "bar.ts")];

/** The same for browsers, of a package that is published: a checkout has the files that the compiler writes. */
export const WEB_ENTRIES = {
  "web/index": "src/browser.ts",
  "web/worker": "src/browser/worker.ts",
  "web/nn": "src/nn/index.ts",
  "web/train": "src/train/index.ts",
};

const COMMON = {
  absWorkingDir: root,
  bundle: true,
  splitting: true,
  format: "esm",
  // Optional packages, which a project may have in any version.
  external: Object.keys(peerDependencies),
  keepNames: true,
  minifySyntax: true,
  minifyWhitespace: true,
  lineLimit: 160,
  legalComments: "none",
  metafile: true,
  logLevel: "warning",
};

/**
 * Bundles the entries for Node. Names stay, and so do lines that an editor can show: both are in stack traces.
 * @param {{ outdir?: string, published?: boolean }} [options] what is published has short names inside of functions, and no
 * maps: those lead to src/
 * @returns esbuild's metafile
 */
export async function bundleNode({ outdir = join(root, "dist"), published = false } = {}) {
  const { build } = await import("esbuild");
  for (const folder of ["bin", "node"]) rmSync(join(outdir, folder), { recursive: true, force: true });
  const options = {
    ...COMMON,
    // Programs that import a checkout get the files that the compiler writes.
    entryPoints: published ? NODE_ENTRIES : COMMAND_LINE,
    outdir,
    // All chunks lie two folders below the package, as the sources of the command line do: paths by `import.meta.url` stay right.
    chunkNames: "node/[name]-[hash]",
    platform: "node",
    target: "node20.19",
    minifyIdentifiers: published,
    sourcemap: published ? false : "linked",
    sourcesContent: false,
    // Packages of CommonJS ask for Node's modules.
    banner: {
      js: 'import{createRequire as __require_of}from"node:module";const require=__require_of(import.meta.url);',
    },
  };
  // Parts of the library come after it.
  const { metafile } = await bundleInFewChunks(build, options, (file) =>
    ALONE.some((path) => file.startsWith(path)) ? [] : [join(root, NODE_ENTRIES["node/index"])],
  );
  return metafile;
}

/** Bundles the entries for browsers. @returns esbuild's metafile */
export async function bundleWeb({ outdir }) {
  const { build } = await import("esbuild");
  const options = {
    ...COMMON,
    entryPoints: WEB_ENTRIES,
    outdir,
    chunkNames: "web/[name]-[hash]",
    platform: "browser",
    target: "es2022",
    minifyIdentifiers: true,
  };
  const { metafile } = await bundleInFewChunks(build, options, () => [join(root, WEB_ENTRIES["web/worker"])]);
  return metafile;
}

/** True if the bundle of a checkout is there. */
export function isBundled() {
  return Object.keys(COMMAND_LINE).every((name) => existsSync(join(root, "dist", `${name}.js`)));
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await bundleNode();
