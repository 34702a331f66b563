// The peers' own folder: pinned versions from the npm registry, install scripts off (the native binaries come as
// packages), GPU builds left out. Nothing of it is a dependency of Octavo.

import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

const LLAMA = "3.22.1";
const ONNX = "1.30.0";
/** CPU builds of node-llama-cpp by platform. */
const BINARIES = {
  "linux-x64": "linux-x64",
  "linux-arm64": "linux-arm64",
  "darwin-x64": "mac-x64",
  "darwin-arm64": "mac-arm64-metal",
  "win32-x64": "win-x64",
  "win32-arm64": "win-arm64",
};

/** @param {string} peer */
function packagesOf(peer) {
  if (peer === "onnx") return { "onnxruntime-node": ONNX };
  if (peer !== "llama.cpp") return {};
  const binary = BINARIES[`${process.platform}-${process.arch}`];
  if (!binary) throw new Error(`node-llama-cpp has no build for ${process.platform} ${process.arch}`);
  return { "node-llama-cpp": LLAMA, [`@node-llama-cpp/${binary}`]: LLAMA };
}

/**
 * Installs what is missing for these peers; gives the folder whose node_modules has it.
 * @param {string} folder @param {readonly string[]} peers @param {(text: string) => void} say
 */
export function install(folder, peers, say) {
  mkdirSync(folder, { recursive: true });
  const wanted = Object.entries(Object.assign({}, ...peers.map(packagesOf)));
  const missing = wanted.filter(([name, version]) => {
    const manifest = join(folder, "node_modules", name, "package.json");
    return !existsSync(manifest) || JSON.parse(readFileSync(manifest, "utf8")).version !== version;
  });
  if (missing.length === 0) return folder;
  const manifest = join(folder, "package.json");
  if (!existsSync(manifest)) writeFileSync(manifest, '{ "private": true }\n');
  const specs = wanted.map(([name, version]) => `${name}@${version}`);
  say(`installing ${specs.join(", ")} into ${folder}`);
  const flags = ["--ignore-scripts", "--omit=optional", "--save-exact", "--no-audit", "--no-fund", "--loglevel=error"];
  const npm = process.platform === "win32" ? "npm.cmd" : "npm";
  const result = spawnSync(npm, ["install", ...flags, ...specs], {
    cwd: folder,
    stdio: ["ignore", 2, 2],
    shell: process.platform === "win32",
  });
  if (result.status !== 0) throw new Error(`npm install failed in ${folder}`);
  return folder;
}
