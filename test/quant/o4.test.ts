// O4: what its codes mean, what weights in it do, and how close it stays, beside other forms of four bits.

import { describe, expect, test } from "vitest";
import type { Device } from "../../src/core/device.js";
import { scope, Tensor } from "../../src/core/tensor.js";
import type { Scheme, Weight } from "../../src/nn/weight.js";
import { fourBitScheme } from "../../src/quant/four-bit.js";
import { o4Scheme } from "../../src/quant/o4.js";
import { codedRows } from "../conformance/cases/coded.js";
import { ALL_DEVICES } from "../support/devices.js";
import { difference } from "../support/fixtures.js";
import { normals } from "../support/random.js";
import { onDevice } from "../support/suites.js";
import { iq4nl, q4k, q40 } from "./published.js";

const floats = async (tensor: Tensor): Promise<Float32Array> => {
  try {
    return await tensor.readFloats();
  } finally {
    tensor.dispose();
  }
};

/** A weight whose rows arrive in pieces of the given sizes, in units of the granularity. */
function build(
  device: Device,
  scheme: Scheme,
  values: Float32Array,
  [N, K]: readonly [number, number],
  pieces: readonly number[] = [1000],
  experts = 1,
): Weight {
  return scope(() => {
    const builder = scheme.begin(device, [N, K], "weight", experts);
    let next = 0;
    for (let first = 0; first < N; first += N / experts) {
      for (let at = 0; at < N / experts; ) {
        const count = Math.min(N / experts - at, pieces[next++ % pieces.length]! * builder.granularity);
        const rows = values.subarray((first + at) * K, (first + at + count) * K);
        builder.put(Tensor.from(device, rows, [count, K]), first + at);
        at += count;
      }
    }
    return builder.finish();
  });
}

/** Squared error relative to the squares of the values. */
function lossOf(values: ArrayLike<number>, decoded: ArrayLike<number>): number {
  let [off, all] = [0, 0];
  for (let i = 0; i < values.length; i++) {
    off += (decoded[i]! - values[i]!) ** 2;
    all += values[i]! ** 2;
  }
  return off / all;
}

describe.each(ALL_DEVICES)("O4 on %s", (name) => {
  let device: Device;
  onDevice(name, (opened) => (device = opened));

  test.each([
    [40, 64],
    [33, 46],
    [30, 7],
  ])("a %i x %i weight is close, and zeros stay zeros", async (N, K) => {
    const values = normals(N * K, N * K).map((x, i) => (i % K === 3 ? 0 : x));
    const weight = build(device, o4Scheme("f32"), values, [N, K]);
    expect(weight.scheme).toBe("o4");
    expect(weight.footprint).toBe(Math.ceil((N * K) / 2));
    const decoded = await floats(weight.dense("f32"));
    weight.dispose();
    expect(lossOf(values, decoded)).toBeLessThan(0.0065); // of NF4 0.0085
    decoded.forEach((value, i) => {
      if (i % K === 3) expect(value + 0).toBe(0);
    });
  });

  test("products and looked-up rows are those of the decoded values", async () => {
    const [N, K, M] = [48, 96, 3];
    const x = normals(1, M * K);
    // In 8-bit codes the table is exact and activations are in 127 steps of the largest of 32; few rows are exact in WGSL.
    const steps = name === "webgpu" ? x : codedRows(x, 32);
    for (const [compute, most, seen] of [
      ["f32", 1e-5, x],
      ["int8", 1e-5, steps],
      // Activations in eight bits of a float: some hundredths of a product's size.
      ["bf16", 0.03, x],
    ] as const) {
      const weight = build(device, o4Scheme(compute), normals(2, N * K), [N, K]);
      const dense = await floats(weight.dense("f32"));
      const want = Float32Array.from({ length: M * N }, (_, i) => {
        let sum = 0;
        for (let k = 0; k < K; k++) sum += seen[Math.floor(i / N) * K + k]! * dense[(i % N) * K + k]!;
        return sum;
      });
      const y = scope(() => weight.linear(Tensor.from(device, x, [M, K])));
      expect(difference(await floats(y), want).max).toBeLessThan(most * Math.sqrt(K));
      const rows = scope(() => weight.rows(Tensor.from(device, Int32Array.of(7, 47, 0), [3], "i32")));
      expect([...(await floats(rows))]).toEqual([7, 47, 0].flatMap((n) => [...dense.subarray(n * K, (n + 1) * K)]));
      weight.dispose();
    }
  });

  test("the matrices of a stack share a table and nothing else", async () => {
    // Rows of whole blocks, and experts that end inside a group of 256 blocks.
    for (const [each, K] of [
      [16, 64],
      [6, 50],
    ] as const) {
      const values = normals(5, 2 * each * K).map((x, i) => (i < each * K ? x : 100 * x));
      const weight = build(device, o4Scheme("f32"), values, [2 * each, K], [1000], 2);
      const dense = await floats(weight.dense("f32"));
      const first = build(device, o4Scheme("f32"), values.subarray(0, each * K), [each, K]);
      expect([...dense.subarray(0, each * K)]).toEqual([...(await floats(first.dense("f32")))]);
      expect(lossOf(values.subarray(each * K), dense.subarray(each * K))).toBeLessThan(0.0075);
      for (const one of [weight, first]) one.dispose();
    }
  });

  test("what is no number spoils its row alone", async () => {
    const values = normals(6, 20 * 64);
    [values[3 * 64 + 5], values[9 * 64 + 40], values[12 * 64]] = [Number.NaN, Number.POSITIVE_INFINITY, 1e31];
    const weight = build(device, o4Scheme("f32"), values, [20, 64]);
    const dense = await floats(weight.dense("f32"));
    weight.dispose();
    const bad = Array.from({ length: 20 }, (_, row) => dense.subarray(row * 64, row * 64 + 64).some(Number.isNaN));
    expect(bad.flatMap((is, row) => (is ? [row] : []))).toEqual([3, 9, 12]);
  });

  test("plans count the bytes that weights take: 4.3 bits for each element of long rows", () => {
    expect((8 * o4Scheme("f32").bytes([4096, 4096])) / 4096 ** 2).toBeLessThan(4.26);
    expect((8 * o4Scheme("f32").bytes([1024, 1024])) / 1024 ** 2).toBeLessThan(4.3);
    for (const [N, K] of [
      [64, 128],
      [33, 46],
    ] as const) {
      const weight = build(device, o4Scheme("f32"), normals(1, N * K), [N, K]);
      // Panels round the rows up to a multiple of sixteen.
      const padding = Math.ceil((Math.ceil(N / 16) * 16 - N) * K * 0.5);
      const more = weight.nbytes - o4Scheme("f32").bytes([N, K]);
      expect(more).toBeGreaterThanOrEqual(0);
      expect(more).toBeLessThanOrEqual(padding + 16);
      weight.dispose();
    }
  });
});

describe("O4 of larger matrices", () => {
  let device: Device;
  onDevice("cpu", (opened) => (device = opened));

  test("a weight is the same however its rows arrive", async () => {
    const [N, K] = [900, 46]; // three pieces; groups of blocks end inside rows
    const values = normals(4, N * K);
    const decoded: Float32Array[] = [];
    for (const pieces of [[1000], [1], [2, 1]]) {
      const weight = build(device, o4Scheme("f32"), values, [N, K], pieces);
      decoded.push(await floats(weight.dense("f32")));
      weight.dispose();
    }
    expect(decoded[1]).toEqual(decoded[0]);
    expect(decoded[2]).toEqual(decoded[0]);
  });

  const [N, K, M] = [64, 1024, 16];
  /** Student's t with some degrees of freedom: weights with a few that are very large. */
  const heavy = (degrees: number): Float32Array => {
    const squares = Array.from({ length: degrees }, (_, i) => normals(50 + i, N * K));
    return normals(40, N * K).map((x, i) => {
      return x / Math.sqrt(squares.reduce((sum, one) => sum + one[i]! ** 2, 0) / degrees);
    });
  };
  const outlying = (column: number): boolean => column % 97 === 11;
  const columns = (values: Float32Array, by: number): Float32Array =>
    values.map((x, i) => (outlying(i % K) ? x * by : x));

  // Squared errors of products, relative to those of NF4: the most that O4 may have. A scalar code of 16 values cannot halve the error of
  // normal weights, which is near the least that one can have (Max 1960); weights with large columns or heavy tails gain more.
  test.each([
    ["normal weights", normals(1, N * K), 1, 0.66],
    ["weights with heavy tails (t, 3 degrees)", heavy(3), 1, 0.62],
    ["weights with heavy tails (t, 2 degrees)", heavy(2), 1, 0.5],
    ["columns with large weights", columns(normals(2, N * K), 16), 1, 0.35],
    ["outliers among activations, undone in the weights' columns", columns(normals(3, N * K), 1 / 32), 32, 0.95],
  ] as const)("the error of products beside other forms of four bits: %s", async (_, values, scale, most) => {
    const x = columns(normals(9, M * K), scale);
    const products = (weights: ArrayLike<number>): Float32Array =>
      Float32Array.from({ length: M * N }, (_, i) => {
        const [m, n] = [Math.floor(i / N) * K, (i % N) * K];
        let sum = 0;
        for (let k = 0; k < K; k++) sum += x[m + k]! * weights[n + k]!;
        return sum;
      });
    const want = products(values);
    const of = async (scheme: Scheme): Promise<number> => {
      const weight = build(device, scheme, values, [N, K]);
      const loss = lossOf(want, products(await floats(weight.dense("f32"))));
      weight.dispose();
      return loss;
    };
    const nf4 = await of(fourBitScheme({ kind: "nf4", blocksize: 64, double_quant: false, compute: "f32" }));
    const o4 = await of(o4Scheme("f32"));
    const others = [q40, q4k, iq4nl].map((decoded) => lossOf(want, products(decoded(values))));
    expect(o4 / nf4).toBeLessThan(most);
    expect(o4 / others[0]!).toBeLessThan(1);
  });
});
