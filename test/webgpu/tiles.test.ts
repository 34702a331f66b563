// Products of many rows with each form of tile that the adapter supports: f32, f16, subgroup matrices. SwiftShader supports
// only the first; llvmpipe supports f16 from Mesa 25.0 and subgroup matrices from 26.2 (VK_ICD_FILENAMES selects it). Rows
// far beyond the range of f16 test the scaling.

import { describe, expect, test } from "vitest";
import { SUBGROUP_MATRIX } from "../../src/backends/webgpu/device/adapter.js";
import { openWebGPU, type WebGPUOptions } from "../../src/backends/webgpu/index.js";
import { Device } from "../../src/core/device.js";
import { Tensor } from "../../src/core/tensor.js";
import { FOUR_BIT_TABLES, type FourBitCompute, fourBitLinear } from "../../src/ops/four-bit.js";
import { type Compute, linear } from "../../src/ops/linear.js";
import { llmInt8Linear, quantizeRow } from "../../src/ops/llm-int8.js";
import { expectNoLeaks } from "../support/devices.js";
import { bytes, integers, normals } from "../support/random.js";
import { sharedGPU } from "../support/shared-gpu.js";
import { describeGPU, features } from "../support/webgpu.js";

interface Form {
  readonly name: string;
  readonly options: WebGPUOptions;
  /** Patterns of its shaders' keys, by op. */
  readonly keys: Readonly<Record<"4-bit" | "bf16" | "f16" | "int8", RegExp>>;
  readonly missing: string | false;
}

const FORMS: readonly Form[] = [
  {
    name: "f32",
    options: { f16: false, subgroupMatrix: false },
    keys: {
      "4-bit": /^four_bit_linear (?!.*half=).* tile=/,
      bf16: /^linear weight=bf16 (?!.*half=).* tile=/,
      f16: /^linear weight=f16 (?!.*half=).* tile=/,
      int8: /^llm_int8_linear (?!.*matrix=).* tile=/,
    },
    missing: false,
  },
  {
    name: "f16",
    options: { subgroupMatrix: false },
    keys: {
      "4-bit": /^four_bit_linear (?!.*matrix=).* half=true/,
      bf16: /^linear weight=bf16 (?!.*matrix=).* half=true/,
      // Two parts of x are used with subgroup matrices only.
      f16: /^linear weight=f16 (?!.*half=).* tile=/,
      int8: /^llm_int8_linear (?!.*matrix=).* tile=/,
    },
    missing: !features.has("shader-f16") && "the adapter has no shader-f16",
  },
  {
    name: "subgroup matrices",
    options: {},
    keys: {
      "4-bit": /^four_bit_linear .* half=true matrix=/,
      bf16: /^linear weight=bf16 .* half=true matrix=/,
      f16: /^linear weight=f16 .* half=true parts=2 matrix=/,
      int8: /^llm_int8_linear .* matrix=/,
    },
    missing: !features.has(SUBGROUP_MATRIX) && "the adapter has no subgroup matrices",
  },
];

/** Full tiles, tiles cut off along each dim, and tiles with more rows than x. */
const SIZES = [
  [64, 128, 64],
  [9, 64, 20],
  [70, 192, 130],
  [33, 320, 65],
] as const;
type Size = readonly [m: number, k: number, n: number];

/** Magnitudes of rows: inside and outside the range of f16, and subnormal or zero in it. */
const MAGNITUDES = [1, 1e6, 1e-9, 1e15, 0, 1e-18];

/** The largest error of x · wᵀ, in units of `rounding` times the sum of the magnitudes of an element's products. */
function worst(got: Float32Array, x: ArrayLike<number>, w: ArrayLike<number>, [m, k, n]: Size, rounding: number) {
  let most = 0;
  for (let r = 0; r < m; r++) {
    for (let c = 0; c < n; c++) {
      let sum = 0;
      let size = 0;
      for (let i = 0; i < k; i++) {
        const term = x[r * k + i]! * w[c * k + i]!;
        sum += term;
        size += Math.abs(term);
      }
      const off = Math.abs(got[r * n + c]! - sum);
      most = Math.max(most, off === 0 ? 0 : off / (size * rounding));
    }
  }
  return most;
}

/** Tolerance: a unit in the last of f16's 11 bits for each rounded operand, and f32 sums of K terms. */
const rounded = (operands: number, k: number): number => operands * 2 ** -10 + k * 2 ** -23;

async function checkFourBit(device: Device, size: Size, compute: FourBitCompute): Promise<void> {
  const [m, k, n] = size;
  const blocksize = 64;
  const perRow = k / blocksize;
  const x = normals(m, m * k).map((v, i) => v * MAGNITUDES[Math.floor(i / k) % 6]!);
  // Blocks of a row differ by a factor of 200 at most, rows by their magnitudes.
  const absmax = normals(5, n * perRow).map((v, i) => (Math.abs(v) + 0.02) * MAGNITUDES[Math.floor(i / perRow) % 4]!);
  const codes = bytes(7, (n * k) / 2);
  const table = FOUR_BIT_TABLES[0]!;
  const weight = Float32Array.from({ length: n * k }, (_, i) => {
    const byte = codes[i >>> 1]!;
    return table[i & 1 ? byte & 15 : byte >>> 4]! * absmax[Math.floor(i / blocksize)]!;
  });
  const tensors = [
    Tensor.from(device, x, [m, k]),
    Tensor.from(device, codes, [n, k], "u4"),
    Tensor.from(device, absmax, [n * perRow]),
  ] as const;
  const y = fourBitLinear(tensors[0], {
    codes: tensors[1],
    absmax: tensors[2],
    kind: "nf4",
    blocksize,
    compute,
    rounding: "f32",
  });
  const error = worst(await y.readFloats(), x, weight, size, rounded(compute === "f32" ? 0 : 2, k));
  expect(error, `${size}: error in units of what rounding explains`).toBeLessThan(1);
  for (const tensor of [...tensors, y]) tensor.dispose();
}

/** Magnitudes of rows of a dense weight; "mixed": elements of powers of ten from 10^-MIXED to 10^MIXED. */
const DENSE = { bf16: [1, 1e30, 0, 1e-25, "mixed"], f16: [1, 1e4, 0, 3e-6, "mixed"] } as const;
const MIXED = { bf16: 30, f16: 4 } as const;
/** Magnitudes of rows of x with which the results stay in the range of f32. */
const BESIDE = [1, 1e6, 1e-9, 0, 300];

function denseOperands([m, k, n]: Size, dtype: "bf16" | "f16"): { x: Float32Array; w: Float32Array } {
  const x = normals(m, m * k).map((v, i) => v * BESIDE[Math.floor(i / k) % 5]!);
  const powers = integers(9, n * k, -MIXED[dtype], MIXED[dtype]);
  const w = normals(6, n * k).map((v, i) => {
    const magnitude = DENSE[dtype][Math.floor(i / k) % 5]!;
    return v * (magnitude === "mixed" ? 10 ** powers[i]! : magnitude);
  });
  return { x, w };
}

async function checkDense(device: Device, size: Size, dtype: "bf16" | "f16", compute: Compute): Promise<void> {
  const [m, k, n] = size;
  const { x, w } = denseOperands(size, dtype);
  using left = Tensor.from(device, x, [m, k]);
  using weight = Tensor.from(device, w, [n, k], dtype);
  using y = linear(left, weight, {}, compute);
  const stored = await weight.readFloats();
  // Weights are not rounded: bf16 has fewer bits than f16.
  const error = worst(await y.readFloats(), x, stored, size, rounded(compute === "bf16" ? 1 : 0, k));
  expect(error, `${dtype} ${size}: error in units of what rounding explains`).toBeLessThan(1);
}

async function checkInt8(device: Device, size: Size): Promise<void> {
  const [m, k, n] = size;
  const threshold = 3;
  const x = normals(m, m * k).map((v, i) => (i % 97 === 5 ? 20 * v : v));
  const codes = Int8Array.from(integers(3, n * k, -127, 127));
  const scb = normals(4, n).map((v) => Math.abs(v) + 0.1);
  const rows = new Int8Array(m * k);
  // The multiplied values of a row: its codes times scale / 127, and its outliers unchanged.
  const seen = Float64Array.from(x);
  for (let r = 0; r < m; r++) {
    const row = x.subarray(r * k, (r + 1) * k);
    const own = rows.subarray(r * k, (r + 1) * k);
    const scale = quantizeRow(row, threshold, own);
    row.forEach((v, i) => {
      if (Math.abs(v) < threshold) seen[r * k + i] = (own[i]! * scale) / 127;
    });
  }
  const weight = Float64Array.from(codes, (code, i) => (code * scb[Math.floor(i / k)]!) / 127);
  using left = Tensor.from(device, x, [m, k]);
  using stored = Tensor.from(device, codes, [n, k]);
  using scales = Tensor.from(device, scb, [n]);
  using y = llmInt8Linear(left, { codes: stored, scb: scales, threshold });
  // Integer sums are exact; only a few roundings and the sums of the outliers remain.
  const error = worst(await y.readFloats(), seen, weight, size, 32 * 2 ** -24);
  expect(error, `int8 ${size}: error in units of what rounding explains`).toBeLessThan(1);
}

/** Weights and activations with NaN and infinities: each result is NaN, infinite or finite as the plain sum is. */
async function checkExtremes(device: Device, dtype: "bf16" | "f16", compute: Compute): Promise<void> {
  const [m, k, n] = [20, 64, 70];
  const x = normals(1, m * k);
  const w = normals(2, n * k);
  x[3 * k + 5] = Number.NaN;
  x[7 * k + 9] = Number.POSITIVE_INFINITY;
  x[8 * k + 1] = Number.NEGATIVE_INFINITY;
  w[11 * k + 2] = Number.POSITIVE_INFINITY;
  w[12 * k + 40] = Number.NaN;
  w[66 * k + 63] = Number.NEGATIVE_INFINITY;
  using left = Tensor.from(device, x, [m, k]);
  using weight = Tensor.from(device, w, [n, k], dtype);
  using y = linear(left, weight, {}, compute);
  const stored = await weight.readFloats();
  const kind = (v: number): string => (Number.isNaN(v) ? "NaN" : Number.isFinite(v) ? "finite" : String(v));
  const want = Array.from({ length: m * n }, (_, i) => {
    let sum = 0;
    for (let j = 0; j < k; j++) sum += x[Math.floor(i / n) * k + j]! * stored[(i % n) * k + j]!;
    return kind(sum);
  });
  expect(Array.from(await y.readFloats(), kind)).toEqual(want);
}

describeGPU("WebGPU tiles", () => {
  for (const { name, options, keys, missing } of FORMS) {
    describe.skipIf(missing)(missing ? `${name} (${missing})` : name, { timeout: 120_000 }, () => {
      const on = async (key: RegExp, body: (device: Device) => Promise<void>): Promise<void> => {
        const backend = await openWebGPU(sharedGPU!, options);
        await using device = new Device(backend);
        await body(device);
        expect([...backend.used].filter((used) => key.test(used)).length).toBeGreaterThan(0);
        expectNoLeaks(device);
      };

      test.each(SIZES)("4-bit %i x %i x %i", (...size) =>
        on(keys["4-bit"], async (device) => {
          for (const compute of ["bf16", "int8"] as const) await checkFourBit(device, size, compute);
        }),
      );

      test.each(SIZES)("bf16 %i x %i x %i", (...size) =>
        on(keys.bf16, (device) => checkDense(device, size, "bf16", "bf16")),
      );

      test.each(SIZES)("f16, exactly, %i x %i x %i", (...size) =>
        on(keys.f16, (device) => checkDense(device, size, "f16", "f32")),
      );

      test.each(SIZES)("int8 %i x %i x %i", (...size) => on(keys.int8, (device) => checkInt8(device, size)));

      test("NaN and infinities come through", async () => {
        await on(keys.bf16, (device) => checkExtremes(device, "bf16", "bf16"));
        await on(keys.f16, (device) => checkExtremes(device, "f16", "f32"));
      });
    });
  }

  test("operands are not rounded where the call wants f32", { timeout: 120_000 }, async () => {
    const backend = await openWebGPU(sharedGPU!);
    await using device = new Device(backend);
    await checkFourBit(device, [70, 192, 130], "f32");
    await checkDense(device, [70, 192, 130], "bf16", "f32");
    expect([...backend.used].filter((used) => used.includes("half"))).toEqual([]);
    expectNoLeaks(device);
  });
});
