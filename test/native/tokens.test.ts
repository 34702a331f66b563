// Embedding, logits and sampling, each against a few lines of plain JavaScript, on shapes that do not fit the vectors.

import { describe, expect, test } from "vitest";
import { close, everywhere, round } from "./everywhere.js";
import { noise } from "./helpers.js";

const { exp, fround, max } = Math;

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
      const bad = m.empty([2, K]);
      m.run("embedding", [weight, m.from([1, 99], [2], "i32"), bad]);
      await expect(m.bytes(bad)).rejects.toThrow("embedding: token id 99 is outside the vocabulary of 50");
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
    const none = m.empty([1], "i32");
    m.run("argmax", [m.from([1, Number.NaN, 2], [1, 3]), none]);
    await expect(m.bytes(none)).rejects.toThrow("argmax: logits hold NaN");
    return [got];
  });

  everywhere("penalize and append_token", async (m) => {
    const logits = m.from([1, -2, 3, 4, 1, -2, 3, 4], [2, 4]);
    const history = m.from([1, 1, 3, -1, 0, -1, 0, -1], [2, 4], "i32");
    const lengths = m.from([1, 3, 0, 4], [2, 2], "i32");
    m.run("penalize", [logits, history, lengths, m.from([2, 0, 0, 2, 0, 0], [2, 3])]);
    expect([...(await m.floats(logits))]).toEqual([1, -4, 3, 2, 0.5, -2, 3, 4]);
    m.run("penalize", [logits, history, lengths, m.from([1, 0.5, 0.25, 1, 1, 2], [2, 3])]);
    // Row 0 generated 1 and 3 once each; row 1 generated 0 twice.
    expect([...(await m.floats(logits))]).toEqual([1, -4.75, 3, 1.25, -4.5, -2, 3, 4]);
    m.run("append_token", [m.from([8, 9], [2], "i32"), history, m.from([0, 3, -1, -1], [2, 2], "i32")]);
    expect(await m.ints(history)).toEqual([1, 1, 3, 8, 0, -1, 0, -1]);
    m.run("append_token", [m.from([8, 9], [2], "i32"), history, lengths]);
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
      const params = m.from(Array(B).fill([o.t, o.k, o.p, o.m]).flat(), [B, 4]);
      // Row b draws for sequence b.
      const counters = m.from(
        [0, 1, 2].flatMap((b) => [o.seed, b, 0]),
        [B, 3],
        "i32",
      );
      for (let step = 0; step < 8; step++) {
        const ids = m.empty([B], "i32");
        m.run("sample", [logits, params, counters, ids]);
        const got = await m.ints(ids);
        const key = `${o.seed} ${step}`;
        const expected = draws.get(key) ?? [0, 1, 2].map((b) => draw(x.subarray(b * V, (b + 1) * V), b, step, o));
        draws.set(key, expected);
        expect(got, `V ${V} seed ${o.seed} step ${step}`).toEqual(expected);
        results.push(got);
      }
      expect(await m.ints(counters)).toEqual([0, 1, 2].flatMap((b) => [o.seed, b, 8]));
    }
    return results;
  });

  everywhere("refuses what cannot be drawn from", async (m) => {
    const fails = async (row: number[], why: RegExp, temperature = 1) => {
      const draws = m.from([1, 0, 0], [1, 3], "i32"); // written in place, so a failure spoils it as well
      const ids = m.empty([1], "i32");
      m.run("sample", [m.from(row, [1, row.length]), m.from([temperature, 0, 1, 0], [1, 4]), draws, ids]);
      await expect(m.bytes(ids)).rejects.toThrow(why);
    };
    await fails([1, Number.NaN], /logits hold NaN/);
    await fails([-Infinity, -Infinity], /all logits are -inf/);
    await fails([1, Number.NaN], /logits hold NaN/, 0);
    return [];
  });
});
