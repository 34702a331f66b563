// Cases of 4-bit weights: products, quantizing, dequantizing, double quantization. Blocks straddle rows and end short.

import fc from "fast-check";
import { ACT, type Act } from "../../../src/ops/activation.js";
import {
  FOUR_BIT,
  FOUR_BIT_ROUNDING,
  FOUR_BIT_TABLES,
  type FourBitCompute,
  type FourBitKind,
  type FourBitRounding,
  fourBitDequantizeOp,
  fourBitEmbeddingOp,
  fourBitLinearOp,
  NESTED_BLOCK,
  o4Group,
} from "../../../src/ops/four-bit.js";
import { fourBitQuantizeOp } from "../../../src/ops/four-bit-quantize.js";
import { COMPUTE } from "../../../src/ops/linear.js";
import { dynamicMap } from "../../../src/quant/_dynamic-map.js";
import { type Case, type Family, type Operand, operand } from "../../support/conformance.js";
import { bytes, integers, normals, product } from "../../support/random.js";
import { ACTS, acts, LEADS, leads, productBound, seeds, sumUnits } from "./_tools.js";
import { codedRounding, codedRows, inSteps, isCoded } from "./coded.js";
import { double } from "./double-quant.js";
import { matrix } from "./matrix.js";

const KINDS = ["nf4", "fp4"] as const;
/** Kinds of other quantizers, which differ in their tables alone, and O4, which brings its table and scales of its own. */
const MORE = ["int4", "e2m1", "o4"] as const;
const MAP = dynamicMap(true);
export const ROUNDINGS = ["f32", "f16", "bf16"] as const satisfies readonly FourBitRounding[];

/** What a case says of rounding. */
export const roundingFlag = (rounding: FourBitRounding): string => (rounding === "f32" ? "" : ` to ${rounding}`);

export interface Stored {
  /** codes, absmax, nested, map, offset. */
  readonly operands: readonly (Operand | undefined)[];
  readonly dense: Float32Array;
  /** `dense` with a table in 8-bit codes. */
  readonly coded: Float32Array;
  /** The absmax of each block. */
  readonly largest: Float32Array;
}

/** A table of O4: not symmetric, and with two levels that are the same. */
export const O4_TABLE: Float32Array = Float32Array.from(
  [-127, -90, -71, -50, -36, -25, -12, -2, 3, 14, 14, 35, 55, 80, 101, 120],
  (level) => Math.fround(level * Math.fround(1 / 127)),
);

/** Scales of O4 for blocks of rows of K elements: i8 over a factor for each group of blocks. */
export function o4Scales(blocks: number, K: number, blocksize: number, seed: number) {
  const group = o4Group(K, blocksize);
  const codes = Int8Array.from(bytes(seed, blocks), (byte) => Math.max(-127, byte - 128));
  const nested = normals(seed + 1, Math.ceil(blocks / group)).map((x) => (Math.abs(x) + 0.1) / 127);
  const values = Float32Array.from(codes, (code, j) => Math.fround(code * nested[Math.floor(j / group)]!));
  return { codes, nested, values };
}

export function stored(
  kind: FourBitKind,
  N: number,
  K: number,
  blocksize: number,
  twice: boolean,
  seed: number,
  scale = 1,
  broken = false,
): Stored {
  const codes = matrix("u4", N, K, seed) as Uint8Array;
  const blocks = Math.ceil((N * K) / blocksize);
  if (kind === "o4") return storedO4(N, K, blocksize, codes, seed, scale, broken);
  const small = bytes(seed + 1, blocks);
  const nested = normals(seed + 2, Math.ceil(blocks / NESTED_BLOCK)).map((x) => (Math.abs(x) + 0.1) * scale);
  const absmax = twice
    ? Float32Array.from(small, (code, j) => MAP[code]! * nested[Math.floor(j / NESTED_BLOCK)]! + 2)
    : normals(seed + 3, blocks).map((x) => Math.abs(x) * scale);
  if (broken) absmax[blocks - 1] = Number.NaN;
  const table = FOUR_BIT_TABLES[FOUR_BIT[kind]]!;
  return {
    operands: [
      operand([N, K], codes, "u4", { panels: K % blocksize === 0 }),
      twice ? operand([blocks], small) : operand([blocks], absmax),
      twice ? operand([nested.length], nested) : undefined,
      twice ? operand([256], MAP) : undefined,
      twice ? operand([1], Float32Array.of(2)) : undefined,
    ],
    ...decoded(table, codes, absmax, N * K, blocksize),
  };
}

/** What codes stand for. */
function decoded(table: Float32Array, codes: Uint8Array, largest: Float32Array, count: number, blocksize: number) {
  const valuesOf = (values: Float32Array): Float32Array =>
    Float32Array.from({ length: count }, (_, i) => {
      const byte = codes[i >>> 1]!;
      return values[i & 1 ? byte & 15 : byte >>> 4]! * largest[Math.floor(i / blocksize)]!;
    });
  return { dense: valuesOf(table), coded: valuesOf(inSteps(table)), largest };
}

function storedO4(
  N: number,
  K: number,
  blocksize: number,
  codes: Uint8Array,
  seed: number,
  scale: number,
  broken: boolean,
): Stored {
  const blocks = Math.ceil((N * K) / blocksize);
  const scales = o4Scales(blocks, K, blocksize, seed + 1);
  const nested = scales.nested.map((x) => x * scale);
  if (broken) nested[nested.length - 1] = Number.NaN;
  const group = o4Group(K, blocksize);
  const largest = Float32Array.from(scales.codes, (code, j) => code * nested[Math.floor(j / group)]!);
  return {
    operands: [
      operand([N, K], codes, "u4", { panels: K % blocksize === 0 }),
      operand([blocks], scales.codes),
      operand([nested.length], nested),
      operand([16], O4_TABLE),
      undefined,
    ],
    ...decoded(O4_TABLE, codes, largest, N * K, blocksize),
  };
}

interface Options {
  readonly kind?: FourBitKind;
  readonly blocksize?: number;
  readonly twice?: boolean;
  readonly bias?: boolean;
  readonly residual?: boolean;
  readonly act?: Act;
  readonly compute?: FourBitCompute;
  readonly rounding?: FourBitRounding;
  /** Where a NaN stands: in the last row of x, or as the last absmax. */
  readonly broken?: "x" | "absmax";
}

function linearCase(lead: readonly number[], K: number, N: number, seed: number, options: Options = {}): Case {
  const { kind = "nf4", blocksize = 64, twice = false, act = "none", compute = "f32", rounding = "f32" } = options;
  const rows = product(lead);
  const x = normals(seed, rows * K);
  const weights = stored(kind, N, K, blocksize, twice, seed + 10, 1, options.broken === "absmax");
  if (options.broken === "x") x[x.length - 1 - (K >> 1)] = Number.NaN;
  const bias = options.bias ? normals(seed + 2, N) : undefined;
  const residual = options.residual ? normals(seed + 3, rows * N) : undefined;
  const coded = isCoded(compute, K, blocksize);
  // Both operands of a product may be rounded to the eight bits of bf16.
  const rounded = sumUnits(K) + 2 * 2 ** -8;
  const way = { bias, residual, act };
  const apart = codedRounding(x, weights, K, blocksize);
  const bound = coded
    ? productBound(codedRows(x, blocksize), weights.coded, K, N, sumUnits(K / blocksize), way)
    : productBound(x, weights.dense, K, N, compute === "bf16" ? rounded : sumUnits(K), way);
  const flags = `${twice ? " twice" : ""}${bias ? " bias" : ""}${residual ? " residual" : ""}${compute === "f32" ? "" : ` ${compute}`}${roundingFlag(rounding)}`;
  return {
    name: `[${lead}] K ${K} N ${N} ${kind} ${blocksize}${flags} ${act} seed ${seed}${options.broken ? ` NaN in ${options.broken}` : ""}`,
    inputs: [
      operand([...lead, K], x),
      ...weights.operands,
      bias && operand([N], bias),
      residual && operand([...lead, N], residual),
    ],
    attrs: [FOUR_BIT[kind], blocksize, ACT[act], COMPUTE[compute], FOUR_BIT_ROUNDING[rounding]],
    bound,
    inFloats: coded
      ? { rows, bound: productBound(x, weights.dense, K, N, rounded, { ...way, rounding: apart }) }
      : undefined,
  };
}

const linear: Family = {
  op: fourBitLinearOp,
  table: [
    ...KINDS.flatMap((kind, i) => [
      ...LEADS.map((lead, j) =>
        linearCase(lead, 64, 29, 100 * i + j, { kind, twice: j % 2 === 0, bias: j % 3 === 0, residual: j % 2 === 1 }),
      ),
      // Rows that are no multiple of the block, of eight, of two; matrices that end inside a block.
      ...[1, 7, 20, 33, 40, 63, 65, 72, 96, 100, 129].flatMap((K, j) => [
        linearCase([1], K, 19, 100 * i + 2 * j + 20, { kind, twice: j % 2 === 0, bias: true }),
        linearCase([6], K, 18, 100 * i + 2 * j + 21, { kind, blocksize: 32, residual: true }),
      ]),
      ...[32, 64, 128, 256, 512, 1024, 2048, 4096].map((blocksize, j) =>
        linearCase([2], 192, 17, 100 * i + j + 60, { kind, blocksize, twice: j % 2 === 1 }),
      ),
      linearCase([3], 4096, 5, 100 * i + 70, { kind, blocksize: 4096, bias: true }),
      linearCase([9], 256, 40, 100 * i + 71, { kind, blocksize: 128, compute: "bf16", act: "silu" }),
      linearCase([50], 192, 35, 100 * i + 72, { kind, compute: "bf16", twice: true, bias: true }),
      linearCase([50], 192, 35, 100 * i + 73, { kind, residual: true }),
      linearCase([41], 1600, 20, 100 * i + 74, { kind, act: "gelu" }),
      // 8-bit products: from one row to many; blocks that end with the rows, and some that do not.
      ...[1, 2, 5, 12, 13, 30, 50].flatMap((rows, j) => [
        linearCase([rows], 192, 35, 100 * i + j + 400, { kind, compute: "int8", twice: j % 2 === 0, bias: true }),
        linearCase([rows], 1152, 18, 100 * i + j + 410, { kind, compute: "int8", blocksize: 32, act: "silu" }),
        linearCase([rows], 100, 18, 100 * i + j + 420, { kind, compute: "int8", residual: true }),
      ]),
      // Values that are rounded when they are decoded: panels and plain rows, few rows of x and many.
      ...(["f16", "bf16"] as const).flatMap((rounding, j) => [
        linearCase([1], 64, 29, 100 * i + j + 440, { kind, rounding }),
        linearCase([7], 100, 18, 100 * i + j + 442, { kind, rounding, twice: true, residual: true }),
        linearCase([13], 192, 35, 100 * i + j + 444, { kind, rounding, twice: true, act: "silu" }),
        linearCase([50], 192, 35, 100 * i + j + 446, { kind, rounding, bias: true }),
      ]),
      ...(["x", "absmax"] as const).flatMap((broken, j) =>
        (["f32", "bf16", "int8"] as const).flatMap((compute, k) =>
          [1, 5, 50].map((rows, l) =>
            linearCase([rows], 192, 35, 100 * i + 9 * j + 3 * k + l + 450, { kind, compute, broken, bias: true }),
          ),
        ),
      ),
      linearCase([3], 4096, 5, 100 * i + 430, { kind, compute: "int8", blocksize: 4096 }),
      linearCase([500], 64, 17, 100 * i + 431, { kind, compute: "int8", residual: true }),
    ]),
    ...ACTS.map((act, i) => linearCase([2, 3], 64, 19, i + 300, { act, bias: true, residual: true })),
    ...[1, 2, 4, 15, 16, 17, 31, 33, 64].map((N, i) => linearCase([5], 128, N, i + 320, { bias: true })),
    ...[2, 4, 7, 9, 13, 16, 27].map((rows, i) => linearCase([rows], 64, 35, i + 340, { twice: true })),
    ...MORE.flatMap((kind, i) => [
      linearCase([1], 192, 35, 10 * i + 370, { kind, bias: true }),
      linearCase([7], 96, 18, 10 * i + 371, { kind, blocksize: 32, residual: true }),
      linearCase([50], 256, 35, 10 * i + 372, { kind, blocksize: 128, compute: "bf16" }),
      linearCase([2], 192, 35, 10 * i + 373, { kind, compute: "int8" }),
    ]),
    // Scales of O4 in panels (rows are groups) and not, for few rows of x and many; more blocks in a row than are turned at once.
    ...[1, 5, 13, 50].flatMap((rows, i) => [
      linearCase([rows], 1152, 35, i + 380, { kind: "o4", blocksize: 32, compute: "int8", bias: true }),
      linearCase([rows], 72, 19, i + 384, { kind: "o4", blocksize: 32, residual: true }),
      linearCase([rows], 192, 18, i + 388, { kind: "o4", blocksize: 32, compute: "bf16", act: "silu" }),
      linearCase([rows], 57, 18, i + 392, { kind: "o4", blocksize: 32 }),
    ]),
    linearCase([2], 9216, 17, 396, { kind: "o4", blocksize: 32, compute: "int8" }),
    linearCase([3], 192, 35, 397, { kind: "o4", blocksize: 32, broken: "absmax" }),
    linearCase([1], 3200, 19, 360),
    linearCase([490], 64, 17, 361),
  ],
  fuzz: fc
    .tuple(
      leads,
      fc.oneof(fc.integer({ min: 1, max: 200 }), fc.constantFrom(64, 128, 192)),
      fc.integer({ min: 1, max: 60 }),
      seeds,
      fc.record({
        kind: fc.constantFrom(...KINDS, ...MORE),
        blocksize: fc.constantFrom(32, 64, 128, 4096),
        twice: fc.boolean(),
        bias: fc.boolean(),
        residual: fc.boolean(),
        act: acts,
        compute: fc.constantFrom<FourBitCompute>("f32", "bf16", "int8"),
        rounding: fc.constantFrom(...ROUNDINGS),
      }),
    )
    .map(([lead, K, N, seed, more]) =>
      // Only exact products round what they decode.
      linearCase(lead, K, N, seed, more.compute === "f32" ? more : { ...more, rounding: "f32" }),
    ),
};

function quantizeCase(
  kind: FourBitKind,
  n: number,
  N: number,
  K: number,
  blocksize: number,
  row: number,
  seed: number,
  { fails = false, broken, search = false }: { fails?: boolean; broken?: number; search?: boolean } = {},
): Case {
  // A block of zeros, and numbers of very different sizes.
  const w = normals(seed, n * K).map((x, i) => (Math.floor(i / blocksize) === 1 ? 0 : x * 2 ** ((i % 7) - 3)));
  // In every third block, the last included.
  if (broken !== undefined) for (let i = w.length - 1; i >= 0; i -= 3 * blocksize) w[i] = broken;
  return {
    name: `${kind} ${blocksize}: ${n} x ${K} to row ${row} of ${N} seed ${seed} ${broken ?? ""}${search ? " searched" : ""}`,
    inputs: [
      operand([n, K], w),
      operand([N, K], matrix("u4", N, K, seed + 1), "u4"),
      operand([Math.ceil((N * K) / blocksize)], normals(seed + 2, Math.ceil((N * K) / blocksize))),
    ],
    attrs: [FOUR_BIT[kind], blocksize, row, Number(search)],
    fails,
  };
}

const quantize: Family = {
  op: fourBitQuantizeOp,
  table: KINDS.flatMap((kind, i) => [
    ...[32, 64, 128, 256, 512, 1024, 2048, 4096].map((size, j) => quantizeCase(kind, 37, 37, 57, size, 0, 20 * i + j)),
    quantizeCase(kind, 4, 9, 48, 64, 4, 20 * i + 8),
    // Scales that are about as good as each other may be chosen differently: these cases have none.
    quantizeCase(kind, 37, 37, 57, 64, 0, 20 * i + 8, { search: true }),
    quantizeCase(kind, 4, 9, 48, 64, 4, 20 * i + 9, { search: true }),
    quantizeCase(kind, 8, 8, 128, 32, 0, 20 * i + 10, { search: true, broken: Number.NaN }),
    quantizeCase(kind, 5, 9, 48, 64, 4, 20 * i + 9),
    quantizeCase(kind, 1, 1, 1, 64, 0, 20 * i + 10),
    quantizeCase(kind, 3, 3, 33, 32, 0, 20 * i + 11),
    quantizeCase(kind, 0, 4, 64, 64, 0, 20 * i + 12),
    quantizeCase(kind, 3, 3, 5000, 4096, 0, 20 * i + 13),
    quantizeCase(kind, 2, 5, 48, 64, 1, 20 * i + 14, { fails: true }),
    quantizeCase(kind, 4, 5, 64, 64, 2, 20 * i + 15, { fails: true }),
    ...[Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY].flatMap((broken, j) => [
      quantizeCase(kind, 37, 37, 57, 64, 0, 20 * i + j + 16, { broken }),
      quantizeCase(kind, 8, 8, 128, 32, 0, 20 * i + j + 16, { broken }),
    ]),
  ]),
  fuzz: fc
    .tuple(
      fc.constantFrom(...KINDS),
      fc.integer({ min: 0, max: 20 }),
      fc.integer({ min: 1, max: 200 }),
      fc.constantFrom(32, 64, 128),
      fc.integer({ min: 0, max: 1 }),
      seeds,
    )
    .map(([kind, n, K, blocksize, before, seed]) =>
      // A block of rows begins a block of codes wherever there are `blocksize` rows before it.
      quantizeCase(kind, n, before * blocksize + n, K, blocksize, before * blocksize, seed),
    ),
};

function dequantizeCase(
  kind: FourBitKind,
  N: number,
  K: number,
  blocksize: number,
  twice: boolean,
  seed: number,
  rounding: FourBitRounding = "f32",
  scale = 1,
): Case {
  return {
    name: `${kind} ${blocksize}: ${N} x ${K}${twice ? " twice" : ""}${roundingFlag(rounding)} scale ${scale} seed ${seed}`,
    inputs: stored(kind, N, K, blocksize, twice, seed, scale).operands,
    attrs: [FOUR_BIT[kind], blocksize, FOUR_BIT_ROUNDING[rounding]],
  };
}

const dequantize: Family = {
  op: fourBitDequantizeOp,
  table: [...KINDS, ...MORE].flatMap((kind, i) =>
    [false, true].flatMap((twice, j) => [
      ...[32, 64, 128, 256, 512, 1024, 2048, 4096].map((size, k) =>
        dequantizeCase(kind, 37, 57, size, twice, 100 * i + 50 * j + k),
      ),
      dequantizeCase(kind, 33, 128, 64, twice, 100 * i + 50 * j + 10),
      dequantizeCase(kind, 1, 1, 64, twice, 100 * i + 50 * j + 11),
      dequantizeCase(kind, 0, 64, 64, twice, 100 * i + 50 * j + 12),
      dequantizeCase(kind, 300, 64, 64, twice, 100 * i + 50 * j + 13),
      // Ordinary values, values that are subnormal in f16, and some beyond its largest.
      ...(["f16", "bf16"] as const).flatMap((rounding, k) =>
        [1, 2e-5, 3e4].flatMap((scale, l) => [
          dequantizeCase(kind, 33, 128, 64, twice, 100 * i + 50 * j + 6 * k + 2 * l + 14, rounding, scale),
          dequantizeCase(kind, 37, 57, 32, twice, 100 * i + 50 * j + 6 * k + 2 * l + 15, rounding, scale),
        ]),
      ),
    ]),
  ),
  fuzz: fc
    .tuple(
      fc.constantFrom(...KINDS, ...MORE),
      fc.integer({ min: 0, max: 40 }),
      fc.oneof(fc.integer({ min: 1, max: 200 }), fc.constantFrom(64, 128)),
      fc.constantFrom(32, 64, 128),
      fc.boolean(),
      seeds,
      fc.constantFrom(...ROUNDINGS),
      fc.constantFrom(1, 1e-4, 1e4),
    )
    .map((all) => dequantizeCase(...all)),
};

function embeddingCase(
  kind: FourBitKind,
  lead: readonly number[],
  V: number,
  K: number,
  blocksize: number,
  twice: boolean,
  seed: number,
  wrong?: number,
  rounding: FourBitRounding = "f32",
): Case {
  const ids = integers(seed + 20, product(lead), 0, V - 1);
  if (wrong !== undefined) ids[ids.length - 1] = wrong;
  return {
    name: `${kind} ${blocksize}: [${lead}] of ${V} x ${K}${twice ? " twice" : ""}${roundingFlag(rounding)} seed ${seed}${wrong === undefined ? "" : ` id ${wrong}`}`,
    inputs: [...stored(kind, V, K, blocksize, twice, seed).operands, operand(lead, ids)],
    attrs: [FOUR_BIT[kind], blocksize, FOUR_BIT_ROUNDING[rounding]],
    fails: wrong !== undefined,
  };
}

const embedding: Family = {
  op: fourBitEmbeddingOp,
  table: [...KINDS, ...MORE].flatMap((kind, i) =>
    [false, true].flatMap((twice, j) => [
      embeddingCase(kind, [3], 37, 57, 64, twice, 100 * i + 50 * j + 1),
      embeddingCase(kind, [2, 4], 33, 128, 64, twice, 100 * i + 50 * j + 2),
      embeddingCase(kind, [5], 300, 64, 64, twice, 100 * i + 50 * j + 3),
      embeddingCase(kind, [0], 3, 64, 32, twice, 100 * i + 50 * j + 4),
      embeddingCase(kind, [2], 3, 64, 32, twice, 100 * i + 50 * j + 5, 3),
      embeddingCase(kind, [3], 37, 57, 64, twice, 100 * i + 50 * j + 6, undefined, "f16"),
      embeddingCase(kind, [3], 37, 128, 64, twice, 100 * i + 50 * j + 7, undefined, "bf16"),
    ]),
  ),
  fuzz: fc
    .tuple(
      fc.constantFrom(...KINDS, ...MORE),
      fc.array(fc.integer({ min: 0, max: 5 }), { maxLength: 2 }),
      fc.integer({ min: 1, max: 40 }),
      fc.oneof(fc.integer({ min: 1, max: 200 }), fc.constantFrom(64, 128)),
      fc.constantFrom(32, 64, 128),
      fc.boolean(),
      seeds,
      fc.constantFrom(...ROUNDINGS),
    )
    .map(([kind, lead, V, K, blocksize, twice, seed, rounding]) =>
      embeddingCase(kind, lead, V, K, blocksize, twice, seed, undefined, rounding),
    ),
};

export const FOUR_BITS: readonly Family[] = [linear, quantize, dequantize, double, embedding];
