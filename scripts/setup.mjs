// Prepares a fresh clone: installs the packages, builds the native add-on, compiles the library. It skips each part whose
// inputs have not changed, by their hashes. Plain Node without packages; it reports its work on stderr and runs no scripts of
// other packages.
//
//   node scripts/setup.mjs [--all | --runnable]
//
// --all builds the add-on for every instruction set level, --runnable for those that this CPU can run; else it is for the
// highest of them alone.

import { spawn, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  unlinkSync,
  writeFileSync,
} from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { bundleNode, isBundled } from "./bundle.mjs";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const modules = join(root, "node_modules");
const lockFile = join(root, "package-lock.json");
const build = join(root, "build");
const guard = join(build, "setup.lock");
const NODE = [20, 19];
const USAGE = `usage: node scripts/setup.mjs [options]

Prepares a checkout: installs the packages, builds the native add-on and, where there is a compiler for it, the WASM modules,
and compiles the library. What has not changed is skipped.

  --all        the add-on for every instruction set level, and not for this CPU's alone
  --runnable   the add-on for every level that this CPU can run, which \`npm test\` tests
  -h, --help   this text
`;
const flags = process.argv.slice(2);
if (flags.includes("--help") || flags.includes("-h")) {
  process.stdout.write(USAGE);
  process.exit(0);
}
for (const flag of flags) {
  if (!["--all", "--runnable"].includes(flag)) fail(`unknown option ${flag}`, "--help lists them");
}
/** A set-up that has held the lock for longer than this counts as dead. */
const PATIENCE_MS = 15 * 60_000;

function say(line) {
  process.stderr.write(`setup: ${line}\n`);
}

function fail(message, hint) {
  process.stderr.write(`error: ${message}\n${hint ? `  hint: ${hint}\n` : ""}`);
  process.exit(1);
}

function hash(...parts) {
  const sum = createHash("sha256");
  for (const part of parts) sum.update(part).update("\0");
  return sum.digest("hex");
}

function text(file) {
  return existsSync(file) ? readFileSync(file, "utf8") : "";
}

function sources(folder) {
  return readdirSync(join(root, folder), { withFileTypes: true })
    .flatMap((entry) => (entry.isDirectory() ? sources(`${folder}/${entry.name}`) : [`${folder}/${entry.name}`]))
    .sort();
}

function checkNode() {
  const [major, minor] = process.versions.node.split(".").map(Number);
  if (major > NODE[0] || (major === NODE[0] && minor >= NODE[1])) return;
  fail(
    `Octavo needs Node ${NODE.join(".")} or newer, this is ${process.versions.node}`,
    "get a newer one from https://nodejs.org, or with nvm: nvm install --lts",
  );
}

/** True if the installed packages match the lock file; additional packages are fine. */
function installedAsLocked() {
  try {
    const wanted = JSON.parse(text(lockFile)).packages;
    const have = JSON.parse(text(join(modules, ".package-lock.json"))).packages;
    return Object.entries(wanted).every(
      ([path, { version, optional }]) => path === "" || optional || have[path]?.version === version,
    );
  } catch {
    return false;
  }
}

/** Runs the npm that started this script, or the one on the path. True if it succeeded. */
function npm(args) {
  say(`installing packages (npm ${args[0]})`);
  const own = process.env.npm_execpath;
  const result = /npm-cli\.c?js$/.test(own ?? "")
    ? spawnSync(process.execPath, [own, ...args], { cwd: root, stdio: ["ignore", 2, 2] })
    : spawnSync("npm", args, { cwd: root, stdio: ["ignore", 2, 2], shell: process.platform === "win32" });
  if (result.error?.code === "ENOENT") fail("npm is not there", "it comes with Node: https://nodejs.org");
  return result.status === 0;
}

function install() {
  const stampFile = join(modules, ".octavo-setup");
  const locked = existsSync(lockFile);
  const stamp = hash(text(locked ? lockFile : join(root, "package.json")));
  if (existsSync(modules)) {
    // A linked folder belongs to another checkout; npm would empty it.
    if (lstatSync(modules).isSymbolicLink() || text(stampFile) === stamp) return;
    if (locked && installedAsLocked()) {
      writeFileSync(stampFile, stamp);
      return;
    }
  }
  // npm ci fails if the registry lacks a package of another platform; npm install goes on.
  const commands = locked ? [["ci"], ["install", "--no-save"]] : [["install"]];
  if (!commands.some((command) => npm([...command, "--ignore-scripts", "--include=dev", "--no-audit", "--no-fund"]))) {
    fail(
      "the packages could not be installed",
      "what npm says above tells why; without a connection it needs a filled cache (npm config get cache)",
    );
  }
  mkdirSync(modules, { recursive: true });
  writeFileSync(stampFile, stamp);
}

/** Prints the output of build-native.mjs, unless nothing changed. */
function buildNative() {
  return new Promise((resolve) => {
    const child = spawn(process.execPath, [join(root, "scripts", "build-native.mjs"), ...flags], {
      cwd: root,
      stdio: ["ignore", 2, "pipe"],
    });
    createInterface({ input: child.stderr }).on("line", (line) => {
      if (!line.endsWith("is up to date")) process.stderr.write(`${line}\n`);
    });
    child.on("error", (error) => fail(`the native add-on could not be built: ${error.message}`));
    child.on("close", (status) => {
      if (status !== 0) fail("the native add-on could not be built; the reason is above");
      resolve();
    });
  });
}

/** Builds the WASM modules if clang and lld are there. They are optional: if the build fails, old modules stay. */
function buildWasm() {
  const args = [join(root, "scripts", "build-wasm.mjs"), "--optional"];
  const { status, stderr } = spawnSync(process.execPath, args, {
    cwd: root,
    stdio: ["ignore", 2, "pipe"],
    encoding: "utf8",
  });
  if (!/are up to date\n$|SKIPPED/.test(stderr)) process.stderr.write(stderr);
  if (status !== 0) say("the WASM build failed and is old now; the reason is above");
}

async function compile() {
  const stampFile = join(build, "dist-stamp");
  const dist = join(root, "dist");
  const require = createRequire(import.meta.url);
  let compiler;
  try {
    compiler = require.resolve("typescript/package.json");
  } catch {
    fail("the TypeScript compiler is not installed", "npm ci --include=dev");
  }
  const files = sources("src");
  const stamp = hash(
    text(join(root, "tsconfig.json")),
    JSON.parse(text(compiler)).version,
    text(join(root, "scripts", "bundle.mjs")),
    text(join(root, "scripts", "chunks.mjs")),
    text(lockFile),
    ...files.flatMap((file) => [file, text(join(root, file))]),
  );
  const outputs = files.filter((file) => /(?<!\.d)\.ts$/.test(file)).map((file) => file.slice(4, -3));
  const there = outputs.every((name) => existsSync(join(dist, `${name}.js`))) && isBundled();
  if (text(stampFile) === stamp && there) return;
  say("compiling the library");
  rmSync(stampFile, { force: true });
  // Output of deleted sources must go, or it would be published.
  rmSync(dist, { recursive: true, force: true });
  const tsc = join(dirname(compiler), "bin", "tsc");
  const result = spawnSync(process.execPath, [tsc, "-p", join(root, "tsconfig.json")], {
    cwd: root,
    stdio: ["ignore", 2, 2],
  });
  if (result.status !== 0) fail("the library could not be compiled", "npm run types shows the same errors");
  await bundleNode();
  writeFileSync(stampFile, stamp);
}

/** Runs `body` under the lock of this checkout. */
async function alone(body) {
  mkdirSync(build, { recursive: true });
  const begin = Date.now();
  for (;;) {
    try {
      writeFileSync(guard, String(process.pid), { flag: "wx" });
      break;
    } catch (error) {
      if (error.code !== "EEXIST") throw error;
      if (abandoned()) rmSync(guard, { force: true });
      else if (Date.now() - begin > PATIENCE_MS) fail("another set-up is still running", `if not, delete ${guard}`);
      else await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }
  // Runs also when `fail` ends the process.
  process.on("exit", () => unlinkSync(guard));
  for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => process.exit(130));
  await body();
}

/** True if the process that wrote the lock is gone. */
function abandoned() {
  try {
    const pid = Number(readFileSync(guard, "utf8"));
    if (!(pid > 0)) return Date.now() - statSync(guard).mtimeMs > 1000;
    process.kill(pid, 0);
    return false;
  } catch (error) {
    return error.code === "ESRCH";
  }
}

checkNode();
await alone(async () => {
  install();
  await buildNative();
  buildWasm();
  await compile();
});
