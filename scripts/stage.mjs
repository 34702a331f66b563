// Lays out the packages as they are published, each in a folder of its own: octavo (bundled, with its types and the WASM
// modules), one for each platform whose add-on is built, and the storyteller. scripts/release.mjs packs them.

import { execFileSync } from "node:child_process";
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { bundleNode, bundleWeb } from "./bundle.mjs";

export const root = dirname(dirname(fileURLToPath(import.meta.url)));
const own = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
export const { version } = own;

/** Platforms with a package, and npm's words for them. */
export const PLATFORMS = {
  "linux-x64-gnu": { os: "linux", cpu: "x64", libc: "glibc" },
  "linux-x64-musl": { os: "linux", cpu: "x64", libc: "musl" },
  "linux-arm64-gnu": { os: "linux", cpu: "arm64", libc: "glibc" },
  "linux-arm64-musl": { os: "linux", cpu: "arm64", libc: "musl" },
};

export const addonOf = (target) => join(root, "build", `octavo-${target}.node`);

/** Where the types of each public path begin, and what runs there: in Node, and in a browser if that is another file. */
const EXPORTS = {
  ".": { node: ["index", "node/index"], web: ["browser", "web/index"] },
  "./browser": { web: ["browser", "web/index"] },
  "./browser/worker": { web: ["browser/worker", "web/worker"] },
  "./nn": { node: ["nn", "node/nn"], web: ["nn/index", "web/nn"] },
  "./bnb": { node: ["bnb/index", "node/bnb"] },
  "./bnb/optim": { node: ["bnb/optim/index", "node/bnb-optim"] },
  "./train": { node: ["train", "node/train"], web: ["train/index", "web/train"] },
  "./eval": { node: ["eval/index", "node/eval"] },
};

const entry = ([types, file]) => ({ types: `./dist/${types}.d.ts`, default: `./dist/${file}.js` });

/** The package.json of octavo, as it is published. */
function manifest(targets) {
  const { name, description, keywords, license, type, engines, sideEffects, peerDependencies, peerDependenciesMeta } =
    own;
  const paths = Object.entries(EXPORTS).map(([path, { node, web }]) => [
    path,
    node && web ? { browser: entry(web), ...entry(node) } : entry(node ?? web),
  ]);
  return {
    ...{ name, version, description, keywords, license, type, engines, sideEffects },
    bin: { octavo: "dist/bin/octavo.js" },
    exports: {
      ...Object.fromEntries(paths),
      "./octavo.wasm": "./build/octavo.wasm",
      "./octavo-relaxed.wasm": "./build/octavo-relaxed.wasm",
      "./package.json": "./package.json",
    },
    // Exact: an add-on has the kernels of its own version.
    optionalDependencies: Object.fromEntries(targets.map((target) => [`@octavo/${target}`, version])),
    ...{ peerDependencies, peerDependenciesMeta },
  };
}

function write(file, content) {
  mkdirSync(dirname(file), { recursive: true });
  writeFileSync(file, content);
}

const json = (value) => `${JSON.stringify(value, undefined, 2)}\n`;

/** Copies the declarations that the public paths lead to. */
function stageTypes(folder) {
  const seen = new Set();
  const visit = (file) => {
    if (seen.has(file)) return;
    seen.add(file);
    let text = readFileSync(join(root, "dist", file), "utf8").replace(/\n\/\/# sourceMappingURL=.*\n?$/, "\n");
    for (const [, target] of text.matchAll(/(?:from|import)\s*\(?\s*"(\.[^"]+)"/g)) {
      visit(join(dirname(file), target.replace(/\.js$/, ".d.ts")));
    }
    if (text.includes('"zod"')) {
      // The one type that is used of the bundled library, for tables of options that nobody outside can make.
      const rest = text.replace(
        'import * as z from "zod";',
        "declare namespace z {\n    interface ZodType<T> {\n        readonly _output: T;\n    }\n}",
      );
      if (/from "zod"|\bz\.(?!ZodType<)/.test(rest)) throw new Error(`${file} needs more of zod's types`);
      text = rest;
    }
    write(join(folder, "dist", file), text);
  };
  for (const { node, web } of Object.values(EXPORTS))
    for (const [types] of [node, web].filter(Boolean)) visit(`${types}.d.ts`);
}

/** The licences of the packages whose code the bundles hold. */
function licences(...metafiles) {
  const folders = new Set();
  for (const { inputs } of metafiles) {
    for (const file of Object.keys(inputs)) {
      const found = /^(.*node_modules\/(?:@[^/]+\/)?[^/]+)\//.exec(file);
      if (found) folders.add(found[1]);
    }
  }
  const parts = [...folders].sort().map((folder) => {
    const { name, version, license } = JSON.parse(readFileSync(join(root, folder, "package.json"), "utf8"));
    const file = readdirSync(join(root, folder)).find((one) => /^(licen[cs]e|copying)(\.|$)/i.test(one));
    const text = file ? readFileSync(join(root, folder, file), "utf8").trim() : `Licence: ${license}`;
    return `## ${name} ${version} (${license})\n\n${text}\n`;
  });
  return `# Other people's work in this package\n\nThe bundles in dist/ hold code of these packages.\n\n${parts.join("\n")}`;
}

async function stageMain(folder, targets) {
  const outdir = join(folder, "dist");
  const metafiles = [await bundleNode({ outdir, published: true }), await bundleWeb({ outdir })];
  stageTypes(folder);
  for (const name of ["README.md", "CHANGELOG.md", "LICENSE", "build/octavo.wasm", "build/octavo-relaxed.wasm"]) {
    cpSync(join(root, name), join(folder, name));
  }
  write(join(folder, "THIRD-PARTY.md"), licences(...metafiles));
  write(join(folder, "package.json"), json(manifest(targets)));
}

function stagePlatform(folder, target) {
  const { os, cpu, libc } = PLATFORMS[target];
  cpSync(addonOf(target), join(folder, "octavo.node"));
  cpSync(join(root, "LICENSE"), join(folder, "LICENSE"));
  write(
    join(folder, "README.md"),
    `# @octavo/${target}\n\nThe native kernels of [octavo](https://www.npmjs.com/package/octavo) for ${os} on ${cpu} with ${libc}. npm installs\nit with octavo; nothing else is to be done.\n`,
  );
  write(
    join(folder, "package.json"),
    json({
      name: `@octavo/${target}`,
      version,
      description: `Native kernels of octavo for ${os} ${cpu} (${libc})`,
      license: own.license,
      ...{ os: [os], cpu: [cpu], libc: [libc] },
      main: "./octavo.node",
      files: ["octavo.node"],
      preferUnplugged: true,
      engines: own.engines,
    }),
  );
}

function stageStoryteller(folder) {
  for (const name of ["storyteller", "storyteller-eval.txt", "storyteller-cloze.jsonl"]) {
    cpSync(join(root, "models", name), join(folder, name), { recursive: true });
  }
  cpSync(join(root, "LICENSE"), join(folder, "LICENSE"));
  write(
    join(folder, "README.md"),
    "# @octavo/storyteller\n\nA small model that tells stories, and the texts that it is measured on: `octavo/storyteller` of the package\n[octavo](https://www.npmjs.com/package/octavo).\n",
  );
  write(
    join(folder, "package.json"),
    json({
      name: "@octavo/storyteller",
      version,
      description: "The small model that octavo's examples begin with",
      license: own.license,
      files: ["storyteller", "storyteller-eval.txt", "storyteller-cloze.jsonl"],
    }),
  );
}

/**
 * Lays out all packages whose parts are built below a folder, which is emptied.
 * @returns their folders, in the order in which they are to be published: what octavo needs comes first
 */
export async function stage(out) {
  rmSync(out, { recursive: true, force: true });
  const targets = Object.keys(PLATFORMS).filter((target) => existsSync(addonOf(target)));
  const folders = [...targets.map((target) => join(out, target)), join(out, "storyteller"), join(out, "octavo")];
  for (const target of targets) stagePlatform(join(out, target), target);
  stageStoryteller(join(out, "storyteller"));
  // Only what there is: yarn 1 refuses to install a package if one that it lists, though optional, is not in the registry.
  await stageMain(join(out, "octavo"), targets);
  return { folders, targets };
}

/** Packs a folder into a tarball beside it; no script is run. */
export function pack(folder, into) {
  mkdirSync(into, { recursive: true });
  const said = execFileSync("npm", ["pack", folder, "--json", "--ignore-scripts", "--pack-destination", into], {
    encoding: "utf8",
    stdio: ["ignore", "pipe", "inherit"],
  });
  const [{ filename, size, unpackedSize, integrity }] = JSON.parse(said);
  return { file: join(into, filename), name: relative(into, join(into, filename)), size, unpackedSize, integrity };
}
