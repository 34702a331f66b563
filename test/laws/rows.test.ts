// Law: what an op makes of a row does not depend on how many rows came with it, bit for bit, though products take other
// kernels for one row than for many. On each instruction set level of the native kernels that this machine has.

import { afterAll, describe, expect, test } from "vitest";
import { machineInfo, nativeAvailable } from "../../src/backends/native/addon.js";
import type { Device } from "../../src/core/device.js";
import { scope, Tensor } from "../../src/core/tensor.js";
import { openDevice } from "../../src/load/device.js";
import { denseScheme, type Scheme } from "../../src/nn/weight.js";
import { activation } from "../../src/ops/activation.js";
import { embedding } from "../../src/ops/embedding.js";
import type { FourBitCompute } from "../../src/ops/four-bit.js";
import { gated } from "../../src/ops/gated.js";
import { layerNorm } from "../../src/ops/layer-norm.js";
import type { Compute } from "../../src/ops/linear.js";
import { rmsNorm } from "../../src/ops/rms-norm.js";
import { fourBitScheme } from "../../src/quant/four-bit.js";
import { llmInt8Scheme } from "../../src/quant/llm-int8.js";
import { o4Scheme } from "../../src/quant/o4.js";
import { expectNoLeaks } from "../support/devices.js";
import { integers, normals } from "../support/random.js";

const why = nativeAvailable() ? undefined : "the native add-on is not built";
const info = why ? undefined : machineInfo();
/**
 * Matrix units keep an order of sums of their own and serve many rows only: the law holds for the levels below them, which
 * a device opened as `deterministic` takes.
 */
const LEVELS = info?.isasCompiled.filter((isa) => info.isasSupported.includes(isa) && isa !== "amx") ?? ["cpu"];

const ROWS = 512;
/** First row and number of rows: around the sizes of tiles (2, 6, 12), and where kernels change (4, 12, 24 rows). */
const PARTS = [
  ...[1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 13, 17, 24, 25, 36, 37, 64, 265].map((count, i) => [i * 7, count] as const),
  [511, 1],
  [300, 8],
] as const;

const four = (kind: "nf4" | "fp4", blocksize: number, double_quant: boolean, compute: FourBitCompute): Scheme =>
  fourBitScheme({ kind, blocksize, double_quant, compute });
const COMPUTES: readonly FourBitCompute[] = ["f32", "bf16", "int8"];
const SCHEMES: readonly (readonly [string, Scheme])[] = [
  ...(["f32", "f16", "bf16"] as const).map((dtype) => [dtype, denseScheme(dtype, true, "f32")] as const),
  ["bf16 in bf16", denseScheme("bf16", true, "bf16" satisfies Compute)],
  ["int8", llmInt8Scheme(6)],
  ["int8 without outliers", llmInt8Scheme(0)],
  ...COMPUTES.flatMap((compute) => [
    [`nf4 ${compute}`, four("nf4", 64, false, compute)] as const,
    [`nf4 twice ${compute}`, four("nf4", 64, true, compute)] as const,
    [`fp4 ${compute}`, four("fp4", 128, false, compute)] as const,
    [`nf4 in blocks of 1024 ${compute}`, four("nf4", 1024, false, compute)] as const,
    [`o4 ${compute}`, o4Scheme(compute)] as const,
  ]),
];
/**
 * Outputs and inputs. Outputs that no panel divides; so many that a single row takes wide groups of panels; inputs that blocks
 * of 1024 divide, that they reach across, and that fit no step of any format.
 */
const SHAPES = [
  [72, 576],
  [1048, 192],
  [40, 2048],
  [24, 77],
] as const;

/** Compares the rows of `op` of some rows with those of `op` of all. */
async function compare(
  device: Device,
  all: Float32Array,
  width: number,
  op: (x: Tensor, first: number) => Tensor,
): Promise<void> {
  const run = async (first: number, count: number): Promise<Uint32Array> => {
    const x = all.slice(first * width, (first + count) * width);
    const y = scope(() => op(Tensor.from(device, x, [count, width]), first));
    const values = await y.readFloats();
    y.dispose();
    return new Uint32Array(values.buffer, values.byteOffset, values.length);
  };
  const whole = await run(0, ROWS);
  const wide = whole.length / ROWS;
  const bad: string[] = [];
  for (const [first, count] of PARTS) {
    const part = await run(first, count);
    const at = part.findIndex((bits, i) => bits !== whole[first * wide + i]);
    if (at >= 0) bad.push(`${count} rows: row ${Math.floor(at / wide)}, column ${at % wide}`);
  }
  expect(bad).toEqual([]);
}

describe.skipIf(why !== undefined).each(LEVELS)(why ? `rows (${why})` : "rows on %s", (isa) => {
  const device = why ? undefined! : openDevice("cpu", { isa, threads: 2 });
  afterAll(async () => {
    if (why) return;
    expectNoLeaks(device);
    await device.close();
  });

  const rowsOf = (width: number): Float32Array => {
    const x = normals(1, ROWS * width);
    for (let i = 0; i < x.length; i += 331) x[i]! *= 20; // outliers, in some rows
    return x;
  };

  test.each(SCHEMES)("product: %s", async (name, scheme) => {
    for (const [outputs, inputs] of SHAPES) {
      if (inputs % 2 === 1 && /nf4|fp4|o4/.test(name)) continue; // nibbles come in pairs
      const builder = scheme.begin(device, [outputs, inputs], name);
      const values = Tensor.from(device, normals(2, outputs * inputs, 0.1), [outputs, inputs]);
      builder.put(values, 0);
      values.dispose();
      const weight = builder.finish();
      try {
        await compare(device, rowsOf(inputs), inputs, (x) => weight.linear(x, { act: "gelu" }));
      } finally {
        weight.dispose();
      }
    }
  });

  test("norms, activations, gates and embeddings", async () => {
    const width = 203;
    const x = rowsOf(width);
    const weight = Tensor.from(device, normals(3, width), [width]);
    const table = Tensor.from(device, normals(4, 50 * width), [50, width]);
    const ids = integers(5, ROWS, 0, 49);
    try {
      await compare(device, x, width, (t) => rmsNorm(t, weight, 1e-5));
      await compare(device, x, width, (t) => layerNorm(t, weight, weight, 1e-5));
      for (const act of ["gelu", "gelu_tanh", "silu", "relu"] as const) {
        await compare(device, x, width, (t) => activation(t, act));
        await compare(device, x, width, (t) => gated(t, activation(t, "relu"), act));
      }
      await compare(device, x, width, (t, first) => {
        const some = ids.slice(first, first + t.shape[0]!);
        return embedding(table, Tensor.from(device, some, [some.length]));
      });
    } finally {
      weight.dispose();
      table.dispose();
    }
  });
});
