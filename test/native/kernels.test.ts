// The kernels that belong to the runtime's own files, each against a few lines of plain JavaScript, on shapes that do
// not fit the vectors, at every instruction set level that this machine has, with one thread and with three.

import { afterAll, describe, expect, test } from "vitest";
import { machineInfo } from "../../src/backends/native/index.js";
import { type DType, fromBf16, fromF16, toBf16, toF16 } from "../../src/core/dtype.js";
import { distance, Machine, noise, type Operand } from "./helpers.js";

const info = machineInfo();
const levels = info.isasCompiled.filter((isa) => info.isasSupported.includes(isa));
const machines = levels.flatMap((isa) => [1, 3].map((threads) => new Machine({ isa, threads })));

afterAll(() => Promise.all(machines.map((m) => m.backend.close())));

const { exp, tanh, sqrt, fround, max } = Math;
const round = (dtype: DType, x: number) =>
  dtype === "f16" ? fromF16(toF16(x)) : dtype === "bf16" ? fromBf16(toBf16(x)) : x;

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

/** Runs the body on every machine; results of equal levels must be equal bit for bit. */
function everywhere(name: string, body: (m: Machine) => Promise<ArrayLike<number>[]>): void {
  test(name, async () => {
    for (const isa of levels) {
      const [one, three] = await Promise.all(machines.filter((m) => m.backend.isa === isa).map(body));
      expect(one!.length).toBe(three!.length);
      for (const [i, values] of one!.entries()) expect(distance(values, three![i]!), `${isa}: threads`).toBe(0);
    }
  });
}

async function close(m: Machine, got: Operand, expected: ArrayLike<number>, tolerance: number): Promise<Float32Array> {
  const values = await m.floats(got);
  expect(distance(values, expected), m.backend.description).toBeLessThanOrEqual(tolerance);
  return values;
}

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

describe("norms and rope", () => {
  everywhere("rms_norm and layer_norm", async (m) => {
    const results: Float32Array[] = [];
    for (const [rows, K] of [
      [1, 1],
      [3, 7],
      [67, 1001],
    ] as const) {
      const x = noise(rows * K, K, 3);
      const input = m.from(x, [rows, K]);
      const y = m.empty([rows, K]);
      const mean = (f: (e: number, row: number) => number) =>
        Array.from({ length: rows }, (_, r) => x.subarray(r * K, r * K + K).reduce((n, e) => n + f(e, r), 0) / K);
      const squares = mean((e) => e * e);
      const means = mean((e) => e);
      const variances = mean((e, row) => (e - means[row]!) ** 2);
      for (const dtype of ["f32", "f16", "bf16"] as const) {
        const [w, b] = [noise(K, 8), noise(K, 9)].map((v) => v.map((e) => round(dtype, e)));
        const [weight, bias] = [m.from(w!, [K], dtype), m.from(b!, [K], dtype)];
        m.run("rms_norm", [input, weight, y], [[1e-5], [1]]);
        const rms = x.map((v, i) => v / sqrt(squares[Math.floor(i / K)]! + 1e-5));
        const shifted = rms.map((v, i) => v * (w![i % K]! + 1));
        results.push(await close(m, y, shifted, 2e-6));
        m.run("layer_norm", [input, weight, bias, y], [[1e-5]]);
        const normal = x.map((v, i) => {
          const row = Math.floor(i / K);
          return (v - means[row]!) / sqrt(variances[row]! + 1e-5);
        });
        const scaled = normal.map((v, i) => v * w![i % K]! + b![i % K]!);
        results.push(await close(m, y, scaled, 2e-6));
        m.run("layer_norm", [input, undefined, undefined, y], [[1e-5]]);
        results.push(await close(m, y, normal, 2e-6));
      }
    }
    return results;
  });

  everywhere("rope_table and rope, both styles", async (m) => {
    const [B, T, H, D, R] = [2, 9, 3, 46, 19];
    const positions = Int32Array.from({ length: B * T }, (_, i) => i * 1371);
    const inv = Float32Array.from({ length: R }, (_, r) => 10000 ** (-r / R));
    const table = m.empty([B, T, 2, R]);
    m.run("rope_table", [m.from(positions, [B, T], "i32"), m.from(inv, [R]), table], [[1.5]]);
    const angle = (bt: number, r: number) => fround(positions[bt]! * inv[r]!);
    const wanted = Float32Array.from({ length: B * T * 2 * R }, (_, i) => {
      const [bt, half, r] = [Math.floor(i / (2 * R)), Math.floor(i / R) % 2, i % R];
      return (half ? Math.sin : Math.cos)(angle(bt, r)) * 1.5;
    });
    const results = [await close(m, table, wanted, 2e-7)];
    const x = noise(B * T * H * D, 11);
    const heads = m.from(x, [B, H, T, D]);
    for (const [source, strides] of [
      [m.from(x, [B, T, H, D]), [T * H * D, H * D, D, 1]],
      [m.view(heads, [B, T, H, D], [H * T * D, D, T * D, 1]), [H * T * D, D, T * D, 1]],
    ] as const) {
      for (const interleaved of [0, 1]) {
        const y = m.empty([B, T, H, D]);
        m.run("rope", [source, table, y], [interleaved]);
        const expected = new Float32Array(x.length);
        for (let row = 0; row < B * T * H; row++) {
          const [b, t, h] = [Math.floor(row / (T * H)), Math.floor(row / H) % T, row % H];
          const from = b * strides[0]! + t * strides[1]! + h * strides[2]!;
          for (let d = 0; d < D; d++) expected[row * D + d] = x[from + d]!;
          for (let r = 0; r < R; r++) {
            const [i, j] = interleaved ? [2 * r, 2 * r + 1] : [r, r + R];
            const [c, s] = [Math.cos(angle(b * T + t, r)) * 1.5, Math.sin(angle(b * T + t, r)) * 1.5];
            expected[row * D + i] = x[from + i]! * c - x[from + j]! * s;
            expected[row * D + j] = x[from + j]! * c + x[from + i]! * s;
          }
        }
        results.push(await close(m, y, expected, 5e-7));
      }
    }
    return results;
  });
});

describe("tokens", () => {
  everywhere("embedding and its range", async (m) => {
    const [V, K] = [50, 37];
    const table = noise(V * K, 12);
    const ids = [0, 49, 7, 7, 31, 2];
    const results: Float32Array[] = [];
    for (const dtype of ["f32", "f16", "bf16"] as const) {
      const y = m.empty([2, 3, K]);
      const weight = m.from(table, [V, K], dtype);
      m.run("embedding", [weight, m.from(ids, [2, 3], "i32"), y]);
      const expected = Float32Array.from({ length: 6 * K }, (_, i) =>
        round(dtype, table[ids[Math.floor(i / K)]! * K + (i % K)]!),
      );
      results.push(await close(m, y, expected, 0));
      m.run("embedding", [weight, m.from([1, 99], [2], "i32"), m.empty([2, K])]);
      await expect(m.bytes(y)).rejects.toThrow("embedding: token id 99 is outside the vocabulary of 50");
    }
    return results;
  });

  everywhere("embedding from panels", async (m) => {
    const [V, K] = [37, 21];
    if (m.backend.panelBytes("f32", V, K) === undefined) return []; // OCTAVO_PANELS=0: there are none to read
    const table = noise(V * K, 13);
    const results: Float32Array[] = [];
    for (const [dtype, group] of [
      ["f32", 1],
      ["bf16", 2],
    ] as const) {
      const groups = Math.ceil(K / group);
      const panels = new Float32Array(Math.ceil(V / 16) * groups * 16 * group);
      for (let v = 0; v < V; v++)
        for (let k = 0; k < K; k++)
          panels[((Math.floor(v / 16) * groups + Math.floor(k / group)) * 16 + (v % 16)) * group + (k % group)] =
            table[v * K + k]!;
      const weight = { ...m.from(panels, [panels.length], dtype), shape: [V, K], panels: true };
      const y = m.empty([V, K]);
      m.run("embedding", [
        weight,
        m.from(
          Array.from({ length: V }, (_, i) => i),
          [V],
          "i32",
        ),
        y,
      ]);
      results.push(
        await close(
          m,
          y,
          table.map((v) => round(dtype, v)),
          0,
        ),
      );
    }
    return results;
  });

  everywhere("argmax and token_logprobs", async (m) => {
    const [B, V] = [5, 20_011];
    const x = noise(B * V, 14, 10);
    x[3 * V + 20_010] = 100;
    x[4 * V + 5] = 90;
    x[4 * V + 6] = 90;
    const logits = m.from(x, [B, V]);
    const ids = m.empty([B], "i32");
    m.run("argmax", [logits, ids]);
    const expected = Array.from({ length: B }, (_, b) => {
      const row = x.subarray(b * V, (b + 1) * V);
      return row.indexOf(row.reduce((a, e) => max(a, e), -Infinity));
    });
    expect(await m.ints(ids)).toEqual(expected);
    expect(expected.slice(3)).toEqual([20_010, 5]);
    const y = m.empty([B]);
    m.run("token_logprobs", [logits, ids, y]);
    const logprobs = expected.map((id, b) => {
      const row = x.subarray(b * V, (b + 1) * V);
      return -Math.log(row.reduce((n, e) => n + exp(e - row[id]!), 0));
    });
    const got = await close(m, y, logprobs, 2e-7);
    m.run("argmax", [m.from([1, Number.NaN, 2], [1, 3]), m.empty([1], "i32")]);
    await expect(m.bytes(ids)).rejects.toThrow("argmax: logits hold NaN");
    return [got];
  });

  everywhere("penalize and append_token", async (m) => {
    const logits = m.from([1, -2, 3, 4, 1, -2, 3, 4], [2, 4]);
    const history = m.from([1, 1, 3, -1, 0, -1, 0, -1], [2, 4], "i32");
    m.run("penalize", [logits, history], [[2]]);
    expect([...(await m.floats(logits))]).toEqual([1, -4, 3, 2, 0.5, -2, 3, 4]);
    m.run("append_token", [m.from([8, 9], [2], "i32"), history, m.from([3], [1], "i32")]);
    expect(await m.ints(history)).toEqual([1, 1, 3, 8, 0, -1, 0, 9]);
    m.run("append_token", [m.from([8, 9], [2], "i32"), history, m.from([4], [1], "i32")]);
    await expect(m.bytes(history)).rejects.toThrow("append_token: position 4 is outside a history of 4");
    return [];
  });
});

/** First word of Philox4x32-10, by the paper, in BigInt. */
function philox(key: [bigint, bigint], counter: [bigint, bigint, bigint, bigint]): number {
  const low = (x: bigint) => x & 0xffffffffn;
  let [k0, k1] = key;
  let [c0, c1, c2, c3] = counter;
  for (let i = 0; i < 10; i++) {
    const [a, b] = [0xd2511f53n * c0, 0xcd9e8d57n * c2];
    [c0, c1, c2, c3] = [(b >> 32n) ^ c1 ^ k0, low(b), (a >> 32n) ^ c3 ^ k1, low(a)];
    [k0, k1] = [low(k0 + 0x9e3779b9n), low(k1 + 0xbb67ae85n)];
  }
  return Number(c0);
}

/** sample, as its definition says it. */
function draw(
  row: Float32Array,
  b: number,
  step: number,
  o: { t: number; k: number; p: number; m: number; seed: number },
): number {
  const s = row.map((v) => fround(v / fround(o.t)));
  let ids = Array.from(s, (_, i) => i);
  if (o.k > 0 && o.k < s.length) {
    const kth = Float32Array.from(s).sort().reverse()[o.k - 1]!;
    ids = ids.filter((i) => s[i]! >= kth);
  }
  const top = s.reduce((a, e) => max(a, e), -Infinity);
  const weight = (i: number) => exp(s[i]! - top);
  const mass = (of: number[]) => of.reduce((n, i) => n + weight(i), 0);
  if (o.p < 1) {
    const total = mass(ids);
    const rising = ids.slice().sort((a, c) => s[a]! - s[c]!);
    let below = 0;
    let drop = 0;
    while (drop < rising.length - 1 && (below += weight(rising[drop]!) / total) <= 1 - fround(o.p)) drop++;
    const kept = new Set(rising.slice(drop));
    ids = ids.filter((i) => kept.has(i));
  }
  ids = ids.filter((i) => weight(i) >= fround(o.m));
  const u = (philox([BigInt(o.seed), 0x4f435456n], [BigInt(step), BigInt(b), 0n, 0n]) >>> 8) * 2 ** -24;
  const goal = u * mass(ids);
  let sum = 0;
  for (const i of ids) if ((sum += weight(i)) > goal) return i;
  return ids.at(-1)!;
}

describe("sample", () => {
  test("Philox gives the published words", () => {
    expect(philox([0n, 0n], [0n, 0n, 0n, 0n])).toBe(0x6627e8d5);
    expect(philox([0xa4093822n, 0x299f31d0n], [0x243f6a88n, 0x85a308d3n, 0x13198a2en, 0x03707344n])).toBe(0xd16cfe09);
  });

  const draws = new Map<string, number[]>(); // the same for all machines, and slow to find
  everywhere("draws as defined, step after step", async (m) => {
    const results: number[][] = [];
    for (const [V, o] of [
      [11, { t: 1, k: 0, p: 1, m: 0, seed: 0 }],
      [3001, { t: 0.7, k: 50, p: 1, m: 0, seed: 7 }],
      [3001, { t: 1.3, k: 0, p: 0.9, m: 0, seed: 8 }],
      [3001, { t: 0.2, k: 40, p: 0.5, m: 0.01, seed: 9 }],
      [3001, { t: 1, k: 0, p: 1, m: 0.3, seed: 10 }],
      [3001, { t: 1, k: 0, p: 0, m: 0, seed: 11 }],
      [3001, { t: 1, k: 1, p: 1, m: 0, seed: 12 }],
      [40_007, { t: 2, k: 0, p: 0.95, m: 0, seed: 13 }],
    ] as const) {
      const B = 3;
      const x = noise(B * V, 20 + o.seed, 4);
      if (o.seed === 7) for (let i = 0; i < 200; i++) x[i] = 6; // ties at the k-th score are all kept
      if (o.seed === 8) for (let i = 0; i < 2000; i++) x[i] = 3; // ties at the cut of top_p
      if (o.seed === 10) x.fill(-Infinity, 0, 1000);
      const logits = m.from(x, [B, V]);
      const counter = m.from([0], [1], "i32");
      for (let step = 0; step < 8; step++) {
        const ids = m.empty([B], "i32");
        m.run("sample", [logits, counter, ids], [[o.t], o.k, [o.p], [o.m], o.seed]);
        const got = await m.ints(ids);
        const key = `${o.seed} ${step}`;
        const expected = draws.get(key) ?? [0, 1, 2].map((b) => draw(x.subarray(b * V, (b + 1) * V), b, step, o));
        draws.set(key, expected);
        expect(got, `V ${V} seed ${o.seed} step ${step}`).toEqual(expected);
        results.push(got);
      }
      expect(await m.ints(counter)).toEqual([8]);
    }
    return results;
  });

  everywhere("refuses what cannot be drawn from", async (m) => {
    const counter = m.from([0], [1], "i32");
    const fails = async (row: number[], why: RegExp, temperature = 1) => {
      const ids = m.empty([1], "i32");
      m.run("sample", [m.from(row, [1, row.length]), counter, ids], [[temperature], 0, [1], [0], 1]);
      await expect(m.bytes(ids)).rejects.toThrow(why);
    };
    await fails([1, Number.NaN], /logits hold NaN/);
    await fails([-Infinity, -Infinity], /all logits are -inf/);
    await fails([1, 2], /temperature/, 0);
    return [];
  });
});
