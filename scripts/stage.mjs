// Lays out the packages as they are published, each in a folder of its own: octavo (bundled, with its types and the WASM
// modules), one for each platform whose add-on is built, and the storyteller. scripts/release.mjs packs them.

import { execFileSync } from "node:child_process";
import { cpSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { bundleNode, bundleWeb, NODE_ENTRIES, WEB_ENTRIES } from "./bundle.mjs";

export const root = dirname(dirname(fileURLToPath(import.meta.url)));
const own = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
export const { version } = own;

/** Platforms with a package, and npm's words for them. */
export const PLATFORMS = {
  "linux-x64-gnu": { os: "linux", cpu: "x64", libc: "glibc" },
  "linux-x64-musl": { os: "linux", cpu: "x64", libc: "musl" },
  "linux-arm64-gnu": { os: "linux", cpu: "arm64", libc: "glibc" },
  "linux-arm64-musl": { os: "linux", cpu: "arm64", libc: "musl" },
  "win32-x64": { os: "win32", cpu: "x64" },
  "darwin-arm64": { os: "darwin", cpu: "arm64" },
  "darwin-x64": { os: "darwin", cpu: "x64" },
};

export const addonOf = (target) => join(root, "build", `octavo-${target}.node`);

/** The bundle of each file that package.json exports. */
const BUNDLES = new Map(
  Object.entries({ ...NODE_ENTRIES, ...WEB_ENTRIES }).map(([bundle, source]) => [
    source.replace(/^src\/(.*)\.ts$/, "./dist/$1.js"),
    `./dist/${bundle}.js`,
  ]),
);

/** The exports of package.json, with the bundles instead of the compiler's files. */
function bundledExports() {
  const isCode = (value) => typeof value === "string" && /^\.\/dist\/.*\.js$/.test(value);
  return JSON.parse(JSON.stringify(own.exports), (_, value) => {
    if (!isCode(value) || [...BUNDLES.values()].includes(value)) return value;
    if (!BUNDLES.has(value)) throw new Error(`package.json exports ${value}, which is not bundled`);
    return BUNDLES.get(value);
  });
}

/** The package.json of octavo, as it is published. */
function manifest(targets) {
  const { name, description, keywords, license, type, engines, sideEffects, peerDependencies, peerDependenciesMeta } =
    own;
  return {
    ...{ name, version, description, keywords, license, type, engines, sideEffects },
    bin: { octavo: "dist/bin/octavo.js" },
    exports: bundledExports(),
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
    const text = readFileSync(join(root, "dist", file), "utf8").replace(/\n\/\/# sourceMappingURL=.*\n?$/, "\n");
    for (const [, target] of text.matchAll(/(?:from|import)\s*\(?\s*"(\.[^"]+)"/g)) {
      visit(join(dirname(file), target.replace(/\.js$/, ".d.ts")));
    }
    write(join(folder, "dist", file), text);
  };
  for (const [, types] of JSON.stringify(own.exports).matchAll(/"types":"\.\/dist\/([^"]+)"/g)) visit(types);
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
  // What README links to lies beside it.
  const beside = ["README.md", "CHANGELOG.md", "LICENSE", "docs", "examples/browser/screenshot.png"];
  for (const name of [...beside, "build/octavo.wasm", "build/octavo-relaxed.wasm"]) {
    cpSync(join(root, name), join(folder, name), { recursive: true });
  }
  write(join(folder, "THIRD-PARTY.md"), licences(...metafiles));
  write(join(folder, "package.json"), json(manifest(targets)));
}

/** What a platform's package says: its README and its package.json. */
export function describePlatform(target) {
  const { os, cpu, libc } = PLATFORMS[target];
  const name = { linux: "Linux", win32: "Windows", darwin: "macOS" }[os];
  const where = `${name} on ${cpu}${libc ? ` with ${libc}` : ""}`;
  const lines = [
    `# @octavo/${target}\n`,
    `The native kernels of [octavo](https://www.npmjs.com/package/octavo) for ${where}. npm installs`,
    "it with octavo; nothing else is to be done.\n",
  ];
  // No machine that links it can run it; `octavo doctor` says on a user's whether it computes as it should.
  if (os === "darwin")
    lines.push("It was linked for macOS, and not run there: please report what `npx octavo doctor` says.\n");
  return {
    readme: lines.join("\n"),
    manifest: {
      name: `@octavo/${target}`,
      version,
      description: `Native kernels of octavo for ${where}`,
      license: own.license,
      ...{ os: [os], cpu: [cpu], ...(libc && { libc: [libc] }) },
      main: "./octavo.node",
      files: ["octavo.node"],
      preferUnplugged: true,
      engines: own.engines,
    },
  };
}

function stagePlatform(folder, target) {
  const { readme, manifest } = describePlatform(target);
  cpSync(addonOf(target), join(folder, "octavo.node"));
  cpSync(join(root, "LICENSE"), join(folder, "LICENSE"));
  write(join(folder, "README.md"), readme);
  write(join(folder, "package.json"), json(manifest));
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
 * Lays out all packages below a folder, which is emptied.
 * @param targets platforms whose add-ons are built
 * @returns their folders, in the order in which they are to be published: what octavo needs comes first
 */
export async function stage(out, targets) {
  rmSync(out, { recursive: true, force: true });
  const folders = [...targets.map((target) => join(out, target)), join(out, "storyteller"), join(out, "octavo")];
  for (const target of targets) stagePlatform(join(out, target), target);
  stageStoryteller(join(out, "storyteller"));
  // Only what there is: yarn 1 refuses to install a package if one that it lists, though optional, is not in the registry.
  await stageMain(join(out, "octavo"), targets);
  return folders;
}

/** Packs a folder into a tarball beside it; no script is run. */
export function pack(folder, into) {
  mkdirSync(into, { recursive: true });
  const said = execFileSync("npm", ["pack", folder, "--json", "--ignore-scripts", "--pack-destination", into], {
    encoding: "utf8",
    stdio: ["ignore", "pipe", "inherit"],
  });
  const [{ filename, size, unpackedSize, integrity }] = JSON.parse(said);
  return { file: join(into, filename), name: filename, size, unpackedSize, integrity };
}
