// Builds and runs the kernel test or bench with the compiler alone, no add-on:
//   node native/test/run.mjs test|bench [--sanitize=address,undefined] [arguments of the program]
// CXX names the compiler. For another machine: OCTAVO_ARCH=arm64, CXX its cross compiler, OCTAVO_EMULATOR what runs its
// programs ("qemu-aarch64 -L /usr/aarch64-linux-gnu").
import { spawn } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const native = dirname(dirname(fileURLToPath(import.meta.url)));
const [what, ...rest] = process.argv.slice(2);
if (what !== "test" && what !== "bench") {
  process.stderr.write("usage: node native/test/run.mjs test|bench [--sanitize=...] [arguments]\n");
  process.exit(2);
}
const sanitize = rest.find((arg) => arg.startsWith("--sanitize="))?.slice(11) ?? "";
const args = rest.filter((arg) => !arg.startsWith("--sanitize="));
const compiler = process.env.CXX ?? "g++";

const AVX2 = ["-mavx2", "-mfma", "-mf16c", "-mbmi", "-mbmi2"];
const AVX512 = [...AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512vnni"];
const LEVELS =
  process.env.OCTAVO_ARCH === "arm64" || process.arch === "arm64"
    ? { neon: [], dotprod: ["-march=armv8.2-a+dotprod+fp16"] }
    : {
        portable: [],
        avx2: AVX2,
        avxvnni: [...AVX2, "-mavxvnni"],
        avx512: AVX512,
        avx512bf16: [...AVX512, "-mavx512bf16"],
        amx: [...AVX512, "-mavx512bf16", "-DOCTAVO_AMX_EMULATED"],
      };
const COMMON = [
  ..."-std=c++17 -fno-rtti -fno-math-errno -fno-trapping-math -ffp-contract=fast".split(" "),
  ..."-Wall -Wextra -Werror -Wno-psabi -MMD -pthread".split(" "),
  ...(sanitize ? ["-O1", "-g", `-fsanitize=${sanitize}`, "-fno-sanitize-recover=all"] : ["-O3"]),
];
const objects = join(
  dirname(native),
  "build",
  `kernels-${compiler.replaceAll(/[^\w+-]/g, "_")}${sanitize ? `-${sanitize.replaceAll(",", "-")}` : ""}`,
);
mkdirSync(objects, { recursive: true });

const MATRIX = ["linear", "llm_int8", "four_bit", "quantize", "pack"];
const jobs = [];
const tables = [];
for (const name of MATRIX) {
  const source = join(native, "kernels", `${name}.cpp`);
  const wanted = readFileSync(source, "utf8").split("\n")[0].replace("// isa:", "").trim().split(" ");
  for (const [level, flags] of Object.entries(LEVELS)) {
    if (!wanted.includes(level) && level !== "neon") continue;
    jobs.push({ source, object: `${name}-${level}.o`, flags: ["-fno-exceptions", `-DOCTAVO_ISA=${level}`, ...flags] });
    tables.push(`T(${level},${name})`);
  }
}
for (const name of readdirSync(native).filter((file) => /^(panels|pool|spin)\.cpp$/.test(file)))
  jobs.push({ source: join(native, name), object: `${name}.o`, flags: [] });
const defines = [`-DOCTAVO_TABLES=${tables.join(" ")}`, "-DOCTAVO_AMX_EMULATED"];
if (what === "bench") jobs.push({ source: join(native, "test", "limits.cpp"), object: "limits.o", flags: [] });
jobs.push({ source: join(native, "test", `kernels_${what}.cpp`), object: `${what}.o`, flags: defines });

function run(command, list) {
  return new Promise((resolve, reject) => {
    const child = spawn(command, list, { stdio: "inherit" });
    child.on("error", reject);
    child.on("exit", (code, signal) => (code === 0 ? resolve() : reject(new Error(`${command}: ${signal ?? code}`))));
  });
}

/** A job is done again when its source, a header it includes, this script or its command line changed. */
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

try {
  const todo = jobs.filter(stale);
  await Promise.all(
    [0, 1].map(async () => {
      for (let job = todo.pop(); job; job = todo.pop()) {
        const object = join(objects, job.object);
        await run(compiler, [...COMMON, ...job.flags, "-c", job.source, "-o", object]);
        writeFileSync(`${object}.flags`, job.flags.join(" "));
      }
    }),
  );
  const program = join(objects, what);
  const list = jobs.map((job) => join(objects, job.object));
  await run(compiler, [...COMMON, ...list, "-o", program]);
  const emulator = process.env.OCTAVO_EMULATOR?.split(" ") ?? [];
  const [command, ...before] = [...emulator, program];
  await run(command, [...before, ...args]);
} catch (error) {
  process.stderr.write(`${error.message}\n`);
  process.exit(1);
}
