// Deno and Bun for tests, from their npm packages. They take some 200 MB, so they are optional and lie in a folder of their
// own below build/.
//
//   node scripts/runtimes.mjs             says what is there
//   node scripts/runtimes.mjs --install   installs both first

import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const folder = join(dirname(fileURLToPath(import.meta.url)), "..", "build", "runtimes");
const VERSIONS = { deno: "2.9.6", bun: "1.4.5" };
const libc = process.platform === "linux" ? "-glibc" : "";
const machine = process.arch === "arm64" ? "aarch64" : process.arch;
const PROGRAMS = {
  deno: [`@deno/${process.platform}-${process.arch}${libc}/deno`],
  // The second for processors without AVX2.
  bun: [`bun-${process.platform}-${machine}/bin/bun`, `bun-${process.platform}-x64-baseline/bin/bun`].map(
    (program) => `@oven/${program}`,
  ),
};

/**
 * @param {string} name "deno" or "bun"
 * @returns {string | undefined} the program that this script installed
 */
export function installed(name) {
  return PROGRAMS[name].map((program) => join(folder, "node_modules", program)).find((file) => existsSync(file));
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  if (process.argv.includes("--install")) {
    mkdirSync(folder, { recursive: true });
    writeFileSync(
      join(folder, "package.json"),
      `${JSON.stringify({ private: true, dependencies: VERSIONS }, null, 2)}\n`,
    );
    const args = ["install", "--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock"];
    execFileSync("npm", args, { cwd: folder, stdio: ["ignore", 2, 2], shell: process.platform === "win32" });
  }
  for (const name of Object.keys(PROGRAMS)) {
    const file = installed(name);
    const version = file && /\d[\w.]*/.exec(execFileSync(file, ["--version"], { encoding: "utf8" }))?.[0];
    console.log(`${name}: ${file ? `${version} (${file})` : "not installed"}`);
  }
}
