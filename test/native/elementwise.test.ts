// Element-wise kernels and copy, each against a few lines of plain JavaScript, on shapes that do not fit the vectors.

import { describe, expect } from "vitest";
import { close, everywhere, round } from "./everywhere.js";
import { distance, noise } from "./helpers.js";

const { exp, tanh, sqrt, fround, max } = Math;

/** erf by its series and continued fraction, to double precision. */
function erf(x: number): number {
  const a = Math.abs(x);
  if (a > 6) return Math.sign(x);
  if (a < 2.5) {
    let term = x;
    let total = x;
    for (let n = 1; n < 80; n++) {
      term *= (-x * x) / n;
      total += term / (2 * n + 1);
    }
    return (2 / sqrt(Math.PI)) * total;
  }
  let f = a;
  for (let n = 60; n > 0; n--) f = a + n / 2 / f;
  return Math.sign(x) * (1 - exp(-a * a) / (f * sqrt(Math.PI)));
}
const ACTS: readonly ((x: number) => number)[] = [
  (x) => x,
  (x) => max(x, 0),
  (x) => 0.5 * x * (1 + erf(x / Math.SQRT2)),
  (x) => 0.5 * x * (1 + tanh(0.7978845608 * (x + 0.044715 * x ** 3))),
  (x) => x / (1 + exp(-x)),
  (x) => x / (1 + exp(-1.702 * x)),
  tanh,
  (x) => 1 / (1 + exp(-x)),
];

describe("element-wise", () => {
  ACTS.forEach((act, code) => {
    everywhere(`activation ${code}`, async (m) => {
      const results: Float32Array[] = [];
      for (const size of [1, 15, 16, 50_001]) {
        const x = noise(size, size, 4);
        if (size > 10_000) for (let i = 0; i < 10_000; i++) x[i] = (i - 5000) / 400;
        x.set([0, -0, 88.9, -88.9, 1000, -1000, 1e-30].slice(0, size));
        const y = m.empty([size]);
        m.run("activation", [m.from(x, [size]), y], [code]);
        results.push(await close(m, y, x.map(act), 3e-7));
      }
      const y = m.empty([3]);
      m.run("activation", [m.from([Number.NaN, 1, 2], [3]), y], [code]);
      expect(Number.isNaN((await m.floats(y))[0])).toBe(true);
      return results;
    });
  });

  everywhere("gated, contiguous and from one fused matrix", async (m) => {
    const [rows, K] = [37, 1037];
    const both = noise(rows * K * 2);
    const x = m.from(both, [rows, 2 * K]);
    const y = m.empty([rows, K]);
    m.run("gated", [m.view(x, [rows, K], [2 * K, 1]), m.view(x, [rows, K], [2 * K, 1], 4 * K), y], [4]);
    const expected = Float32Array.from({ length: rows * K }, (_, i) => {
      const at = Math.floor(i / K) * 2 * K + (i % K);
      return ACTS[4]!(both[at]!) * both[at + K]!;
    });
    const z = m.empty([rows, K]);
    m.run("gated", [m.view(x, [rows, K], [2 * K, 2]), m.view(x, [rows, K], [2 * K, 2], 4), z], [2]);
    const odd = expected.map((_, i) => ACTS[2]!(both[2 * i]!) * both[2 * i + 1]!);
    return [await close(m, y, expected, 5e-7), await close(m, z, odd, 5e-7)];
  });

  everywhere("add, scale, advance", async (m) => {
    const n = 70_003;
    const [a, b] = [noise(n, 3), noise(n, 4)];
    const [x, y] = [m.from(a, [n]), m.empty([n])];
    m.run("add", [x, m.from(b, [n]), y]);
    const sum = await close(
      m,
      y,
      a.map((v, i) => fround(v + b[i]!)),
      0,
    );
    m.run("scale", [x, y], [[0.5], [0]]);
    const scaled = await close(
      m,
      y,
      a.map((v) => v * 0.5),
      0,
    );
    m.run("scale", [x, y], [[8], [5]]);
    const capped = await close(
      m,
      y,
      a.map((v) => 5 * tanh((v * 8) / 5)),
      3e-7,
    );
    const c = m.from([1, -5, 2147483647], [3], "i32");
    m.run("advance", [c], [2]);
    expect(await m.ints(c)).toEqual([3, -3, -2147483647]);
    return [sum, scaled, capped];
  });
});

describe("copy", () => {
  everywhere("between dtypes, rounding half to even", async (m) => {
    const x = noise(1000, 5, 300);
    x.set([0, -0, Infinity, -Infinity, 65504, 65520, 1e-8, 6e-8, 1.00048828125, 3e38]);
    const results: Float32Array[] = [];
    for (const from of ["f32", "f16", "bf16"] as const) {
      const source = x.map((v) => round(from, v));
      for (const to of ["f32", "f16", "bf16"] as const) {
        const y = m.empty([1000], to);
        m.run("copy", [m.from(x, [1000], from), y]);
        results.push(
          await close(
            m,
            y,
            source.map((v) => round(to, v)),
            0,
          ),
        );
      }
    }
    const i = m.empty([5], "i32");
    m.run("copy", [m.from([1.9, -1.9, Number.NaN, 3e9, -3e9], [5]), i]);
    expect(await m.ints(i)).toEqual([1, -1, 0, 2147483647, -2147483648]);
    const f = m.empty([5]);
    m.run("copy", [i, f]);
    results.push(await m.floats(f));
    expect([...results.at(-1)!]).toEqual([1, -1, 0, 2147483648, -2147483648]);
    return results;
  });

  everywhere("any strides on both sides", async (m) => {
    const shape = [3, 17, 5, 41];
    const size = 3 * 17 * 5 * 41;
    const values = Float32Array.from({ length: size }, (_, i) => i);
    const x = m.from(values, shape);
    const at = (strides: readonly number[], index: readonly number[]) =>
      index.reduce((n, i, d) => n + i * strides[d]!, 0);
    const plain = [17 * 5 * 41, 5 * 41, 41, 1];
    const results: Float32Array[] = [];
    for (const order of [
      [0, 2, 1, 3],
      [3, 2, 1, 0],
      [0, 1, 3, 2],
      [1, 3, 0, 2],
    ]) {
      const to = order.map((d) => shape[d]!);
      const strides = order.map((d) => plain[d]!);
      const y = m.empty(to);
      m.run("copy", [m.view(x, to, strides), y]);
      const got = await m.floats(y);
      const back = m.empty(shape);
      m.run("copy", [y, m.view(back, to, strides)]);
      expect(distance(await m.floats(back), values)).toBe(0);
      const expected = new Float32Array(size);
      let n = 0;
      const index = [0, 0, 0, 0];
      for (index[0] = 0; index[0] < to[0]!; index[0]++)
        for (index[1] = 0; index[1] < to[1]!; index[1]++)
          for (index[2] = 0; index[2] < to[2]!; index[2]++)
            for (index[3] = 0; index[3] < to[3]!; index[3]++) expected[n++] = values[at(strides, index)]!;
      expect(distance(got, expected)).toBe(0);
      results.push(got);
    }
    const wide = m.empty([4, 3]);
    m.run("copy", [m.view(x, [4, 3], [0, 1]), wide]);
    expect([...(await m.floats(wide))]).toEqual([0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2]);
    const one = m.empty([]);
    m.run("copy", [m.view(x, [], null, 8), one]);
    expect([...(await m.floats(one))]).toEqual([2]);
    const large = noise(700 * 301);
    const t = m.empty([301, 700]);
    m.run("copy", [m.view(m.from(large, [700, 301]), [301, 700], [1, 301]), t]);
    const flipped = large.map((_, i) => large[(i % 700) * 301 + Math.floor(i / 700)]!);
    results.push(await close(m, t, flipped, 0));
    return results;
  });
});
