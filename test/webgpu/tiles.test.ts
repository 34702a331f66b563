// Products of many rows in each form of tile that the adapter offers: f32, f16, subgroup matrices. SwiftShader has the
// first only; llvmpipe has f16 in Mesa 25.0, and subgroup matrices too in 26.2: VK_ICD_FILENAMES chooses. Rows far
// beyond the range of f16 show that it is left by scaling, not by luck.

import { describe, expect, test } from "vitest";
import { SUBGROUP_MATRIX } from "../../src/backends/webgpu/adapter.js";
import { openWebGPU, type WebGPUOptions } from "../../src/backends/webgpu/index.js";
import { Device } from "../../src/core/device.js";
import { Tensor } from "../../src/core/tensor.js";
import { FOUR_BIT_TABLES, type FourBitCompute, fourBitLinear } from "../../src/ops/four-bit.js";
import { expectNoLeaks } from "../support/devices.js";
import { bytes, normals } from "../support/random.js";
import { describeGPU, features, gpu } from "../support/webgpu.js";

interface Form {
  readonly name: string;
  readonly options: WebGPUOptions;
  /** What the key of its shader holds. */
  readonly key: RegExp;
  readonly missing: string | false;
}

const FORMS: readonly Form[] = [
  { name: "f32", options: { f16: false }, key: /^four_bit_linear (?!.*half=).* tile=/, missing: false },
  {
    name: "f16",
    options: { subgroupMatrix: false },
    key: /^four_bit_linear (?!.*matrix=).* half=true/,
    missing: !features.has("shader-f16") && "the adapter has no shader-f16",
  },
  {
    name: "subgroup matrices",
    options: {},
    key: /^four_bit_linear .* half=true matrix=/,
    missing: !features.has(SUBGROUP_MATRIX) && "the adapter has no subgroup matrices",
  },
];

/** Magnitudes of rows: what f16 holds, what it does not, and what would be subnormal or nothing in it. */
const MAGNITUDES = [1, 1e6, 1e-9, 1e15, 0, 1e-18];

async function checkProduct(device: Device, [M, K, N]: readonly number[], compute: FourBitCompute): Promise<void> {
  const [m, k, n] = [M!, K!, N!];
  const blocksize = 64;
  const perRow = k / blocksize;
  const x = normals(m, m * k).map((v, i) => v * MAGNITUDES[Math.floor(i / k) % 6]!);
  // Blocks of a row differ by two hundred at most, rows by their magnitudes.
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
  const y = fourBitLinear(tensors[0], { codes: tensors[1], absmax: tensors[2], kind: "nf4", blocksize, compute });
  const got = await y.readFloats();
  // Each operand to the 11 bits of f16, a unit in the last place; and sums of K terms in f32.
  const rounding = (compute === "f32" ? 0 : 2 * 2 ** -10) + k * 2 ** -23;
  let worst = 0;
  for (let r = 0; r < m; r++) {
    for (let c = 0; c < n; c++) {
      let sum = 0;
      let size = 0;
      for (let i = 0; i < k; i++) {
        const term = x[r * k + i]! * weight[c * k + i]!;
        sum += term;
        size += Math.abs(term);
      }
      const off = Math.abs(got[r * n + c]! - sum);
      worst = Math.max(worst, off === 0 ? 0 : off / (size * rounding));
    }
  }
  expect(worst, `${m} x ${k} x ${n}: error in units of what rounding explains`).toBeLessThan(1);
  for (const tensor of [...tensors, y]) tensor.dispose();
}

describeGPU("WebGPU tiles", () => {
  for (const { name, options, key, missing } of FORMS) {
    describe.skipIf(missing)(missing ? `${name} (${missing})` : name, () => {
      // Tiles that are full, that end early each way, and that are higher than the rows.
      test.each([
        [64, 128, 64],
        [9, 64, 20],
        [70, 192, 130],
        [33, 320, 65],
      ])("%i x %i x %i", { timeout: 120_000 }, async (...sizes) => {
        const backend = await openWebGPU(gpu!, options);
        await using device = new Device(backend);
        for (const compute of ["bf16", "int8"] as const) await checkProduct(device, sizes, compute);
        expect([...backend.used].some((used) => key.test(used))).toBe(true);
        expectNoLeaks(device);
      });
    });
  }

  test("operands are not rounded where the call wants f32", { timeout: 120_000 }, async () => {
    const backend = await openWebGPU(gpu!);
    await using device = new Device(backend);
    await checkProduct(device, [70, 192, 130], "f32");
    expect([...backend.used].filter((used) => used.includes("half"))).toEqual([]);
    expectNoLeaks(device);
  });
});
