// Builds attention for every instruction set of this architecture with a plain compiler call and runs its proof:
//   node native/test/attention.mjs test [cases] | golden FOLDER | bench [isa [decode|prefill]]
// CXX names the compiler, OCTAVO_ARCH and OCTAVO_EMULATOR another machine as in run.mjs; the build goes to a folder under the system's temporary one.
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const native = dirname(here);
const out = join(
  tmpdir(),
  `octavo-attention-${process.getuid?.() ?? 0}-${createHash("sha1").update(`${here} ${process.env.CXX}`).digest("hex").slice(0, 12)}`,
);
mkdirSync(out, { recursive: true });
const cxx = process.env.CXX ?? "g++";
const arch = process.env.OCTAVO_ARCH ?? process.arch;
const emulator = process.env.OCTAVO_EMULATOR?.split(" ") ?? [];
const flags = [
  "-std=c++17",
  "-O3",
  "-fno-math-errno",
  "-fno-trapping-math",
  "-ffp-contract=fast",
  "-Wall",
  "-Wextra",
  "-Werror",
  "-Wno-psabi",
  "-fPIC",
  "-fno-exceptions",
  "-fno-rtti",
];
const AVX512 = ["-mavx2", "-mfma", "-mf16c", "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq"];
const isas =
  arch === "x64"
    ? {
        portable: [],
        avx2: ["-mavx2", "-mfma", "-mf16c"],
        avx512: AVX512,
        amx_emulated: [...AVX512, "-mavx512bf16", "-DOCTAVO_AMX_EMULATED"],
        amx: [...AVX512, "-mavx512bf16", "-mamx-tile", "-mamx-int8", "-mamx-bf16"],
      }
    : { portable: [] }; // on arm64 the baseline has NEON
const objects = [];
const compile = (source, object, extra) => {
  execFileSync(cxx, [...extra, "-c", source, "-o", object], { stdio: "inherit" });
  objects.push(object);
};
for (const [isa, more] of Object.entries(isas))
  for (const file of ["attention", "attention_append"])
    compile(join(native, "kernels", `${file}.cpp`), join(out, `${file}.${isa}.o`), [
      ...flags,
      `-DOCTAVO_ISA=${isa}`,
      ...more,
    ]);
for (const file of ["pool", "spin"])
  compile(join(native, `${file}.cpp`), join(out, `${file}.o`), ["-std=c++17", "-O2"]);
compile(join(here, "attention_test.cpp"), join(out, "test.o"), ["-std=c++17", "-O2", "-Wall", "-Wextra", "-Wno-psabi"]);
const program = join(out, "attention_test");
execFileSync(cxx, [...objects, "-o", program, "-pthread"], { stdio: "inherit" });

const [mode = "test", ...rest] = process.argv.slice(2);
if (mode === "golden") {
  const file = join(out, "golden.bin");
  writeFileSync(file, goldenCases(rest[0]));
  rest[0] = file;
}
try {
  const [command, ...before] = [...emulator, program];
  execFileSync(command, [...before, mode, ...rest], { stdio: "inherit" });
} catch {
  process.exitCode = 1;
}

// The cases of sdpa.json and .safetensors in the flat form that attention_test.cpp reads.
function goldenCases(folder) {
  const list = JSON.parse(readFileSync(join(folder, "sdpa.json"), "utf8"));
  const bytes = readFileSync(join(folder, "sdpa.safetensors"));
  const size = Number(bytes.readBigUInt64LE(0));
  const header = JSON.parse(bytes.subarray(8, 8 + size).toString());
  const raw = (name) => {
    const entry = header[name];
    if (!entry) return undefined;
    return bytes.subarray(8 + size + entry.data_offsets[0], 8 + size + entry.data_offsets[1]);
  };
  const floats = (name) => {
    const b = raw(name);
    return b && new Float32Array(new Uint8Array(b).buffer);
  };
  const parts = [];
  for (const c of list.cases) {
    if (c.cu_seqlens_q) {
      if (String(c.cu_seqlens_q) !== String(c.cu_seqlens_k)) continue; // query and key segments of their own: no such operand
      const T = c.cu_seqlens_q.at(-1);
      const segments = new Int32Array(T);
      for (let i = 0, s = 0; i < T; i++) {
        while (i >= c.cu_seqlens_q[s + 1]) s++;
        segments[i] = s;
      }
      // [T,H,D] to [H,T,D]
      const turn = (x, H) => {
        const D = x.length / T / H;
        const y = new Float32Array(x.length);
        for (let t = 0; t < T; t++)
          for (let h = 0; h < H; h++) for (let d = 0; d < D; d++) y[(h * T + t) * D + d] = x[(t * H + h) * D + d];
        return y;
      };
      push(
        { ...c, B: 1, Lq: T, Lk: T, Dv: c.D },
        turn(floats(`${c.name}.q`), c.H),
        turn(floats(`${c.name}.k`), c.Hkv),
        turn(floats(`${c.name}.v`), c.Hkv),
        turn(floats(`${c.name}.out`), c.H),
        undefined,
        segments,
      );
      continue;
    }
    let mask;
    if (c.left_pad || c.right_pad) {
      mask = new Uint8Array(c.B * c.Lk);
      for (let b = 0; b < c.B; b++)
        for (let j = 0; j < c.Lk; j++) mask[b * c.Lk + j] = c.left_pad ? j >= c.left_pad[b] : j < c.Lk - c.right_pad[b];
    }
    let bias = floats(`${c.name}.bias`);
    const holes = raw(`${c.name}.mask`);
    const whole = c.B * c.H * c.Lq * c.Lk;
    if (bias && bias.length !== whole) {
      const [b0, h0, t0, s0] = header[`${c.name}.bias`].shape;
      const wide = new Float32Array(whole);
      for (let b = 0, n = 0; b < c.B; b++)
        for (let h = 0; h < c.H; h++)
          for (let t = 0; t < c.Lq; t++)
            for (let s = 0; s < c.Lk; s++)
              wide[n++] = bias[(((b % b0) * h0 + (h % h0)) * t0 + (t % t0)) * s0 + (s % s0)];
      bias = wide;
    }
    if (holes && c.random_mask) {
      bias = new Float32Array(whole);
      for (let i = 0; i < whole; i++) {
        const b = Math.floor(i / (c.H * c.Lq * c.Lk));
        bias[i] = holes[b * c.Lq * c.Lk + (i % (c.Lq * c.Lk))] ? 0 : -Infinity;
      }
    }
    push(
      c,
      floats(`${c.name}.q`),
      floats(`${c.name}.k`),
      floats(`${c.name}.v`),
      floats(`${c.name}.out`),
      mask,
      undefined,
      bias,
    );
  }
  return Buffer.concat(parts);

  function push(c, q, k, v, y, mask, segments, bias) {
    const name = Buffer.alloc(64);
    name.write(c.name);
    const slopes = floats(`${c.name}.slopes`);
    const ints = Int32Array.of(
      c.B,
      c.Lq,
      c.H,
      c.Hkv,
      c.Lk,
      c.D,
      c.Dv,
      c.causal ? 1 : 0,
      c.window ?? 0,
      mask ? 1 : 0,
      segments ? 1 : 0,
      slopes ? 1 : 0,
      bias ? 1 : 0,
      0,
      0,
      0,
    );
    const tolerance = c.name === "large_scores" ? list.tolerance.large_scores : list.tolerance.out;
    const scale = c.scale ?? 1 / Math.sqrt(c.D);
    if (c.alibi === "scaled") for (let h = 0; h < slopes.length; h++) slopes[h] *= scale;
    const attrs = Float32Array.of(scale, c.softcap ?? 0, tolerance);
    for (const p of [name, ints, attrs, q, k, v, y, mask, segments, slopes, bias])
      if (p) parts.push(Buffer.from(p.buffer, p.byteOffset, p.byteLength));
  }
}
