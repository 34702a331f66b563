// Cases of mixture of experts: products with chosen matrices, dense and quantized; routing; the weighted sum.

import fc from "fast-check";
import { ACT, type Act } from "../../../src/ops/activation.js";
import {
  expertLinearOp,
  fourBitExpertLinearOp,
  llmInt8ExpertLinearOp,
  mixOp,
  routeOp,
} from "../../../src/ops/experts.js";
import {
  FOUR_BIT,
  FOUR_BIT_ROUNDING,
  FOUR_BIT_TABLES,
  type FourBitCompute,
  type FourBitKind,
  type FourBitRounding,
  NESTED_BLOCK,
} from "../../../src/ops/four-bit.js";
import { COMPUTE, type Compute } from "../../../src/ops/linear.js";
import { dynamicMap } from "../../../src/quant/_dynamic-map.js";
import { type Bound, type Case, type Family, operand, UNIT } from "../../support/conformance.js";
import { bytes, integers, normals, product } from "../../support/random.js";
import { ACTS, acts, productBound, seeds, sumUnits, type Way } from "./_tools.js";
import { codedRounding, codedRows, inSteps, isCoded } from "./coded.js";
import { O4_TABLE, o4Scales, ROUNDINGS, roundingFlag } from "./four-bit.js";

/** Tokens, rows of x a token (1 or A), experts a token, experts, outputs and inputs of each. */
export interface Sizes {
  readonly M: number;
  readonly each: boolean;
  readonly A: number;
  readonly E: number;
  readonly N: number;
  readonly K: number;
}

interface Options {
  readonly bias?: boolean;
  readonly act?: Act;
  /** The expert of the last row. */
  readonly wrong?: number;
  /** All rows have one expert. */
  readonly crowded?: boolean;
}

/** What the products have in common: operands, a name, and the bound given the dense stack. */
function parts({ M, each, A, E, N, K }: Sizes, seed: number, options: Options) {
  const x = normals(seed, M * (each ? A : 1) * K);
  const chosen = options.crowded ? new Int32Array(M * A).fill(E - 1) : integers(seed + 1, M * A, 0, E - 1);
  if (options.wrong !== undefined) chosen[chosen.length - 1] = options.wrong;
  const bias = options.bias ? normals(seed + 2, E * N) : undefined;
  const act = options.act ?? "none";
  const name = `M ${M} of ${each ? A : 1} A ${A} E ${E} N ${N} K ${K}${bias ? " bias" : ""} ${act}${options.crowded ? " crowded" : ""} ${options.wrong ?? ""} seed ${seed}`;
  /** Bounds of a row are those of a product with its expert's matrix; `rounding`, given the row of x and the expert. */
  const bound =
    (
      dense: Float32Array,
      units: number,
      from: Float32Array = x,
      rounding?: (at: number, e: number) => Way["rounding"],
    ) =>
    (want: ArrayLike<number>): Bound => {
      const numbers = Array.from(want);
      const known = new Map<number, Bound>();
      const boundOf = (row: number): Bound => {
        const e = chosen[row]!;
        const at = each ? row : Math.floor(row / A);
        const own = bias?.subarray(e * N, (e + 1) * N);
        const way = { act, ...(own ? { bias: own } : {}), rounding: rounding?.(at, e) };
        const matrix = dense.subarray(e * N * K, (e + 1) * N * K);
        const expected = numbers.slice(row * N, (row + 1) * N);
        return productBound(from.subarray(at * K, (at + 1) * K), matrix, K, N, units, way)(expected);
      };
      return (i) => {
        const at = Math.floor(i / N);
        const row = known.get(at) ?? boundOf(at);
        known.set(at, row);
        return typeof row === "number" ? row : row(i % N);
      };
    };
  return {
    x,
    name,
    act,
    bound,
    inputs: {
      x: operand([M, each ? A : 1, K], x),
      experts: operand([M, A], chosen),
      bias: bias && operand([E, N], bias),
    },
    fails: options.wrong !== undefined,
  };
}

function denseCase(sizes: Sizes, seed: number, options: Options & { compute?: Compute } = {}): Case {
  const { E, N, K } = sizes;
  const { name, act, bound, inputs, fails } = parts(sizes, seed, options);
  const { compute = "f32" } = options;
  const w = normals(seed + 3, E * N * K, 0.5);
  return {
    name: `${name} ${compute}`,
    inputs: [inputs.x, operand([E, N, K], w), inputs.experts, inputs.bias],
    attrs: [ACT[act], COMPUTE[compute]],
    bound: bound(w, sumUnits(K) + (compute === "bf16" ? 2 ** -8 : 0)),
    fails,
  };
}

/** A stack in 8 bits: its operands, and what they stand for. */
export function int8Stack({ E, N, K }: Sizes, seed: number) {
  const codes = Int8Array.from(integers(seed + 3, E * N * K, -127, 127));
  const scb = normals(seed + 4, E * N).map((s) => Math.abs(s) + 0.01);
  return {
    operands: [operand([E, N, K], codes), operand([E, N], scb)],
    dense: Float32Array.from(codes, (code, i) => (code * scb[Math.floor(i / K)]!) / 127),
  };
}

function int8Case(sizes: Sizes, seed: number, options: Options & { seen?: boolean; threshold?: number } = {}): Case {
  const { K } = sizes;
  const { x, name, act, bound, inputs, fails } = parts(sizes, seed, options);
  const { threshold = 2.5 } = options;
  const stack = int8Stack(sizes, seed);
  let outliers = 0;
  for (let at = 0; at < x.length; at += K) {
    outliers = Math.max(outliers, x.subarray(at, at + K).filter((v) => Math.abs(v) >= threshold).length);
  }
  const seen = options.seen ? operand([K], new Uint8Array(K)) : undefined;
  return {
    name: `${name} t ${threshold}${options.seen ? " seen" : ""}`,
    inputs: [inputs.x, ...stack.operands, inputs.experts, inputs.bias, seen],
    attrs: [threshold, ACT[act], COMPUTE.f32],
    bound: bound(stack.dense, (2 * outliers + 10) * UNIT),
    fails,
  };
}

/** The scales of O4 of a stack: each expert starts new groups. */
function stackedScales(E: number, N: number, K: number, blocksize: number, seed: number) {
  const blocks = Math.ceil((N * K) / blocksize);
  const each = Array.from({ length: E }, (_, e) => o4Scales(blocks, K, blocksize, seed + 10 * e));
  const nested = Float32Array.from(each.flatMap((one) => [...one.nested]));
  return {
    operands: [
      operand([E, blocks], Int8Array.from(each.flatMap(({ codes }) => [...codes]))),
      operand([E, nested.length / E], nested),
      operand([16], O4_TABLE),
      undefined,
    ],
    values: Float32Array.from(each.flatMap((one) => [...one.values])),
  };
}

interface FourBitOptions {
  readonly kind?: FourBitKind;
  readonly blocksize?: number;
  readonly twice?: boolean;
  readonly rounding?: FourBitRounding;
}

/** A stack in 4 bits: its operands, what they stand for, and a name. */
export function fourBitStack({ E, N, K }: Sizes, seed: number, options: FourBitOptions) {
  const { kind = "nf4", blocksize = 64, twice = false } = options;
  const codes = bytes(seed + 3, (E * N * K) / 2);
  const blocks = Math.ceil((N * K) / blocksize);
  const outer = Math.ceil(blocks / NESTED_BLOCK);
  const map = dynamicMap(true);
  const small = bytes(seed + 4, E * blocks);
  const nested = normals(seed + 5, E * outer).map((v) => Math.abs(v) + 0.1);
  const mean = normals(seed + 6, E).map((v) => Math.abs(v) + 1);
  const absmax = twice
    ? Float32Array.from(small, (code, j) => {
        const e = Math.floor(j / blocks);
        return map[code]! * nested[e * outer + Math.floor((j % blocks) / NESTED_BLOCK)]! + mean[e]!;
      })
    : normals(seed + 7, E * blocks).map(Math.abs);
  const own = kind === "o4" ? stackedScales(E, N, K, blocksize, seed + 4) : undefined;
  const table = own ? O4_TABLE : FOUR_BIT_TABLES[FOUR_BIT[kind]]!;
  const largest = own?.values ?? absmax;
  const decoded = (values: Float32Array): Float32Array =>
    Float32Array.from({ length: E * N * K }, (_, i) => {
      const byte = codes[i >>> 1]!;
      const e = Math.floor(i / (N * K));
      return values[i & 1 ? byte & 15 : byte >>> 4]! * largest[e * blocks + Math.floor((i % (N * K)) / blocksize)]!;
    });
  return {
    name: `${kind} ${blocksize}${twice ? " twice" : ""}`,
    dense: decoded(table),
    coded: decoded(inSteps(table)),
    largest,
    operands: [
      operand([E, N, K], codes, "u4", { panels: K % blocksize === 0 }),
      ...(own?.operands ?? [
        twice ? operand([E, blocks], small) : operand([E, blocks], absmax),
        twice ? operand([E, outer], nested) : undefined,
        twice ? operand([256], map) : undefined,
        twice ? operand([E], mean) : undefined,
      ]),
    ],
  };
}

function fourBitCase(
  sizes: Sizes,
  seed: number,
  options: Options & FourBitOptions & { compute?: FourBitCompute } = {},
): Case {
  const { x, name, act, bound, inputs, fails } = parts(sizes, seed, options);
  const { kind = "nf4", blocksize = 64, compute = "f32", rounding = "f32" } = options;
  const { M, A, N, K } = sizes;
  const { dense, coded, largest, ...stack } = fourBitStack(sizes, seed, options);
  const blocks = Math.ceil((N * K) / blocksize);
  // Products in bf16 may round both operands to eight bits.
  const rounded = sumUnits(K) + 2 * 2 ** -8;
  const byCodes = (at: number, e: number): Way["rounding"] => {
    const row = x.subarray(at * K, (at + 1) * K);
    const matrix = dense.subarray(e * N * K, (e + 1) * N * K);
    return codedRounding(row, { dense: matrix, largest: largest.subarray(e * blocks, (e + 1) * blocks) }, K, blocksize);
  };
  const bounds = isCoded(compute, K, blocksize)
    ? {
        bound: bound(coded, sumUnits(K / blocksize), codedRows(x, blocksize)),
        inFloats: { rows: M * A, bound: bound(dense, rounded, x, byCodes) },
      }
    : { bound: bound(dense, compute === "bf16" ? rounded : sumUnits(K)) };
  return {
    name: `${name} ${stack.name} ${compute}${roundingFlag(rounding)}`,
    inputs: [inputs.x, ...stack.operands, inputs.experts, inputs.bias],
    attrs: [FOUR_BIT[kind], blocksize, ACT[act], COMPUTE[compute], FOUR_BIT_ROUNDING[rounding]],
    ...bounds,
    fails,
  };
}

export const sizes: fc.Arbitrary<Sizes> = fc.record({
  M: fc.integer({ min: 0, max: 40 }),
  each: fc.boolean(),
  A: fc.integer({ min: 1, max: 4 }),
  E: fc.integer({ min: 1, max: 9 }),
  N: fc.oneof(fc.integer({ min: 1, max: 40 }), fc.constantFrom(16, 32, 48)),
  K: fc.integer({ min: 1, max: 150 }),
});
export const even = sizes.map((all) => ({ ...all, K: all.K + (all.K % 2) }));
const options = fc.record({ bias: fc.boolean(), act: acts, crowded: fc.boolean() });

/** Shapes that every format is run with: one token and many, panels and rows, one row of x for all and one for each. */
const TABLE: readonly (Sizes & { readonly options?: Options })[] = [
  { M: 1, each: false, A: 2, E: 4, N: 16, K: 64 },
  { M: 1, each: true, A: 2, E: 4, N: 48, K: 32, options: { bias: true } },
  { M: 5, each: false, A: 3, E: 3, N: 18, K: 70, options: { act: "silu" } },
  { M: 40, each: false, A: 2, E: 8, N: 32, K: 128, options: { bias: true, act: "gelu" } },
  { M: 40, each: true, A: 2, E: 8, N: 32, K: 96 },
  { M: 33, each: true, A: 1, E: 2, N: 7, K: 34, options: { crowded: true, bias: true } },
  { M: 0, each: false, A: 2, E: 4, N: 16, K: 32 },
  { M: 2, each: true, A: 2, E: 1, N: 1, K: 2 },
  { M: 3, each: false, A: 2, E: 4, N: 16, K: 32, options: { wrong: 4 } },
  { M: 3, each: false, A: 2, E: 4, N: 16, K: 32, options: { wrong: -1 } },
];

const dense: Family = {
  op: expertLinearOp,
  table: [
    ...TABLE.map(({ options, ...one }, i) => denseCase(one, 10 * i + 1, options)),
    ...ACTS.map((act, i) => denseCase({ M: 3, each: false, A: 2, E: 3, N: 9, K: 21 }, 10 * i + 5, { act, bias: true })),
    denseCase({ M: 300, each: false, A: 2, E: 1, N: 16, K: 24 }, 3), // more rows of an expert than are gathered at once
    ...[1, 30].map((M) => denseCase({ M, each: false, A: 2, E: 3, N: 32, K: 72 }, M, { compute: "bf16" })),
  ],
  fuzz: fc
    .tuple(sizes, seeds, options, fc.constantFrom<Compute>("f32", "bf16"))
    .map(([one, seed, more, compute]) => denseCase(one, seed, { ...more, compute })),
};

const int8: Family = {
  op: llmInt8ExpertLinearOp,
  table: [
    ...TABLE.map(({ options, ...one }, i) => int8Case(one, 10 * i + 1, { ...options, seen: i % 2 === 0 })),
    int8Case({ M: 9, each: true, A: 2, E: 3, N: 16, K: 37 }, 7, { threshold: 0 }),
    int8Case({ M: 20, each: false, A: 2, E: 3, N: 32, K: 512 }, 8, { bias: true, seen: true }),
  ],
  fuzz: fc
    .tuple(sizes, seeds, options, fc.boolean())
    .map(([one, seed, more, seen]) => int8Case(one, seed, { ...more, seen })),
};

const fourBit: Family = {
  op: fourBitExpertLinearOp,
  table: [
    ...TABLE.flatMap(({ options, ...one }, i) =>
      [false, true].map((twice) => fourBitCase(one, 10 * i + 1, { ...options, twice })),
    ),
    ...[32, 128].map((blocksize) =>
      fourBitCase({ M: 7, each: true, A: 2, E: 3, N: 16, K: 160 }, blocksize, { kind: "fp4", blocksize, twice: true }),
    ),
    ...[1, 9].flatMap((M) => [
      fourBitCase({ M, each: true, A: 2, E: 3, N: 16, K: 160 }, M + 90, { kind: "o4", blocksize: 32 }),
      fourBitCase({ M, each: false, A: 2, E: 3, N: 5, K: 50 }, M + 92, { kind: "o4", blocksize: 32 }),
      fourBitCase({ M, each: false, A: 2, E: 2, N: 16, K: 64 }, M + 94, { kind: "o4", blocksize: 32, bias: true }),
    ]),
    // An expert that ends inside a block, and one of more blocks than a block of blocks has.
    fourBitCase({ M: 3, each: false, A: 2, E: 3, N: 5, K: 50 }, 77, { twice: true }),
    fourBitCase({ M: 3, each: false, A: 2, E: 2, N: 272, K: 64 }, 78, { twice: true }),
    ...[1, 50].map((M) => fourBitCase({ M, each: false, A: 2, E: 3, N: 32, K: 128 }, M, { compute: "bf16" })),
    // In 8-bit codes: few rows of an expert and many; rows that are no whole blocks.
    ...[1, 4, 20, 50].flatMap((M, i) => [
      fourBitCase({ M, each: i % 2 === 0, A: 2, E: 3, N: 32, K: 128 }, M + 200, { compute: "int8", twice: i > 1 }),
      fourBitCase({ M, each: false, A: 2, E: 3, N: 5, K: 64 }, M + 300, { compute: "int8", kind: "fp4", bias: true }),
      fourBitCase({ M, each: i % 2 === 1, A: 2, E: 2, N: 16, K: 96 }, M + 400, {
        compute: "int8",
        kind: "o4",
        blocksize: 32,
      }),
      fourBitCase({ M, each: false, A: 2, E: 3, N: 16, K: 96 }, M + 500, { compute: "int8", twice: true }),
    ]),
    ...(["f16", "bf16"] as const).flatMap((rounding) => [
      fourBitCase({ M: 3, each: true, A: 2, E: 3, N: 16, K: 160 }, 79, { rounding, blocksize: 32 }),
      fourBitCase({ M: 20, each: false, A: 2, E: 3, N: 5, K: 50 }, 80, { rounding, kind: "fp4", twice: true }),
    ]),
  ],
  fuzz: fc
    .tuple(
      even,
      seeds,
      options,
      fc.record({
        kind: fc.constantFrom<FourBitKind>("nf4", "fp4", "int4", "e2m1", "o4"),
        blocksize: fc.constantFrom(32, 64, 128),
        twice: fc.boolean(),
        compute: fc.constantFrom<FourBitCompute>("f32", "f32", "bf16", "int8"),
        rounding: fc.constantFrom(...ROUNDINGS),
      }),
    )
    .map(([one, seed, more, format]) => {
      // Only exact products round what they decode; those in codes have rows of whole blocks.
      if (format.compute === "f32") return fourBitCase(one, seed, { ...more, ...format });
      const K = format.compute === "int8" && one.K > format.blocksize ? one.K - (one.K % format.blocksize) : one.K;
      return fourBitCase({ ...one, K }, seed, { ...more, ...format, rounding: "f32" });
    }),
};

function routeCase(M: number, E: number, A: number, normalize: boolean, seed: number, broken = false): Case {
  const logits = normals(seed, M * E, 2);
  if (E > 3) for (let m = 0; m < M; m += 2) logits[m * E + 3] = logits[m * E + 1]!; // equal ones: the first wins
  if (broken) logits[logits.length - 1] = Number.NaN;
  return {
    name: `M ${M} E ${E} A ${A}${normalize ? " normalized" : ""} seed ${seed}${broken ? " NaN" : ""}`,
    inputs: [operand([M, E], logits), operand([M, A], new Int32Array(M * A)), operand([M, A], new Float32Array(M * A))],
    attrs: [normalize ? 1 : 0],
    // Exponentials of differences up to 20, rounded: 20 units of the exponent, and the sum of all.
    bound: (want) => (i) => 40 * UNIT * Math.abs(want[i]!) + 1e-30,
    fails: broken,
  };
}

const routing: Family = {
  op: routeOp,
  table: [
    routeCase(1, 4, 2, true, 1),
    routeCase(7, 8, 2, true, 2),
    routeCase(70, 8, 3, false, 3),
    routeCase(3, 1, 1, false, 4),
    routeCase(5, 128, 8, true, 5),
    routeCase(2, 4, 4, true, 6),
    routeCase(0, 4, 2, true, 7),
    routeCase(3, 8, 2, true, 8, true),
  ],
  fuzz: fc
    .tuple(
      fc.integer({ min: 0, max: 90 }),
      fc.integer({ min: 1, max: 40 }),
      fc.integer({ min: 0, max: 39 }),
      fc.boolean(),
      seeds,
    )
    .map(([M, E, more, normalize, seed]) => routeCase(M, E, 1 + (more % E), normalize, seed)),
};

function mixCase(lead: readonly number[], A: number, N: number, residual: boolean, seed: number): Case {
  const rows = product(lead);
  const x = normals(seed, rows * A * N);
  const weights = normals(seed + 1, rows * A);
  return {
    name: `[${lead}] A ${A} N ${N}${residual ? " residual" : ""} seed ${seed}`,
    inputs: [
      operand([...lead, A, N], x),
      operand([...lead, A], weights),
      residual ? operand([...lead, N], normals(seed + 2, rows * N)) : undefined,
    ],
    attrs: [],
    bound: (want) => (i) => {
      const token = Math.floor(i / N);
      let size = Math.abs(want[i]!);
      for (let a = 0; a < A; a++) size += Math.abs(weights[token * A + a]! * x[(token * A + a) * N + (i % N)]!);
      return (A + 2) * UNIT * 2 * size + 1e-30;
    },
  };
}

const mixing: Family = {
  op: mixOp,
  table: [
    mixCase([], 2, 17, true, 1),
    mixCase([1], 2, 48, false, 2),
    mixCase([2, 3], 3, 33, true, 3),
    mixCase([40], 8, 64, true, 4),
    mixCase([0], 2, 5, true, 5),
    mixCase([3], 1, 1, false, 6),
  ],
  fuzz: fc
    .tuple(
      fc.array(fc.integer({ min: 0, max: 6 }), { maxLength: 3 }),
      fc.integer({ min: 1, max: 9 }),
      fc.integer({ min: 1, max: 100 }),
      fc.boolean(),
      seeds,
    )
    .map((all) => mixCase(...all)),
};

export const EXPERTS: readonly Family[] = [dense, int8, fourBit, routing, mixing];
