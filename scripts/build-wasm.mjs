// Builds the kernels for WebAssembly with SIMD: native/kernels/*.cpp and native/wasm/*.cpp, with what both builds share,
// linked into build/octavo.wasm, and once more with relaxed SIMD into build/octavo-relaxed.wasm. Needs Node, clang and
// lld; no C library (native/wasm/include/ has the little that is used) and no packages. The same sources and compiler
// give the same bytes.
//
//   node scripts/build-wasm.mjs [--quiet] [--force] [--optional]
//
// WASM_CXX names the compiler. --optional prints why it cannot be built and succeeds.

import { spawn, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { basename, dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const objects = join(root, "build", "obj-wasm");
const outputs = { plain: "octavo.wasm", relaxed: "octavo-relaxed.wasm" };
const fileOf = (variant) => join(root, "build", outputs[variant]);
const stampFile = join(objects, "stamp.json");

const USAGE = `usage: node scripts/build-wasm.mjs [options]

Builds the kernels for WebAssembly: build/octavo.wasm, and build/octavo-relaxed.wasm with relaxed SIMD. It needs clang and
lld, version 16 or newer (WASM_CXX names the compiler), and downloads nothing.

  --force      all of it anew, whether something changed or not
  --optional   without a compiler say why, and succeed
  --quiet      only errors
  -h, --help   this text
`;

const flags = process.argv.slice(2);
if (flags.includes("--help") || flags.includes("-h")) {
  process.stdout.write(USAGE);
  process.exit(0);
}
for (const flag of flags) {
  if (!["--quiet", "--force", "--optional"].includes(flag)) fail(`unknown option ${flag}\n  hint: --help lists them`);
}

const COMPILE = [
  "--target=wasm32",
  "-msimd128",
  "-mbulk-memory",
  "-matomics",
  "-std=c++17",
  "-O3",
  "-nostdinc++",
  "-isystemnative/wasm/include",
  "-Inative",
  "-DOCTAVO_ISA=wasm",
  "-fno-exceptions",
  "-fno-rtti",
  "-fno-math-errno",
  "-fno-trapping-math",
  "-ffp-contract=fast",
  "-fno-threadsafe-statics",
  "-ffunction-sections",
  "-fvisibility=hidden",
  "-Wall",
  "-Wextra",
  "-Werror",
  "-Wno-psabi",
];
const VARIANTS = { plain: [], relaxed: ["-mrelaxed-simd"] };
const LINK = [
  "--no-entry",
  "--gc-sections",
  "--strip-all",
  // One memory for all threads, each of which has its own stack and thread-local variables.
  "--import-memory",
  "--shared-memory",
  "--export=__stack_pointer",
  "--export=__wasm_init_tls",
  "--export=__tls_size",
  // The first stack lies at the start of memory, so its overflow traps and overwrites no data.
  "--stack-first",
  "-z",
  `stack-size=${1 << 20}`,
  `--max-memory=${2 ** 32}`,
];
/** Files of native/ that this build shares with the add-on, beside the kernels. */
const SHARED = /^native\/(buffers|interpreter|panels|poison|pool|queue|registry|sentence|signature)\.cpp$/;

function say(line) {
  if (!flags.includes("--quiet")) process.stderr.write(`${line}\n`);
}

function fail(message) {
  process.stderr.write(`build-wasm: ${message}\n`);
  process.exit(1);
}

/** Ends the build because a tool is missing; with --optional it ends without an error. */
function lacking(message) {
  const hint =
    "Debian/Ubuntu: apt-get install clang-19 lld-19, or another version from 16; or set WASM_CXX to a clang with the target wasm32";
  if (!flags.includes("--optional")) fail(`${message}\n  hint: ${hint}`);
  process.stderr.write(`wasm: SKIPPED, the WASM modules are not built: ${message}\n  hint: ${hint}\n`);
  process.exit(0);
}

function hash(...parts) {
  const sum = createHash("sha1");
  for (const part of parts) sum.update(part).update("\0");
  return sum.digest("hex");
}

function sources(folder) {
  return readdirSync(join(root, folder), { withFileTypes: true })
    .flatMap((entry) => (entry.isDirectory() ? sources(`${folder}/${entry.name}`) : [`${folder}/${entry.name}`]))
    .sort();
}

const VERSIONS = Array.from({ length: 8 }, (_, i) => `-${22 - i}`);

/** The programs of `names` whose --version output matches `wanted`. */
function* answering(names, wanted) {
  for (const name of names) {
    const { status, stdout } = spawnSync(name, ["--version"], { encoding: "utf8" });
    if (status === 0 && wanted.test(stdout)) yield { name, version: stdout.split("\n")[0] };
  }
}

/** True if a compiler has the target and the intrinsics: clang 14 and 15 have relaxed SIMD by other names or not at all. */
function compiles(name) {
  const probe = `#include <wasm_simd128.h>
v128_t sum(v128_t a, v128_t b, v128_t c) { return wasm_f32x4_relaxed_madd(a, b, c); }
v128_t dot(v128_t a, v128_t b, v128_t c) { return wasm_i32x4_relaxed_dot_i8x16_i7x16_add(a, b, c); }
`;
  const args = [...COMPILE, ...VARIANTS.relaxed, "-fsyntax-only", "-x", "c++", "-"];
  return spawnSync(name, args, { cwd: root, input: probe }).status === 0;
}

function findCompiler() {
  const names = process.env.WASM_CXX
    ? [process.env.WASM_CXX]
    : ["clang++", "clang", ...VERSIONS.flatMap((v) => [`clang++${v}`, `clang${v}`])];
  const old = [];
  for (const found of answering(names, /clang version/)) {
    if (compiles(found.name)) return found;
    old.push(`${found.name} (${found.version})`);
  }
  if (old.length === 0) lacking(`no clang found${process.env.WASM_CXX ? `: ${process.env.WASM_CXX}` : ""}`);
  return lacking(`no clang found that knows wasm32 with relaxed SIMD, only ${old.join(", ")}`);
}

function findLinker(compiler) {
  const own = spawnSync(compiler, ["--print-prog-name=wasm-ld"], { encoding: "utf8" }).stdout.trim();
  const version = compiler.match(/-\d+$/)?.[0];
  const names = [own, ...(version ? [`wasm-ld${version}`] : []), "wasm-ld", ...VERSIONS.map((v) => `wasm-ld${v}`)];
  const [found] = answering(names, /LLD/);
  if (!found) lacking("no wasm-ld found");
  return found;
}

const compiler = findCompiler();
const linker = findLinker(compiler.name);
if (flags.includes("--force")) rmSync(objects, { recursive: true, force: true });
mkdirSync(objects, { recursive: true });
const stamp = existsSync(stampFile) ? JSON.parse(readFileSync(stampFile, "utf8")) : {};

const everything = sources("native").filter((file) => /\.(cpp|h)$/.test(file) || file.includes("/wasm/include/"));
const kernels = everything.filter((file) => /^native\/kernels\/[^/]+\.cpp$/.test(file));
const tables = kernels.map((file) => `T(wasm, ${basename(file, ".cpp")})`).join(" ");
const files = [
  ...kernels,
  ...everything.filter((file) => /^native\/wasm\/[^/]+\.cpp$/.test(file) || SHARED.test(file)),
];
const jobs = Object.entries(VARIANTS).flatMap(([variant, extra]) =>
  files.map((file) => ({
    variant,
    file,
    object: join(objects, `${variant}-${file.slice("native/".length, -".cpp".length).replaceAll("/", "-")}.o`),
    args: [...COMPILE, ...extra, ...(file === "native/registry.cpp" ? [`-DOCTAVO_TABLES=${tables}`] : []), "-c", file],
  })),
);

const fingerprint = hash(
  compiler.version,
  linker.version,
  readFileSync(fileURLToPath(import.meta.url)),
  ...everything.flatMap((file) => [file, readFileSync(join(root, file))]),
);
if (stamp.fingerprint === fingerprint && Object.keys(VARIANTS).every((variant) => existsSync(fileOf(variant)))) {
  say(`wasm: ${Object.values(outputs).join(" and ")} are up to date`);
  process.exit(0);
}

/** Hash of the command line and of all inputs of the object; undefined if some are unknown. */
function stateOf({ object, args }) {
  const depends = object.replace(/\.o$/, ".d");
  if (!existsSync(depends) || !existsSync(object)) return undefined;
  const files = readFileSync(depends, "utf8")
    .replace(/\\\n/g, " ")
    .replace(/^[^:]*:/, "")
    .trim()
    .split(/\s+/);
  try {
    return hash(compiler.version, args.join("\0"), ...files.map((name) => readFileSync(join(root, name))));
  } catch {
    return undefined;
  }
}

function run(command, args) {
  return new Promise((resolve) => {
    const child = spawn(command, args, { cwd: root, stdio: ["ignore", "pipe", "pipe"] });
    let text = "";
    child.stdout.on("data", (data) => (text += data));
    child.stderr.on("data", (data) => (text += data));
    child.on("error", (error) => resolve({ code: 1, text: `${error.message}\n` }));
    child.on("close", (code, signal) =>
      resolve({ code: code ?? 1, text: signal ? `${text}killed by ${signal}\n` : text }),
    );
  });
}

stamp.objects ??= {};
const key = (job) => relative(objects, job.object);
const todo = jobs.filter((job) => {
  const state = stateOf(job);
  return state === undefined || state !== stamp.objects[key(job)];
});
// Longest first, so that the last compilation is a short one.
const sizes = new Map(todo.map((job) => [job, statSync(join(root, job.file)).size]));
todo.sort((a, b) => sizes.get(b) - sizes.get(a));
const begin = Date.now();
let failed = false;

async function compile(job) {
  delete stamp.objects[key(job)];
  const depends = job.object.replace(/\.o$/, ".d");
  const { code, text } = await run(compiler.name, [...job.args, "-MMD", "-MF", depends, "-o", job.object]);
  if (code === 0) stamp.objects[key(job)] = stateOf(job);
  else {
    failed = true;
    process.stderr.write(`wasm: ${job.file} failed\n${text}`);
  }
}

if (todo.length > 0) say(`wasm: compiling ${todo.length} of ${jobs.length} files`);
const queue = todo.slice();
await Promise.all(
  Array.from({ length: Math.max(1, availableParallelism()) }, async () => {
    for (let job = queue.shift(); job && !failed; job = queue.shift()) await compile(job);
  }),
);
if (!failed) await Promise.all(Object.keys(VARIANTS).map(link));
if (!failed) stamp.fingerprint = fingerprint;
writeFileSync(stampFile, JSON.stringify(stamp));
if (failed) process.exit(1);
const seconds = ((Date.now() - begin) / 1000).toFixed(1);
for (const variant of Object.keys(VARIANTS)) {
  const kb = Math.round(statSync(fileOf(variant)).size / 1000);
  say(`wasm: built ${relative(root, fileOf(variant))}, ${kb} kB, in ${seconds} s`);
}

async function link(variant) {
  const partial = `${fileOf(variant)}.partial`;
  const own = jobs.filter((job) => job.variant === variant).map((job) => job.object);
  const { code, text } = await run(linker.name, [...LINK, ...own, "-o", partial]);
  if (code === 0) return renameSync(partial, fileOf(variant));
  failed = true;
  process.stderr.write(`wasm: linking ${outputs[variant]} failed\n${text}`);
}
