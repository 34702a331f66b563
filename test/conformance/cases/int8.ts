// Cases of LLM.int8(): products with outliers, quantizing and dequantizing rows.

import fc from "fast-check";
import { ACT, type Act } from "../../../src/ops/activation.js";
import {
  llmInt8DequantizeOp,
  llmInt8EmbeddingOp,
  llmInt8LinearOp,
  llmInt8QuantizeOp,
} from "../../../src/ops/llm-int8.js";
import { type Case, type Family, operand, UNIT } from "../../support/conformance.js";
import { integers, normals, product, uniforms } from "../../support/random.js";
import { ACTS, acts, LEADS, leads, productBound, seeds } from "./_tools.js";

/** Normal numbers with a share of outliers of size 6 to 12, some of them exactly 6. */
function activations(seed: number, count: number, share: number): Float32Array {
  const next = uniforms(seed + 77);
  return normals(seed, count).map((x) => {
    if (next() >= share) return Math.max(-5.9, Math.min(5.9, x));
    const size = next() < 0.2 ? 6 : 6 + 6 * next();
    return next() < 0.5 ? size : -size;
  });
}

interface Options {
  readonly bias?: boolean;
  readonly residual?: boolean;
  readonly seen?: boolean;
  readonly act?: Act;
  readonly threshold?: number;
  /** Put into the last row of x. */
  readonly broken?: number;
  /** The scale of the weight's last row. */
  readonly brokenScale?: number;
  /** Share of outliers among the activations. */
  readonly share?: number;
}

function linearCase(lead: readonly number[], K: number, N: number, seed: number, options: Options = {}): Case {
  const { threshold = 6, share = 0.03, act = "none" } = options;
  const rows = product(lead);
  const x = activations(seed, rows * K, share);
  if (rows > 2) x.fill(0, K, 2 * K); // a row of zeros has scale 0
  if (options.broken !== undefined) x[x.length - 1 - (K >> 1)] = options.broken;
  const codes = Int8Array.from(integers(seed + 1, N * K, -127, 127));
  const scb = normals(seed + 2, N).map((s) => Math.abs(s) + 0.01);
  if (N > 3) scb[3] = 0;
  if (options.brokenScale !== undefined) scb[N - 1] = options.brokenScale;
  const bias = options.bias ? normals(seed + 3, N) : undefined;
  const residual = options.residual ? normals(seed + 4, rows * N) : undefined;
  const dense = Float32Array.from(codes, (code, i) => (code * scb[Math.floor(i / K)]!) / 127);
  let outliers = 0;
  for (let m = 0; m < rows; m++) {
    const row = x.subarray(m * K, (m + 1) * K);
    outliers = Math.max(outliers, threshold > 0 ? row.filter((v) => Math.abs(v) >= threshold).length : 0);
  }
  // The codes are fixed bit for bit and the integer product is exact: what is left are the scales and the outliers.
  const units = (2 * outliers + 10) * UNIT;
  const flags = `${bias ? " bias" : ""}${residual ? " residual" : ""}${options.seen ? " seen" : ""}`;
  return {
    name: `[${lead}] K ${K} N ${N} t ${threshold} share ${share}${flags} ${act} seed ${seed} ${options.broken ?? ""} ${options.brokenScale ?? ""}`,
    inputs: [
      operand([...lead, K], x),
      operand([N, K], codes),
      operand([N], scb),
      bias && operand([N], bias),
      residual && operand([...lead, N], residual),
      options.seen ? operand([K], new Uint8Array(K).fill(1, 0, Math.min(2, K))) : undefined,
    ],
    attrs: [threshold, ACT[act], 0],
    bound: productBound(x, dense, K, N, units, { bias, residual, act }),
  };
}

const linear: Family = {
  op: llmInt8LinearOp,
  table: [
    ...LEADS.map((lead, i) => linearCase(lead, 37, 29, i, { bias: i % 2 === 0, residual: i % 3 === 0, seen: true })),
    ...ACTS.map((act, i) => linearCase([2, 3], 45, 19, i + 10, { act, bias: true, residual: true })),
    ...[1, 3, 4, 5, 15, 16, 17, 31, 33, 63, 64, 65, 130].flatMap((size, i) => [
      linearCase([1], size, 18, 2 * i + 30, { bias: true, seen: true }),
      linearCase([5], 23, size, 2 * i + 31, { residual: true, seen: true }),
    ]),
    ...[2, 4, 7, 9, 13, 16, 27].map((rows, i) => linearCase([rows], 71, 35, i + 70, { bias: true, seen: true })),
    linearCase([4], 66, 33, 80, { threshold: 0, share: 0.1, seen: true }),
    linearCase([4], 66, 33, 81, { share: 0, seen: true }),
    linearCase([4], 66, 33, 82, { share: 1, seen: true, bias: true }),
    linearCase([3], 66, 33, 83, { threshold: 0.5, seen: true }),
    linearCase([1], 66, 33, 84, { share: 0.2 }),
    linearCase([1], 66, 33, 85, { broken: Number.NaN, seen: true }),
    linearCase([3], 66, 33, 86, { broken: Number.NaN, threshold: 0 }),
    linearCase([20], 66, 33, 87, { broken: Number.NaN, bias: true }),
    ...[1, 3, 20].map((rows, i) => linearCase([rows], 66, 33, 93 + i, { brokenScale: Number.NaN, bias: true })),
    linearCase([1], 3100, 20, 90, { bias: true, seen: true }),
    linearCase([41], 1300, 37, 91, { bias: true, residual: true, seen: true, act: "gelu" }),
    linearCase([500], 21, 20, 92, { seen: true }),
  ],
  fuzz: fc
    .tuple(
      leads,
      fc.integer({ min: 1, max: 200 }),
      fc.integer({ min: 1, max: 80 }),
      seeds,
      fc.record({
        bias: fc.boolean(),
        residual: fc.boolean(),
        seen: fc.boolean(),
        act: acts,
        threshold: fc.constantFrom(6, 6, 0, 1.5),
        share: fc.constantFrom(0, 0.01, 0.1),
      }),
    )
    .map((all) => linearCase(...all)),
};

/** @param broken stands in every third row */
function quantizeCase(
  n: number,
  N: number,
  K: number,
  row: number,
  seed: number,
  { fails = false, broken, tiny = false }: { fails?: boolean; broken?: number; tiny?: boolean } = {},
): Case {
  const w = normals(seed, n * K).map((x, i) => (Math.floor(i / K) === 1 ? 0 : x * 2 ** ((i % 5) - 2)));
  if (broken !== undefined) for (let r = 0; r < n; r += 3) w[r * K + ((7 * r + 3) % K)] = broken;
  // 127 over the scale of the last row is no f32.
  if (tiny) for (let i = (n - 1) * K; i < n * K; i++) w[i] = i % 2 ? 1e-37 : -5e-38;
  return {
    name: `${n} x ${K} to row ${row} of ${N} seed ${seed} ${broken ?? ""}${tiny ? " tiny" : ""}`,
    inputs: [
      operand([n, K], w),
      operand([N, K], Int8Array.from(integers(seed + 1, N * K, -127, 127)), "i8", {
        panels: row % 16 === 0 && (n % 16 === 0 || row + n === N),
      }),
      operand([N], normals(seed + 2, N)),
    ],
    attrs: [row],
    fails,
  };
}

const quantize: Family = {
  op: llmInt8QuantizeOp,
  table: [
    quantizeCase(37, 37, 29, 0, 1),
    quantizeCase(16, 50, 40, 16, 2),
    quantizeCase(18, 50, 41, 32, 3),
    quantizeCase(3, 9, 26, 5, 4),
    quantizeCase(1, 1, 1, 0, 5),
    quantizeCase(0, 4, 7, 0, 6),
    quantizeCase(5, 5, 1030, 0, 7),
    quantizeCase(4, 5, 8, 2, 8, { fails: true }),
    quantizeCase(37, 37, 29, 0, 15, { tiny: true }),
    quantizeCase(5, 5, 1030, 0, 16, { tiny: true }),
    ...[Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY].flatMap((broken, i) => [
      quantizeCase(37, 37, 29, 0, 9 + i, { broken }),
      quantizeCase(20, 20, 96, 0, 12 + i, { broken }),
    ]),
  ],
  fuzz: fc
    .tuple(
      fc.integer({ min: 0, max: 40 }),
      fc.integer({ min: 0, max: 20 }),
      fc.integer({ min: 0, max: 2 }),
      fc.integer({ min: 1, max: 150 }),
      seeds,
    )
    .map(([n, after, before, K, seed]) => {
      const whole = after > 0 ? Math.floor(n / 16) * 16 : n;
      return quantizeCase(whole, 16 * before + whole + after, K, 16 * before, seed);
    }),
};

function dequantizeCase(N: number, K: number, seed: number): Case {
  return {
    name: `${N} x ${K} seed ${seed}`,
    inputs: [
      operand([N, K], Int8Array.from(integers(seed, N * K, -127, 127))),
      operand([N], normals(seed + 1, N).map(Math.abs)),
    ],
    attrs: [],
  };
}

const dequantize: Family = {
  op: llmInt8DequantizeOp,
  table: [
    dequantizeCase(37, 29, 1),
    dequantizeCase(16, 64, 2),
    dequantizeCase(1, 1, 3),
    dequantizeCase(0, 5, 4),
    dequantizeCase(3, 1037, 5),
  ],
  fuzz: fc
    .tuple(fc.integer({ min: 0, max: 50 }), fc.integer({ min: 1, max: 150 }), seeds)
    .map((all) => dequantizeCase(...all)),
};

function embeddingCase(lead: readonly number[], V: number, K: number, seed: number, wrong?: number): Case {
  const ids = integers(seed + 2, product(lead), 0, V - 1);
  if (wrong !== undefined) ids[ids.length - 1] = wrong;
  return {
    name: `[${lead}] of ${V} x ${K} seed ${seed}${wrong === undefined ? "" : ` id ${wrong}`}`,
    inputs: [
      operand([V, K], Int8Array.from(integers(seed, V * K, -127, 127))),
      operand([V], normals(seed + 1, V).map(Math.abs)),
      operand(lead, ids),
    ],
    attrs: [],
    fails: wrong !== undefined,
  };
}

const embedding: Family = {
  op: llmInt8EmbeddingOp,
  table: [
    embeddingCase([3], 37, 29, 1),
    embeddingCase([2, 5], 16, 64, 2),
    embeddingCase([], 1, 1, 3),
    embeddingCase([0], 4, 7, 4),
    embeddingCase([2], 9, 8, 5, 9),
    embeddingCase([2], 9, 8, 6, -1),
  ],
  fuzz: fc
    .tuple(
      fc.array(fc.integer({ min: 0, max: 5 }), { maxLength: 2 }),
      fc.integer({ min: 1, max: 50 }),
      fc.integer({ min: 1, max: 150 }),
      seeds,
    )
    .map((all) => embeddingCase(...all)),
};

export const INT8: readonly Family[] = [linear, quantize, dequantize, embedding];
