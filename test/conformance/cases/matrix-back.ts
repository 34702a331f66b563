// Cases of products on the way back: linear_back, llm_int8_back, four_bit_back.

import fc from "fast-check";
import {
  FOUR_BIT,
  FOUR_BIT_ROUNDING,
  type FourBitKind,
  type FourBitRounding,
  fourBitBackOp,
} from "../../../src/ops/four-bit.js";
import { COMPUTE, type Compute, linearBackOp } from "../../../src/ops/linear.js";
import { llmInt8BackOp } from "../../../src/ops/llm-int8.js";
import { type Case, type Family, type Operand, operand } from "../../support/conformance.js";
import { integers, normals, product } from "../../support/random.js";
import { LEADS, leads, productBound, seeds, sumUnits } from "./_tools.js";
import { ROUNDINGS, roundingFlag, stored } from "./four-bit.js";

/** A case of dy · W for `matrix` operands that stand for `dense[N,K]`. */
function backCase(
  name: string,
  lead: readonly number[],
  [N, K]: readonly [number, number],
  matrix: readonly (Operand | undefined)[],
  dense: Float32Array,
  attrs: readonly number[],
  seed: number,
  compute: Compute,
): Case {
  const dy = normals(seed, product(lead) * N);
  const turned = Float32Array.from({ length: K * N }, (_, i) => dense[(i % N) * K + Math.floor(i / N)]!);
  return {
    name: `[${lead}] N ${N} K ${K}${name}${compute === "bf16" ? " in bf16" : ""} seed ${seed}`,
    inputs: [operand([...lead, N], dy), ...matrix],
    attrs: [...attrs, COMPUTE[compute]],
    // Two more roundings than a dense product has: of a code times its scale, and of the scale. With bf16 both operands may
    // be rounded to eight bits.
    bound: productBound(dy, turned, N, K, sumUnits(N + 2) + (compute === "bf16" ? 2 * 2 ** -8 : 0), { act: "none" }),
  };
}

type Make = (lead: readonly number[], N: number, K: number, seed: number, compute?: Compute) => Case;

const dense: Make = (lead, N, K, seed, compute = "f32") => {
  const w = normals(seed + 1, N * K, 0.5);
  return backCase("", lead, [N, K], [operand([N, K], w)], w, [], seed, compute);
};

const int8: Make = (lead, N, K, seed, compute = "f32") => {
  const codes = Int8Array.from(integers(seed + 1, N * K, -127, 127));
  const scb = normals(seed + 2, N).map((s) => Math.abs(s) + 0.01);
  const values = Float32Array.from(codes, (code, i) => (code * scb[Math.floor(i / K)]!) / 127);
  return backCase("", lead, [N, K], [operand([N, K], codes), operand([N], scb)], values, [], seed, compute);
};

const fourBit =
  (kind: FourBitKind, blocksize: number, twice: boolean, rounding: FourBitRounding = "f32"): Make =>
  (lead, N, K, seed, compute = "f32") => {
    if (compute !== "f32") rounding = "f32"; // other products do not round the decoded values
    const w = stored(kind, N, K, blocksize, twice, seed + 1);
    const name = ` ${kind} ${blocksize}${twice ? " twice" : ""}${roundingFlag(rounding)}`;
    const attrs = [FOUR_BIT[kind], blocksize, FOUR_BIT_ROUNDING[rounding]];
    return backCase(name, lead, [N, K], w.operands, w.dense, attrs, seed, compute);
  };

/** Around every width and number of rows that a kernel may like, and sums that take several blocks of outputs. */
function table(make: Make): Case[] {
  return [
    ...LEADS.map((lead, i) => make(lead, 29, 40, i)),
    ...[1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 130].flatMap((size, i) => [
      make([3], size, 24, 2 * i + 20),
      make([5], 18, size, 2 * i + 21),
    ]),
    ...[1, 2, 4, 6, 7, 15, 16, 17, 150].map((rows, i) => make([rows], 35, 72, i + 60)),
    make([2], 700, 96, 80),
    make([9], 21, 420, 81),
    make([2], 0, 8, 82),
    ...[1, 5, 150].map((rows, i) => make([rows], 40, 72, i + 83, "bf16")),
    make([3], 35, 24, 86, "bf16"),
    make([30], 776, 40, 87, "bf16"),
  ];
}

const fuzz = (make: fc.Arbitrary<Make>): fc.Arbitrary<Case> =>
  fc
    .tuple(
      make,
      leads,
      fc.integer({ min: 1, max: 80 }),
      fc.integer({ min: 1, max: 150 }),
      seeds,
      fc.constantFrom<Compute>("f32", "bf16"),
    )
    .map(([one, ...all]) => one(...all));

const KINDS: readonly FourBitKind[] = ["nf4", "fp4"];
const blocks = fc.constantFrom(32, 64, 128);

export const MATRIX_BACK: readonly Family[] = [
  { op: linearBackOp, table: table(dense), fuzz: fuzz(fc.constant(dense)) },
  { op: llmInt8BackOp, table: table(int8), fuzz: fuzz(fc.constant(int8)) },
  {
    op: fourBitBackOp,
    table: KINDS.flatMap((kind, i) => [
      ...table(fourBit(kind, 32, i === 0)),
      // Panels with blocks of whole rows, and double quantization.
      ...[false, true].flatMap((twice) =>
        [64, 128, 192].map((K, j) => fourBit(kind, 64, twice)([7], 37, K, 90 + 10 * i + j)),
      ),
      ...(["f16", "bf16"] as const).flatMap((rounding) =>
        [57, 128].map((K, j) => fourBit(kind, 64, true, rounding)([7], 37, K, 120 + 10 * i + j)),
      ),
    ]).concat([1, 57, 128, 160].map((K, j) => fourBit("o4", 32, false)([7], 37, K, 150 + j))),
    fuzz: fuzz(
      fc
        .tuple(
          fc.constantFrom<FourBitKind>(...KINDS, "int4", "e2m1", "o4"),
          blocks,
          fc.boolean(),
          fc.constantFrom(...ROUNDINGS),
        )
        .map((all) => fourBit(...all)),
    ),
  },
];
