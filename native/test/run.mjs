// Builds and runs the tests or benches of the kernels with the compiler alone, no add-on:
//   node native/test/run.mjs test|bench [matrix|attention] [--sanitize=address,undefined] [arguments of the program]
// CXX names the compiler. For another machine: OCTAVO_ARCH=arm64, CXX its cross compiler, OCTAVO_EMULATOR the emulator
// for its programs ("qemu-aarch64 -L /usr/aarch64-linux-gnu"). OCTAVO_LEVELS names the instruction sets to build for ("amx"),
// otherwise all of them. OCTAVO_BENCH_CLOCK=cpu: see bench.h. For Windows: CXX=x86_64-w64-mingw32-g++ OCTAVO_EMULATOR=wine. With
// OCTAVO_DIGEST=1 every level prints a sum of the bits that it computed, the same wherever it computes the same.
import { spawn, spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const native = dirname(dirname(fileURLToPath(import.meta.url)));
const [what, ...rest] = process.argv.slice(2);
if (what !== "test" && what !== "bench") {
  process.stderr.write("usage: node native/test/run.mjs test|bench [matrix|attention] [--sanitize=...] [arguments]\n");
  process.exit(2);
}
const sanitize = rest.find((arg) => arg.startsWith("--sanitize="))?.slice(11) ?? "";
const args = rest.filter((arg) => !arg.startsWith("--sanitize="));
const compiler = process.env.CXX ?? "g++";
const windows = /mingw|windows/.test(spawnSync(compiler, ["-dumpmachine"], { encoding: "utf8" }).stdout ?? "");

const AVX2 = ["-mavx2", "-mfma", "-mf16c", "-mbmi", "-mbmi2"];
const AVX512 = [...AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512vnni"];
// Matrix units are emulated everywhere, and tested for real where the machine has them.
const hasTiles = existsSync("/proc/cpuinfo") && readFileSync("/proc/cpuinfo", "utf8").includes(" amx_bf16");
const wanted = process.env.OCTAVO_LEVELS?.split(/[\s,]+/);
const ALL_LEVELS =
  process.env.OCTAVO_ARCH === "arm64" || process.arch === "arm64"
    ? { neon: [], dotprod: ["-march=armv8.2-a+dotprod+fp16"] }
    : {
        portable: [],
        avx2: AVX2,
        avxvnni: [...AVX2, "-mavxvnni"],
        avx512: AVX512,
        avx512bf16: [...AVX512, "-mavx512bf16"],
        amx_emulated: [...AVX512, "-mavx512bf16", "-DOCTAVO_AMX_EMULATED"],
        amx: [...AVX512, "-mavx512bf16", "-mamx-tile", "-mamx-int8", "-mamx-bf16"],
      };
const LEVELS = Object.fromEntries(
  Object.entries(ALL_LEVELS).filter(([level]) => wanted?.includes(level) ?? (level !== "amx" || hasTiles)),
);
const COMMON = [
  ..."-std=c++17 -fno-rtti -fno-math-errno -fno-trapping-math -ffp-contract=fast".split(" "),
  ..."-Wall -Wextra -Werror -Wno-psabi -MMD".split(" "),
  // gcc's intrinsics headers trigger this warning.
  ...(/clang/.test(compiler) ? [] : ["-Wno-maybe-uninitialized"]),
  // As in scripts/build-native.mjs. The linter of formats does not know that int64_t is no `long` there.
  ...(windows
    ? ["-Wa,-muse-unaligned-vector-move", "-D__USE_MINGW_ANSI_STDIO=1", "-Wno-format", "-static"]
    : ["-pthread"]),
  // A fifth less time for the compiler. What the add-on is compiled to is tested through the add-on, where a CPU has the level.
  ...(sanitize
    ? ["-O1", "-g", `-fsanitize=${sanitize}`, "-fno-sanitize-recover=all"]
    : [what === "test" ? "-O2" : "-O3"]),
];
const objects = join(
  dirname(native),
  "build",
  `${what}-${compiler.replaceAll(/[^\w+-]/g, "_")}${sanitize ? `-${sanitize.replaceAll(",", "-")}` : ""}`,
);
mkdirSync(objects, { recursive: true });

// The suites: kernel files, and the files of the programs.
const GROUPS = {
  matrix: {
    kernels: ["linear", "llm_int8", "four_bit", "back", "quantize", "pack"],
    test: ["matrix_test", "matrix_codes_test"],
    bench: ["matrix_bench", "limits"],
  },
  attention: {
    kernels: ["attention", "attention_append"],
    test: ["attention_test", "attention_rows_test"],
    bench: ["attention_bench", "limits"],
  },
};
const chosen = args[0] in GROUPS ? [args.shift()] : Object.keys(GROUPS);
const SYSTEM = windows ? "windows" : "posix";
const SHARED = [
  "memory",
  "panels",
  "pool",
  "sentence",
  ...["machine", "memory", "threads"].map((name) => `${SYSTEM}/${name}`),
];

/** The levels of a kernel file: those of its `// isa:` line, as in scripts/build-native.mjs. */
function levelsOf(source) {
  const line = /^\/\/ isa:\s*(.+)$/m.exec(readFileSync(source, "utf8"))?.[1] ?? "portable avx2 avx512";
  const names = line.trim().split(" ");
  return Object.entries(LEVELS).filter(([level]) => level === "neon" || names.includes(level.replace("_emulated", "")));
}

function jobsOf(group) {
  const jobs = [];
  const tables = [];
  for (const name of GROUPS[group].kernels) {
    const source = join(native, "kernels", `${name}.cpp`);
    for (const [level, flags] of levelsOf(source)) {
      jobs.push({
        source,
        object: `${name}-${level}.o`,
        flags: ["-fno-exceptions", `-DOCTAVO_ISA=${level}`, ...flags],
      });
      tables.push(`T(${level},${name})`);
    }
  }
  for (const name of SHARED)
    jobs.push({ source: join(native, `${name}.cpp`), object: `${name.replace("/", "-")}.o`, flags: [] });
  for (const name of GROUPS[group][what])
    jobs.push({
      source: join(native, "test", `${name}.cpp`),
      object: `${name}.o`,
      flags: name === "limits" ? [] : [`-DOCTAVO_TABLES=${tables.join(" ")}`],
    });
  return jobs;
}

function run(command, list) {
  return new Promise((resolve, reject) => {
    const child = spawn(command, list, { stdio: "inherit" });
    child.on("error", reject);
    child.on("exit", (code, signal) => (code === 0 ? resolve() : reject(new Error(`${command}: ${signal ?? code}`))));
  });
}

/** A job is repeated when its source, a header it includes, this script or its command line changed. */
function stale(job) {
  const object = join(objects, job.object);
  if (!existsSync(`${object}.flags`) || readFileSync(`${object}.flags`, "utf8") !== job.flags.join(" ")) return true;
  const depends = object.replace(/\.o$/, ".d");
  if (!existsSync(object) || !existsSync(depends)) return true;
  const made = statSync(object).mtimeMs;
  const files = readFileSync(depends, "utf8")
    .replaceAll("\\\n", " ")
    .replace(/^[^:]*:/, "")
    .trim()
    .split(/\s+/);
  return [...files, fileURLToPath(import.meta.url)].some((file) => !existsSync(file) || statSync(file).mtimeMs > made);
}

async function make(group) {
  const jobs = jobsOf(group);
  const todo = jobs.filter(stale);
  await Promise.all(
    Array.from({ length: availableParallelism() }, async () => {
      for (let job = todo.pop(); job; job = todo.pop()) {
        const object = join(objects, job.object);
        await run(compiler, [...COMMON, ...job.flags, "-c", job.source, "-o", object]);
        writeFileSync(`${object}.flags`, job.flags.join(" "));
      }
    }),
  );
  const program = join(objects, `${group}_${what}${windows ? ".exe" : ""}`);
  await run(compiler, [...COMMON, ...jobs.map((job) => join(objects, job.object)), "-o", program]);
  const [command, ...before] = [...(process.env.OCTAVO_EMULATOR?.split(" ") ?? []), program];
  await run(command, [...before, ...args]);
}

try {
  for (const group of chosen) await make(group);
} catch (error) {
  process.stderr.write(`${error.message}\n`);
  process.exit(1);
}
