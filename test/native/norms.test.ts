// Norms and rope, each against a few lines of plain JavaScript, on shapes that do not fit the vectors.

import { describe } from "vitest";
import { close, everywhere, round } from "./everywhere.js";
import { noise } from "./helpers.js";

const { sqrt, fround } = Math;

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
    m.run("rope_table", [m.from(positions, [B, T], "i32"), m.from(inv, [1, R]), undefined, table], [[1.5]]);
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
