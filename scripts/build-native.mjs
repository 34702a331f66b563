// Builds the native add-on: native/*.cpp once, native/kernels/*.cpp for the best instruction set level of this CPU or, with
// --all, for every level, linked into build/octavo.node. Needs Node, a C++17 compiler and the `node-api-headers` package;
// nothing is downloaded.
//
//   node scripts/build-native.mjs [--all | --runnable] [--quiet] [--force] [--sanitize=address,undefined] [--only=portable,avx512]
//                                 [--target=linux-arm64-gnu]
//
// --target builds for another platform into build/octavo-<target>.node: CXX compiles the kernels, and CXX_PLATFORM all that
// touches the system, and links. scripts/release.mjs names both.
// A build with --all runs on any CPU of its architecture, and is not replaced by a smaller one: what is there stays whole.
// CXX names the compiler. An object is rebuilt when its source, a header it includes, or its command line changed.
// --sanitize and --only build into a folder of their own (build/octavo-<tag>.node) and leave the usual build alone.
// The native tests run on such a build so (libtsan.so for --sanitize=thread):
//
//   OCTAVO_ADDON=$PWD/build/octavo-address-undefined.node ASAN_OPTIONS=detect_leaks=0 \
//   LD_PRELOAD="$(g++ -print-file-name=libasan.so) $(g++ -print-file-name=libstdc++.so.6)" npx vitest run test/native

import { spawn, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { availableParallelism, cpus } from "node:os";
import { basename, delimiter, dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { keepAddon } from "./kept-addon.mjs";
import { precompile } from "./precompiled.mjs";

const root = dirname(dirname(fileURLToPath(import.meta.url)));

// Flags of each level, lowest first; native/cpu.cpp holds the same names and decides at run time.
const X86_512 = ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512vnni"];
const AVX2 = ["-mavx2", "-mfma", "-mf16c", "-mbmi", "-mbmi2"];
const LEVELS = {
  x64: {
    portable: [],
    avx2: AVX2,
    avxvnni: [...AVX2, "-mavxvnni"],
    avx512: [...AVX2, ...X86_512],
    avx512bf16: [...AVX2, ...X86_512, "-mavx512bf16"],
    amx: [...AVX2, ...X86_512, "-mavx512bf16", "-mamx-tile", "-mamx-int8", "-mamx-bf16"],
  },
  arm64: {
    neon: [],
    dotprod: ["-march=armv8.2-a+dotprod+fp16"],
    i8mm: ["-march=armv8.2-a+dotprod+fp16+i8mm"],
  },
};
/**
 * The levels from the lowest to a CPU's own, with macros that a compiler which tunes for that CPU defines. The last entry
 * whose macros are all there is the CPU's.
 */
const AVX2_MACROS = ["__AVX2__", "__FMA__", "__F16C__", "__BMI__", "__BMI2__"];
const AVX512_MACROS = ["F", "BW", "DQ", "VL", "VNNI"].map((name) => `__AVX512${name}__`);
const LADDERS = {
  x64: [
    [["portable"], []],
    [["portable", "avx2"], AVX2_MACROS],
    [
      ["portable", "avx2", "avxvnni"],
      [...AVX2_MACROS, "__AVXVNNI__"],
    ],
    [
      ["portable", "avx2", "avx512"],
      [...AVX2_MACROS, ...AVX512_MACROS],
    ],
    [
      ["portable", "avx2", "avx512", "avx512bf16"],
      [...AVX2_MACROS, ...AVX512_MACROS, "__AVX512BF16__"],
    ],
    [
      ["portable", "avx2", "avx512", "avx512bf16", "amx"],
      [...AVX2_MACROS, ...AVX512_MACROS, "__AVX512BF16__", "__AMX_TILE__", "__AMX_INT8__", "__AMX_BF16__"],
    ],
  ],
  arm64: [
    [["neon"], []],
    [
      ["neon", "dotprod"],
      ["__ARM_FEATURE_DOTPROD", "__ARM_FEATURE_FP16_VECTOR_ARITHMETIC"],
    ],
    [
      ["neon", "dotprod", "i8mm"],
      ["__ARM_FEATURE_DOTPROD", "__ARM_FEATURE_FP16_VECTOR_ARITHMETIC", "__ARM_FEATURE_MATMUL_INT8"],
    ],
  ],
};
/** Matrix units sum in another order, so a device that must not uses the level below. */
const MATRIX_UNITS = ["amx"];
const DEFAULT_LEVELS = { x64: ["portable", "avx2", "avx512"], arm64: ["neon"] };

const USAGE = `usage: node scripts/build-native.mjs [options]

Builds the native add-on, build/octavo.node. It needs a C++17 compiler (CXX names one) and downloads nothing. Below
node_modules a copy is kept in the user's folder for caches, where it is found again after the next installation.

  --all                every instruction set level, and not this CPU's alone
  --runnable           every level that this CPU can run, for the tests of each
  --force              all of it anew, whether something changed or not
  --only=<levels>      some levels, into a build of its own, such as portable,avx512
  --target=<platform>  for another platform, such as linux-arm64-gnu, by the compilers that CXX and
                       CXX_PLATFORM name
  --sanitize=<kinds>   a build of its own for memory checks, such as address,undefined
  --quiet              only errors
  -h, --help           this text
`;

const options = new Map(
  process.argv
    .slice(2)
    .map((arg) => arg.split("="))
    .map(([key, value]) => [key, value ?? ""]),
);
if (options.has("--help") || options.has("-h")) {
  process.stdout.write(USAGE);
  process.exit(0);
}
for (const key of options.keys()) {
  if (!["--all", "--runnable", "--quiet", "--force", "--sanitize", "--only", "--target"].includes(key))
    fail(`unknown option ${key}\n  hint: --help lists them`);
}
const quiet = options.has("--quiet");
const sanitize = options.get("--sanitize") ?? "";
const only = options.get("--only")?.split(",");
const target = options.get("--target");
const [platform, arch, libc = ""] = target ? target.split("-") : [process.platform, process.arch];
const windows = platform === "win32";
const tag = [target, sanitize.replaceAll(",", "-"), only?.join("-")].filter(Boolean).join("-");
// Kernels know no C library: its variants share them.
const objects = join(root, "build", target ? `obj-${platform}-${arch}` : tag ? `obj-${tag}` : "obj");
const output = join(root, "build", tag ? `octavo-${tag}.node` : "octavo.node");
const stampFile = join(objects, "stamp.json");

function say(line) {
  if (!quiet) process.stderr.write(`${line}\n`);
}

function fail(message) {
  process.stderr.write(`build-native: ${message}\n`);
  process.exit(1);
}

/** Keeps the add-on for later installations; without it they build it again. */
function keep() {
  if (tag) return;
  try {
    const kept = keepAddon(root, output);
    if (kept) say(`native: a copy for later installations is ${kept}`);
  } catch (error) {
    say(`native: no copy for later installations could be kept: ${error.message}`);
  }
}

function hash(...parts) {
  const sum = createHash("sha1");
  for (const part of parts) sum.update(part).update("\0");
  return sum.digest("hex");
}

function findCompiler(named) {
  const wanted = named ? [named] : ["c++", "g++", "clang++"];
  for (const text of wanted) {
    const [command, ...args] = text.split(/\s+/);
    const paths = /[/\\]/.test(command)
      ? [command]
      : process.env.PATH.split(delimiter).map((dir) => join(dir, command));
    const endings = process.platform === "win32" ? ["", ".exe"] : [""];
    const path = paths.flatMap((file) => endings.map((ending) => file + ending)).find((file) => existsSync(file));
    if (path) return { command: path, args };
  }
  const how = {
    darwin: "xcode-select --install",
    win32: "install MinGW-w64's g++ or clang++ (MSYS2, w64devkit, llvm-mingw) and put it into PATH",
    linux: "Debian/Ubuntu: apt-get install g++; Fedora: dnf install gcc-c++; Alpine: apk add g++",
  };
  const hint = `${how[process.platform] ?? how.linux}; or set CXX`;
  return fail(`no C++ compiler found (tried ${wanted.join(", ")})\n  hint: ${hint}`);
}

function sources(folder, ending) {
  return readdirSync(join(root, folder), { withFileTypes: true })
    .flatMap((entry) => (entry.isDirectory() ? sources(join(folder, entry.name), ending) : [join(folder, entry.name)]))
    .filter((file) => ending.test(file))
    .sort();
}

/** The levels in a kernel file's `// isa:` line. */
function levelsOf(file, all, defaults) {
  const head = readFileSync(join(root, file), "utf8").split("\n", 20);
  const line = head.map((text) => /^\/\/ isa:\s*(.+)$/.exec(text)?.[1]).find(Boolean);
  if (!line) return defaults;
  const names = line.trim().split(/[\s,]+/);
  const known = Object.values(LEVELS).flatMap((levels) => Object.keys(levels));
  for (const name of names) if (!known.includes(name)) fail(`${file}: \`// isa:\` names an unknown level ${name}`);
  return all.filter((name) => names.includes(name) || (arch === "arm64" && name === "neon"));
}

const require = createRequire(import.meta.url);
const { version: packageVersion } = require("../package.json");
const levels = LEVELS[arch] ?? fail(`there are no instruction set levels for ${arch}`);
const compiler = findCompiler(process.env.CXX);
const platformCompiler = process.env.CXX_PLATFORM ? findCompiler(process.env.CXX_PLATFORM) : compiler;
const cpu = cpus()[0]?.model ?? "";
const stamp = existsSync(stampFile) ? JSON.parse(readFileSync(stampFile, "utf8")) : {};

const RUNNABLE = "runnable";
/** The last build has what is asked for; one for another CPU has not. */
function isEnough() {
  if (stamp.extent === "all") return true;
  if (options.has("--all") || only || stamp.cpu !== cpu) return false;
  return stamp.extent === RUNNABLE || !options.has("--runnable");
}

// Nothing changed: stop before starting a compiler.
const everything = sources("native", /\.(cpp|h)$/);
const fingerprint = hash(
  arch,
  process.versions.modules,
  compiler.command,
  ...compiler.args,
  platformCompiler.command,
  ...platformCompiler.args,
  process.env.OCTAVO_CXXFLAGS ?? "",
  packageVersion,
  readFileSync(fileURLToPath(import.meta.url)),
  ...everything.flatMap((file) => [file, readFileSync(join(root, file))]),
);
if (!options.has("--force") && stamp.fingerprint === fingerprint && existsSync(output) && isEnough()) {
  keep();
  say(`native: ${relative(root, output)} is up to date`);
  process.exit(0);
}
if (options.has("--force")) rmSync(objects, { recursive: true, force: true });
mkdirSync(objects, { recursive: true });

const version = spawnSync(compiler.command, [...compiler.args, "--version"], { encoding: "utf8" });
if (version.status !== 0) fail(`${compiler.command} --version failed: ${version.stderr || version.error?.message}`);
const versionLine = version.stdout.split("\n")[0];

let headers;
let headersVersion;
try {
  headers = require("node-api-headers").include_dir;
  headersVersion = require("node-api-headers/package.json").version;
} catch {
  fail("the package node-api-headers is missing\n  hint: npm install");
}

const common = [
  "-std=c++17",
  sanitize ? "-O1" : "-O3",
  // A DLL needs neither, and shows what it exports by name.
  ...(windows ? [] : ["-fPIC", "-fvisibility=hidden"]),
  "-fno-exceptions",
  "-fno-rtti",
  "-fno-math-errno",
  "-fno-trapping-math",
  "-ffp-contract=fast",
  "-ffunction-sections",
  "-Wall",
  "-Wextra",
  // A newer compiler may warn of more: that stops us, not the people who only want it built.
  ...(process.env.CI ? ["-Werror"] : []),
  "-Wno-psabi",
  // gcc's intrinsics headers trigger this warning.
  ...(versionLine.includes("clang") ? [] : ["-Wno-maybe-uninitialized"]),
  "-Inative",
  `-isystem${headers}`,
  ...(sanitize
    ? ["-g", "-fno-omit-frame-pointer", `-fsanitize=${sanitize}`, "-fno-sanitize-recover=all", "-D_GLIBCXX_ASSERTIONS"]
    : windows
      ? // The C library of Windows does not know all of C's formats; MinGW has functions that do.
        // Node-API is imported: see native/windows/node_api.cpp.
        ["-D__USE_MINGW_ANSI_STDIO=1", "-DBUILDING_NODE_EXTENSION"]
      : // Its checks are glibc's own.
        [...(target ? [] : ["-D_FORTIFY_SOURCE=2"]), "-fstack-protector-strong"]),
  // Windows promises 16 bytes of alignment on the stack; g++ takes wider registers there as aligned all the same (its bug 54412).
  // Loads and stores that need no alignment cost nothing more where there is some.
  ...(windows && !versionLine.includes("clang") && arch === "x64" ? ["-Wa,-muse-unaligned-vector-move"] : []),
  // Else gcc's library chooses the instructions of atomics.
  ...(target && arch === "arm64" ? ["-mno-outline-atomics"] : []),
  ...(process.env.OCTAVO_CXXFLAGS?.split(/\s+/).filter(Boolean) ?? []),
];

/** Levels whose flags and intrinsics the compiler knows. */
function usableLevels() {
  const key = hash(versionLine, JSON.stringify(levels));
  if (stamp.probe?.key === key) return stamp.probe.levels;
  const usable = Object.keys(levels).filter((name) => {
    const include = arch === "x64" ? "#include <immintrin.h>\n" : "#include <arm_neon.h>\n";
    const args = [...compiler.args, ...levels[name], "-std=c++17", "-fsyntax-only", "-x", "c++", "-"];
    return spawnSync(compiler.command, args, { input: `${include}int main() { return 0; }\n` }).status === 0;
  });
  stamp.probe = { key, levels: usable };
  return usable;
}

const usable = usableLevels();
const missing = Object.keys(levels).filter((name) => !usable.includes(name));
if (missing.length > 0) say(`native: ${versionLine} does not know ${missing.join(", ")}; these levels are left out`);
const base = Object.keys(levels)[0];
/** The macros that a compiler which tunes for this CPU defines; undefined if it cannot. */
function ownMacros() {
  const flag = arch === "arm64" ? "-mcpu=native" : "-march=native";
  const args = [...compiler.args, flag, "-dM", "-E", "-x", "c++", "-"];
  const { status, stdout } = spawnSync(compiler.command, args, { input: "", encoding: "utf8" });
  if (status !== 0) return undefined;
  return new Set(stdout.match(/(?<=^#define )\w+/gm));
}

/** The levels of every ladder that this CPU can climb, or of the highest alone; undefined if the compiler cannot tell. */
function ownLevels(every) {
  const macros = ownMacros();
  const ladders = LADDERS[arch].filter(([, wanted]) => macros && wanted.every((name) => macros.has(name)));
  const [own] = ladders.at(-1) ?? [];
  if (!own?.every((name) => usable.includes(name))) return undefined;
  return every ? usable.filter((name) => ladders.some(([names]) => names.includes(name))) : own;
}

// What a former build with --all or --runnable has, a smaller one must not take away: the tests of the levels need it.
const whole = options.has("--all") || only || tag || stamp.extent === "all";
const every = options.has("--runnable") || (stamp.extent === RUNNABLE && stamp.cpu === cpu);
const own = whole ? undefined : ownLevels(every);
const ladder = every ? undefined : own;
const extent = own ? (every ? RUNNABLE : own.at(-1)) : "all";
const chosen = only ? usable.filter((name) => only.includes(name) || name === base) : (own ?? usable);
/** The top of each ladder that is built whole: of a file's levels below it, the nearest is enough. */
const tops = ladder && [...new Set([ladder.at(-1), ladder.findLast((name) => !MATRIX_UNITS.includes(name))])];

/** Those of a file's levels that are compiled. */
function needed(own) {
  if (!tops) return own;
  const nearest = tops.map((top) => own.findLast((name) => ladder.indexOf(name) <= ladder.indexOf(top)));
  return own.filter((name) => nearest.includes(name));
}

const defaults = DEFAULT_LEVELS[arch].filter((name) => chosen.includes(name));

const jobs = [];
const tables = [];
for (const file of everything.filter((name) => /^native[/\\]kernels[/\\][^/\\]+\.cpp$/.test(name))) {
  const name = file.match(/([^/\\]+)\.cpp$/)[1];
  for (const level of needed(levelsOf(file, chosen, defaults))) {
    jobs.push({
      file,
      level,
      object: join(objects, level, `${name}.o`),
      flags: [`-DOCTAVO_ISA=${level}`, ...levels[level]],
    });
    tables.push(`T(${level}, ${name})`);
  }
}
const SYSTEM = windows ? /^native[/\\]windows[/\\][^/\\]+\.cpp$/ : /^native[/\\]posix[/\\][^/\\]+\.cpp$/;
for (const file of everything.filter((name) => /^native[/\\][^/\\]+\.cpp$/.test(name) || SYSTEM.test(name))) {
  const name = file.match(/([^/\\]+)\.cpp$/)[1];
  const highest = tops ? [`-DOCTAVO_LEVELS=${tops.map((level) => `L(${level})`).join(" ")}`] : [];
  const flags = {
    registry: [`-DOCTAVO_TABLES=${tables.join(" ")}`, ...highest],
    addon: [`-DOCTAVO_VERSION="${packageVersion}"`],
  };
  // The guards of statics are a C++ library's; addon.cpp has its own for what is made on first use.
  const all = ["-fno-threadsafe-statics", ...(flags[name] ?? [])];
  const object = `${SYSTEM.test(file) ? "system-" : ""}${name}.o`;
  jobs.push({ file, level: "", object: join(objects, libc, object), flags: all });
}

/** Hash of the command line and of all inputs of the object; undefined if some are unknown. */
function stateOf(job, args) {
  const depends = job.object.replace(/\.o$/, ".d");
  if (!existsSync(depends) || !existsSync(job.object)) return undefined;
  const files = readFileSync(depends, "utf8")
    .replace(/\\\n/g, " ")
    .replace(/^[^:]*:/, "")
    .trim()
    .split(/(?<!\\)\s+/)
    .map((name) => name.replaceAll("\\ ", " "));
  try {
    // Of the headers that do not lie here the place does not count: a checkout that is moved keeps its objects.
    const line = args.map((arg) => arg.replace(headers, headersVersion)).join("\0");
    return hash(versionLine, line, ...files.map((name) => readFileSync(join(root, name))));
  } catch {
    return undefined;
  }
}

stamp.objects ??= {};
const keyOf = ({ object }) => relative(objects, object);
const todo = [];
for (const job of jobs) {
  job.by = job.level ? compiler : platformCompiler;
  job.args = [...job.by.args, ...common, ...job.flags];
  const known = stamp.objects[keyOf(job)];
  if (known === undefined || stateOf(job, job.args) !== known) todo.push(job);
}

// Longest first, so that the last compilation is a short one. The first of these take half of the time; the rest go by size.
const LONGEST = ["four_bit", "attention", "copy", "back", "linear"];
const weight = ({ file, level }) => {
  if (!level) return 0;
  const at = LONGEST.indexOf(basename(file, ".cpp"));
  return at < 0 ? statSync(join(root, file)).size : 1e9 - at;
};
const sizes = new Map(todo.map((job) => [job, weight(job)]));
todo.sort((a, b) => sizes.get(b) - sizes.get(a));

let done = 0;
let failed = false;
const start = Date.now();

async function compile(job) {
  mkdirSync(dirname(job.object), { recursive: true });
  delete stamp.objects[keyOf(job)];
  const depends = ["-MMD", "-MF", job.object.replace(/\.o$/, ".d")];
  const args = [...job.args, ...(precompiled.get(job.level) ?? []), ...depends, "-c", job.file, "-o", job.object];
  const result = await run(job.by.command, args);
  done++;
  const what = `[${done}/${todo.length}] ${job.file}${job.level ? ` (${job.level})` : ""}`;
  if (result.code !== 0) {
    failed = true;
    process.stderr.write(`native: ${what} failed\n${result.output}`);
    return;
  }
  say(`native: ${what} ${(result.ms / 1000).toFixed(1)} s`);
  stamp.objects[keyOf(job)] = stateOf(job, job.args);
}

function run(command, args) {
  return new Promise((resolve) => {
    const begin = Date.now();
    const child = spawn(command, args, { cwd: root, stdio: ["ignore", "pipe", "pipe"] });
    let text = "";
    child.stdout.on("data", (data) => (text += data));
    child.stderr.on("data", (data) => (text += data));
    child.on("error", (error) => resolve({ code: 1, output: `${error.message}\n`, ms: 0 }));
    child.on("close", (code, signal) => {
      resolve({ code: code ?? 1, output: signal ? `${text}killed by ${signal}\n` : text, ms: Date.now() - begin });
    });
  });
}

// clang finds a precompiled header by other options.
const headerFolder = join(objects, "precompiled");
const gnu = !versionLine.includes("clang");
const kernels = todo.filter(({ level }) => level);
const precompiled = gnu
  ? await precompile(kernels, headerFolder, async (args) => (await run(compiler.command, args)).code === 0)
  : new Map();

const queue = todo.slice();
await Promise.all(
  Array.from({ length: Math.max(1, availableParallelism()) }, async () => {
    for (let job = queue.shift(); job && !failed; job = queue.shift()) await compile(job);
  }),
);
rmSync(headerFolder, { recursive: true, force: true });

function saveStamp() {
  writeFileSync(stampFile, JSON.stringify(stamp));
}
if (failed) {
  saveStamp();
  process.exit(1);
}

say(`native: linking ${relative(root, output)}`);
const partial = `${output}.partial`;
/** Only what Node asks for is to be seen: another add-on of the same process may have functions of the same names. */
const exported = join(objects, "exported");
const ENTRIES = ["napi_register_module_v1", "node_api_module_get_api_version_v1"];
const listed = platform === "darwin" ? ENTRIES.map((name) => `_${name}\n`).join("") : "";
writeFileSync(exported, listed || `{ global: ${ENTRIES.join("; ")}; local: *; };\n`);
const LINK = {
  linux: [
    // The C++ library that the driver adds is dropped, because nothing of it is used.
    ...[
      "-shared",
      "-pthread",
      "-Wl,--as-needed",
      "-Wl,-z,relro,-z,now,-z,noexecstack",
      "-Wl,--gc-sections",
      "-Wl,-Bsymbolic",
    ],
    ...(sanitize ? [] : [`-Wl,--version-script=${exported}`, ...(target ? ["-s", "-nostdlib++"] : [])]),
  ],
  darwin: [
    ...["-bundle", "-undefined", "dynamic_lookup", `-Wl,-exported_symbols_list,${exported}`],
    ...(target ? ["-fuse-ld=lld", "-nostdlib++", "-Wl,-dead_strip", "-Wl,-x"] : []),
  ],
  // All that is not the system's comes along; without the time of day, so that the same sources give the same file.
  win32: [
    ...["-shared", "-static", "-Wl,--gc-sections", "-Wl,--no-insert-timestamp", "-Wl,--disable-auto-import"],
    ...(sanitize ? [] : ["-s"]),
  ],
};
const linked = await run(platformCompiler.command, [
  ...platformCompiler.args,
  ...(LINK[platform] ?? ["-shared"]),
  ...(sanitize ? [`-fsanitize=${sanitize}`] : []),
  "-o",
  partial,
  ...jobs.map((job) => job.object),
]);
if (linked.code !== 0) {
  saveStamp();
  process.stderr.write(linked.output);
  fail("linking failed");
}
// A process that has loaded the old add-on keeps the old file. Windows lets it be renamed, and neither replaced nor deleted.
if (process.platform === "win32" && existsSync(output)) {
  const old = `${output}.${process.pid}.old`;
  renameSync(output, old);
  try {
    rmSync(old);
  } catch {
    // in use
  }
}
renameSync(partial, output);
stamp.fingerprint = fingerprint;
stamp.extent = extent;
stamp.cpu = cpu;
saveStamp();
const what = tops ? `${tops[0]}, this CPU's level (--all builds every level)` : chosen.join(", ");
say(`native: built ${relative(root, output)} for ${what} in ${((Date.now() - start) / 1000).toFixed(1)} s`);
keep();
