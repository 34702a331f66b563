// Cases of 8-bit codes: by blocks with a map, by blocks with a zero point, by rows with outlier columns, and products of codes.

import fc from "fast-check";
import { affineDequantizeOp, affineQuantizeOp } from "../../../src/ops/affine.js";
import { blockwiseDequantizeOp, blockwiseQuantizeOp } from "../../../src/ops/blockwise.js";
import { int8MatmulOp, int8QuantizeOp } from "../../../src/ops/int8.js";
import { dynamicMap } from "../../../src/quant/_dynamic-map.js";
import { type Case, type Family, operand } from "../../support/conformance.js";
import { bytes, integers, normals, product } from "../../support/random.js";
import { LEADS, leads, seeds } from "./_tools.js";

const MAPS = { signed: dynamicMap(true), unsigned: dynamicMap(false) } as const;
type MapName = keyof typeof MAPS;

/** Numbers with zeros, a block of zeros, and, on request, one that is not finite. */
function values(seed: number, count: number, broken?: number): Float32Array {
  const x = normals(seed, count, 2).map((v, i) => (i % 11 === 5 || (i >= 64 && i < 128) ? 0 : v));
  if (broken !== undefined && count > 0) x[count >> 1] = broken;
  return x;
}

const BROKEN = [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY];

function mapped(count: number, blocksize: number, map: MapName, seed: number, broken?: number): Case {
  return {
    name: `${count} by ${blocksize} ${map} seed ${seed} ${broken ?? ""}`,
    inputs: [operand([count], values(seed, count, broken)), operand([256], MAPS[map])],
    attrs: [blocksize],
  };
}

const counts = fc.integer({ min: 0, max: 700 });
const blocksizes = fc.constantFrom(1, 2, 3, 32, 64, 100, 256, 1000);

const blockwiseQuantize: Family = {
  op: blockwiseQuantizeOp,
  table: [
    ...[0, 1, 63, 64, 65, 257, 1000].flatMap((count, i) => [
      mapped(count, 64, "signed", i + 1),
      mapped(count, 256, "unsigned", i + 20),
    ]),
    mapped(5000, 4096, "signed", 40),
    mapped(513, 7, "unsigned", 41),
    ...BROKEN.map((broken, i) => mapped(300, 64, "signed", 50 + i, broken)),
  ],
  fuzz: fc
    .tuple(counts, blocksizes, fc.constantFrom<MapName>("signed", "unsigned"), seeds)
    .map((all) => mapped(...all)),
};

function decoded(count: number, blocksize: number, map: MapName, seed: number): Case {
  const blocks = Math.ceil(count / blocksize);
  return {
    name: `${count} by ${blocksize} ${map} seed ${seed}`,
    inputs: [operand([count], bytes(seed, count)), operand([blocks], normals(seed, blocks)), operand([256], MAPS[map])],
    attrs: [blocksize],
  };
}

const blockwiseDequantize: Family = {
  op: blockwiseDequantizeOp,
  table: [0, 1, 63, 256, 257, 5000].map((count, i) =>
    decoded(count, i % 2 ? 64 : 256, i % 3 ? "signed" : "unsigned", i),
  ),
  fuzz: fc
    .tuple(counts, blocksizes, fc.constantFrom<MapName>("signed", "unsigned"), seeds)
    .map((all) => decoded(...all)),
};

type Range = readonly [number, number];

function affine(
  count: number,
  blocksize: number,
  symmetric: number,
  range: Range | null,
  seed: number,
  broken?: number,
): Case {
  const [low, high] = range ?? [0, 0];
  return {
    name: `${count} by ${blocksize} symmetric ${symmetric} ${range ?? "free"} seed ${seed} ${broken ?? ""}`,
    inputs: [operand([count], values(seed, count, broken))],
    attrs: [blocksize, symmetric, range ? 1 : 0, low, high],
  };
}

const affineQuantize: Family = {
  op: affineQuantizeOp,
  table: [
    ...[0, 1, 63, 64, 65, 1000].flatMap((count, i) => [
      affine(count, 64, i % 2, null, i + 1),
      affine(count, Math.max(1, count), (i + 1) % 2, null, i + 20),
    ]),
    affine(300, 100, 0, [-1, 3], 30),
    affine(300, 100, 1, [-1, 1], 31),
    ...BROKEN.map((broken, i) => affine(300, 64, i % 2, null, 50 + i, broken)),
    ...BROKEN.map((broken, i) => affine(300, 64, i % 2, [-2, 1], 60 + i, broken)),
  ],
  fuzz: fc
    .tuple(
      counts,
      blocksizes,
      fc.integer({ min: 0, max: 1 }),
      fc.constantFrom<Range | null>(null, null, [-1, 2], [0, 5]),
      seeds,
    )
    .map((all) => affine(...all)),
};

function affineValues(count: number, blocksize: number, seed: number): Case {
  const blocks = Math.ceil(count / blocksize);
  return {
    name: `${count} by ${blocksize} seed ${seed}`,
    inputs: [
      operand([count], Int8Array.from(integers(seed, count, -128, 127))),
      operand([blocks], normals(seed, blocks)),
      operand([blocks], integers(seed + 1, blocks, -128, 127)),
    ],
    attrs: [blocksize],
  };
}

const affineDequantize: Family = {
  op: affineDequantizeOp,
  table: [0, 1, 63, 257, 3000].map((count, i) => affineValues(count, 64 + i, i)),
  fuzz: fc.tuple(counts, blocksizes, seeds).map((all) => affineValues(...all)),
};

function outliers(M: number, K: number, threshold: number, seed: number, broken?: number): Case {
  return {
    name: `[${M}, ${K}] threshold ${threshold} seed ${seed} ${broken ?? ""}`,
    inputs: [operand([M, K], values(seed, M * K, broken))],
    attrs: [threshold],
  };
}

const sizes = fc.integer({ min: 0, max: 40 });

const TINY = Float32Array.from({ length: 3 * 45 }, (_, i) => (i % 2 ? 1e-37 : -5e-38));

const int8Quantize: Family = {
  op: int8QuantizeOp,
  table: [
    ...[0, 1, 3, 9].flatMap((M, i) => [0, 1, 17, 70].map((K, j) => outliers(M, K, i % 2 ? 0 : 3, 10 * i + j))),
    outliers(4, 2000, 4, 90),
    { name: "127 over the scale is no f32", inputs: [operand([3, 45], TINY)], attrs: [0] },
    ...BROKEN.flatMap((broken, i) => [outliers(3, 41, 0, 100 + i, broken), outliers(3, 41, 3, 110 + i, broken)]),
  ],
  fuzz: fc.tuple(sizes, sizes, fc.constantFrom(0, 1, 3, 6), seeds).map((all) => outliers(...all)),
};

function codes(lead: readonly number[], N: number, K: number, seed: number): Case {
  const of = (seed: number, count: number): Int8Array => Int8Array.from(integers(seed, count, -128, 127));
  const rows = product(lead);
  return {
    name: `[${[...lead, K]}] x [${N}, ${K}] seed ${seed}`,
    inputs: [operand([...lead, K], of(seed, rows * K)), operand([N, K], of(seed + 1, N * K))],
    attrs: [],
  };
}

const int8Matmul: Family = {
  op: int8MatmulOp,
  table: [
    ...LEADS.map((lead, i) => codes(lead, 7, 45, i)),
    codes([3], 0, 8, 20),
    codes([3], 5, 0, 21),
    codes([17], 33, 1025, 22),
  ],
  fuzz: fc.tuple(leads, sizes, fc.integer({ min: 0, max: 90 }), seeds).map((all) => codes(...all)),
};

export const BLOCKWISE: readonly Family[] = [
  blockwiseQuantize,
  blockwiseDequantize,
  affineQuantize,
  affineDequantize,
  int8Quantize,
  int8Matmul,
];
