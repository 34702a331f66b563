// Cases of quantizing to O4: scales and codes of blocks, and one step of the search for a table.

import fc from "fast-check";
import { O4_BLOCK, O4_FIRST_LEVELS, O4_UNIT, o4LevelsOp, o4QuantizeOp } from "../../../src/ops/o4.js";
import { type Case, type Family, operand } from "../../support/conformance.js";
import { normals } from "../../support/random.js";
import { seeds } from "./_tools.js";
import { matrix } from "./matrix.js";

const TABLE = Float32Array.from(O4_FIRST_LEVELS, (level) => Math.fround(level * O4_UNIT));

interface QuantizeOptions {
  readonly fails?: boolean;
  /** Stands in every third block, the last included. */
  readonly broken?: number;
  readonly table?: Float32Array;
}

function quantizeCase(n: number, N: number, K: number, row: number, seed: number, options: QuantizeOptions = {}): Case {
  const { fails = false, broken, table = TABLE } = options;
  // A block of zeros, and numbers of different sizes.
  const w = normals(seed, n * K).map((x, i) => (Math.floor(i / O4_BLOCK) === 1 ? 0 : x * 2 ** ((i % 5) - 2)));
  if (broken !== undefined) for (let i = w.length - 1; i >= 0; i -= 3 * O4_BLOCK) w[i] = broken;
  const blocks = Math.ceil((N * K) / O4_BLOCK);
  return {
    name: `${n} x ${K} to row ${row} of ${N} seed ${seed} ${broken ?? ""}${table === TABLE ? "" : " another table"}`,
    inputs: [
      operand([n, K], w, "f32"),
      operand([16], table),
      operand([N, K], matrix("u4", N, K, seed + 1), "u4"),
      operand([blocks], normals(seed + 2, blocks)),
    ],
    attrs: [row],
    // Codes are exact. (Scales that are about as good as each other may be chosen differently: these cases have none.) A scale is a
    // quotient of two sums over 32 elements, in any order; products may cancel to a tenth of their size.
    bound: (want, name) => (name === "scales" ? (i) => 10 * 34 * 2 ** -24 * Math.abs(want[i]!) : 0),
    fails,
  };
}

const quantize: Family = {
  op: o4QuantizeOp,
  table: [
    quantizeCase(37, 37, 57, 0, 1),
    quantizeCase(4, 9, 48, 4, 2),
    quantizeCase(8, 8, 128, 0, 3),
    quantizeCase(3, 3, 33, 0, 4),
    quantizeCase(1, 1, 1, 0, 5),
    quantizeCase(0, 4, 64, 0, 6),
    quantizeCase(16, 40, 192, 16, 7, { table: Float32Array.from({ length: 16 }, (_, i) => (i * i - 60) / 165) }),
    // Levels that are the same, as where no element is near.
    quantizeCase(5, 5, 64, 0, 8, { table: TABLE.map((value, i) => (i > 12 ? TABLE[12]! : value)) }),
    quantizeCase(2, 5, 48, 1, 9, { fails: true }),
    quantizeCase(4, 5, 64, 2, 10, { fails: true }),
    ...[Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, 1e31].map((broken, i) =>
      quantizeCase(8, 8, 128, 0, i + 11, { broken }),
    ),
  ],
  fuzz: fc
    .tuple(fc.integer({ min: 0, max: 6 }), fc.integer({ min: 1, max: 40 }), fc.integer({ min: 0, max: 1 }), seeds)
    .map(([n, K, before, seed]) => quantizeCase(n, before * O4_BLOCK + n, K, before * O4_BLOCK, seed)),
};

function levelsCase(n: number, K: number, seed: number, broken?: number): Case {
  const blocks = Math.ceil((n * K) / O4_BLOCK);
  const scales = normals(seed + 2, blocks);
  if (broken !== undefined) scales[blocks - 1] = broken;
  // No element has the last code: its level stays.
  const codes = matrix("u4", n, K, seed + 1) as Uint8Array;
  const rare = codes
    .map((byte) => ((byte & 0xf0) === 0xf0 ? byte & 0x7f : byte))
    .map((byte) => ((byte & 15) === 15 ? byte & 0xf7 : byte));
  return {
    name: `${n} x ${K} seed ${seed} ${broken ?? ""}`,
    inputs: [
      operand([n, K], normals(seed, n * K), "f32"),
      operand([n, K], rare, "u4"),
      operand([blocks], scales),
      operand([16], TABLE),
    ],
    attrs: [],
    // A level is rounded to a whole number of steps: beside the middle of two the order of a sum may decide.
    bound: () => 1.001 * O4_UNIT,
  };
}

const levels: Family = {
  op: o4LevelsOp,
  table: [
    levelsCase(37, 57, 1),
    levelsCase(64, 256, 2),
    levelsCase(1, 1, 3),
    levelsCase(0, 64, 4),
    levelsCase(9, 48, 5, Number.NaN),
    levelsCase(9, 48, 6, 1e20),
  ],
  fuzz: fc
    .tuple(fc.integer({ min: 0, max: 20 }), fc.integer({ min: 1, max: 100 }), seeds)
    .map(([n, K, seed]) => levelsCase(n, K, seed)),
};

export const O4: readonly Family[] = [quantize, levels];
