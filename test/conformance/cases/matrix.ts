// Cases of the dense matrix ops: linear, embedding, pack, unpack.

import fc from "fast-check";
import type { DType, HostArray } from "../../../src/core/dtype.js";
import { ACT, type Act } from "../../../src/ops/activation.js";
import { embeddingOp } from "../../../src/ops/embedding.js";
import { COMPUTE, type Compute, linearOp } from "../../../src/ops/linear.js";
import { packOp, unpackOp } from "../../../src/ops/pack.js";
import { type Case, type Family, operand } from "../../support/conformance.js";
import { bytes, integers, normals, product } from "../../support/random.js";
import { ACTS, acts, LEADS, leads, productBound, seeds, sumUnits } from "./_tools.js";

function linearCase(
  lead: readonly number[],
  K: number,
  N: number,
  withBias: boolean,
  withResidual: boolean,
  act: Act,
  seed: number,
  compute: Compute = "f32",
): Case {
  const rows = product(lead);
  const x = normals(seed, rows * K);
  const w = normals(seed + 1, N * K, 0.5);
  const bias = withBias ? normals(seed + 2, N) : undefined;
  const residual = withResidual ? normals(seed + 3, rows * N) : undefined;
  return {
    name: `[${lead}] K ${K} N ${N}${withBias ? " bias" : ""}${withResidual ? " residual" : ""} ${act}${compute === "bf16" ? " bf16 products" : ""} seed ${seed}`,
    inputs: [
      operand([...lead, K], x),
      operand([N, K], w),
      bias && operand([N], bias),
      residual && operand([...lead, N], residual),
    ],
    attrs: [ACT[act], COMPUTE[compute]],
    // Rounding x to the 8 significant bits of bf16 (half a unit in the last place) moves each product by 2^-8 of itself at most.
    bound: productBound(x, w, K, N, sumUnits(K) + (compute === "bf16" ? 2 ** -8 : 0), { bias, residual, act }),
  };
}

const linear: Family = {
  op: linearOp,
  table: [
    ...LEADS.map((lead, i) => linearCase(lead, 37, 29, i % 2 === 0, i % 3 === 0, "none", i)),
    ...ACTS.map((act, i) => linearCase([2, 3], 45, 19, true, true, act, i + 10)),
    // Around every width that a kernel may like, one row (decoding) and several (prefill).
    ...[1, 2, 3, 15, 16, 17, 31, 33, 63, 64, 65, 130].flatMap((size, i) => [
      linearCase([1], size, 18, true, false, "none", 2 * i + 30),
      linearCase([5], 23, size, false, true, "none", 2 * i + 31),
    ]),
    ...[2, 4, 7, 9, 13, 16, 27].map((rows, i) => linearCase([rows], 71, 35, true, true, "silu", i + 70)),
    linearCase([1], 700, 70, true, false, "none", 90),
    linearCase([41], 420, 53, true, true, "gelu", 91),
    linearCase([500], 21, 20, false, false, "none", 92),
    ...[8, 40, 41, 72, 512].flatMap((K, i) =>
      [1, 5, 40].map((rows) => linearCase([rows], K, 37, i % 2 === 0, i % 3 === 0, "silu", 100 + i, "bf16")),
    ),
    // Rows of 16-bit weights that begin at whole chunks, many rows of x, and no rounding allowed.
    ...[8, 72, 512].map((K, i) => linearCase([40], K, 37, i % 2 === 0, i % 3 === 0, "none", 110 + i)),
    linearCase([2], 0, 5, true, true, "none", 93),
    linearCase([2], 5, 0, false, false, "none", 94),
  ],
  fuzz: fc
    .tuple(
      leads,
      fc.integer({ min: 1, max: 150 }),
      fc.integer({ min: 1, max: 80 }),
      fc.boolean(),
      fc.boolean(),
      acts,
      seeds,
      fc.constantFrom<Compute>("f32", "bf16"),
    )
    .map((all) => linearCase(...all)),
};

function embeddingCase(lead: readonly number[], V: number, K: number, seed: number, wrong?: number): Case {
  const ids = integers(seed, product(lead), 0, V - 1);
  if (wrong !== undefined) ids[ids.length - 1] = wrong;
  return {
    name: `[${lead}] of ${V} x ${K} seed ${seed}${wrong === undefined ? "" : ` id ${wrong}`}`,
    inputs: [operand([V, K], normals(seed + 1, V * K)), operand(lead, ids)],
    attrs: [],
    fails: wrong !== undefined,
  };
}

const embedding: Family = {
  op: embeddingOp,
  table: [
    ...LEADS.filter((lead) => lead.length > 0).map((lead, i) => embeddingCase(lead, 37, 29, i)),
    embeddingCase([], 5, 64, 10),
    embeddingCase([200], 50, 133, 11),
    embeddingCase([3], 1, 1, 12),
    embeddingCase([3], 7, 5, 13, 7),
    embeddingCase([3], 7, 5, 14, -1),
  ],
  fuzz: fc
    .tuple(leads, fc.integer({ min: 1, max: 60 }), fc.integer({ min: 1, max: 90 }), seeds)
    .map((all) => embeddingCase(...all)),
};

/** Contents of a matrix of any stored dtype. */
export function matrix(dtype: DType, rows: number, columns: number, seed: number): HostArray {
  const count = rows * columns;
  if (dtype === "i8") return Int8Array.from(integers(seed, count, -127, 127));
  if (dtype !== "u4") return normals(seed, count);
  const packed = bytes(seed, Math.ceil(count / 2));
  if (count % 2 === 1) packed[packed.length - 1]! &= 0xf0;
  return packed;
}

/** Rows of 4 bits are packed where K is a multiple of 8 (fixtures of the format keep blocks inside rows). */
function packable(dtype: DType, K: number): boolean {
  return dtype !== "u4" || K % 8 === 0;
}

function packCase(dtype: DType, n: number, N: number, K: number, row: number, seed: number, fails = false): Case {
  return {
    name: `${dtype} ${n} x ${K} to row ${row} of ${N} seed ${seed}`,
    inputs: [
      operand([n, K], matrix(dtype, n, K, seed), dtype),
      // Panels are written in whole bundles of sixteen rows.
      operand([N, K], matrix(dtype, N, K, seed + 1), dtype, {
        panels: packable(dtype, K) && row % 16 === 0 && (n % 16 === 0 || row + n === N),
      }),
    ],
    attrs: [row],
    fails,
  };
}

const STORED = ["f32", "i8", "u4"] as const;
const packing: Family = {
  op: packOp,
  sameDType: true,
  table: STORED.flatMap((dtype, i) => [
    packCase(dtype, 37, 37, 24, 0, 10 * i + 1),
    packCase(dtype, 16, 50, 40, 16, 10 * i + 2),
    packCase(dtype, 18, 50, 40, 32, 10 * i + 3),
    packCase(dtype, 3, 9, 26, 5, 10 * i + 4),
    packCase(dtype, 33, 33, 57, 0, 10 * i + 5),
    packCase(dtype, 1, 1, 8, 0, 10 * i + 6),
    packCase(dtype, 0, 5, 8, 0, 10 * i + 7),
    packCase(dtype, 16, 16, 264, 0, 10 * i + 8),
    packCase(dtype, 4, 5, 8, 2, 10 * i + 9, true),
  ]),
  fuzz: fc
    .tuple(
      fc.constantFrom(...STORED),
      fc.integer({ min: 0, max: 40 }),
      fc.integer({ min: 0, max: 20 }),
      fc.integer({ min: 0, max: 2 }),
      fc.integer({ min: 1, max: 80 }),
      seeds,
    )
    .map(([dtype, n, after, before, columns, seed]) => {
      const K = dtype === "u4" ? 2 * columns : columns;
      const whole = after > 0 ? Math.floor(n / 16) * 16 : n;
      return packCase(dtype, whole, 16 * before + whole + after, K, 16 * before, seed);
    }),
};

function unpackCase(dtype: DType, N: number, K: number, seed: number): Case {
  return {
    name: `${dtype} ${N} x ${K} seed ${seed}`,
    inputs: [
      operand([N, K], matrix(dtype, N, K, seed), dtype, { panels: packable(dtype, K) }),
      operand([N, K], matrix(dtype, N, K, seed + 1), dtype),
    ],
    attrs: [],
  };
}

const unpacking: Family = {
  op: unpackOp,
  sameDType: true,
  table: STORED.flatMap((dtype, i) =>
    [
      [37, 24],
      [16, 40],
      [33, 57],
      [1, 8],
      [0, 8],
      [5, 264],
      [50, 1],
    ].map(([N, K], j) => unpackCase(dtype, N!, K!, 10 * i + j)),
  ),
  fuzz: fc
    .tuple(fc.constantFrom(...STORED), fc.integer({ min: 0, max: 60 }), fc.integer({ min: 1, max: 90 }), seeds)
    .map((all) => unpackCase(...all)),
};

export const MATRIX: readonly Family[] = [linear, embedding, packing, unpacking];
