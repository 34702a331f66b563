// Cases of the norms and of rotary positions.

import fc from "fast-check";
import { layerNormOp } from "../../../src/ops/layer-norm.js";
import { rmsNormOp } from "../../../src/ops/rms-norm.js";
import { ropeOp, ropeTableOp } from "../../../src/ops/rope.js";
import { type Case, type Family, type Operand, operand, UNIT } from "../../support/conformance.js";
import { integers, normals, product } from "../../support/random.js";
import { LEADS, leads, seeds, sumUnits } from "./_tools.js";

const EPS = Math.fround(1e-5);

function rmsCase(lead: readonly number[], K: number, eps: number, offset: number, seed: number): Case {
  const shape = [...lead, K];
  const x = normals(seed, product(shape), seed % 2 ? 1 : 50);
  const weight = normals(seed + 1, K).map((w) => w + 1);
  return {
    name: `[${shape}] eps ${eps} offset ${offset} seed ${seed}`,
    inputs: [operand(shape, x), operand([K], weight)],
    attrs: [eps, offset],
    // The mean of squares has no cancellation; weight + offset may have.
    bound: (want) => (i) =>
      sumUnits(K) * Math.abs(want[i]!) + 2 * UNIT * (Math.abs(weight[i % K]!) + offset) * Math.sqrt(K) + 1e-30,
  };
}

const widths = fc.integer({ min: 1, max: 150 });
const rms: Family = {
  op: rmsNormOp,
  table: [
    ...LEADS.map((lead, i) => rmsCase(lead, 37, EPS, 0, i)),
    ...[1, 2, 15, 16, 17, 64, 129, 380, 500, 4100].map((K, i) => rmsCase([3], K, EPS, i % 2, i + 10)),
    rmsCase([2], 33, 0.5, 1, 30),
  ],
  fuzz: fc.tuple(leads, widths, fc.constantFrom(EPS, 0.25), fc.constantFrom(0, 1), seeds).map((all) => rmsCase(...all)),
};

function layerCase(
  lead: readonly number[],
  K: number,
  weight: boolean,
  bias: boolean,
  shift: number,
  seed: number,
): Case {
  const shape = [...lead, K];
  const x = normals(seed, product(shape)).map((v) => v + shift);
  const w = weight ? normals(seed + 1, K) : undefined;
  const b = bias ? normals(seed + 2, K) : undefined;
  return {
    name: `[${shape}]${weight ? " weight" : ""}${bias ? " bias" : ""} shift ${shift} seed ${seed}`,
    inputs: [operand(shape, x), w && operand([K], w), b && operand([K], b)],
    attrs: [EPS],
    // The mean carries an error of the size of the values, which the division by the deviation magnifies.
    bound: (want) => (i) => {
      const row = Math.floor(i / K) * K;
      let mean = 0;
      let high = 0;
      for (let k = 0; k < K; k++) {
        mean += x[row + k]! / K;
        high = Math.max(high, Math.abs(x[row + k]!));
      }
      let variance = 0;
      for (let k = 0; k < K; k++) variance += (x[row + k]! - mean) ** 2 / K;
      const factor = Math.abs(w?.[i % K] ?? 1) / Math.sqrt(variance + EPS);
      return sumUnits(K) * (high * factor + Math.abs(want[i]!) + Math.abs(b?.[i % K] ?? 0)) + 1e-30;
    },
  };
}

const layer: Family = {
  op: layerNormOp,
  table: [
    ...LEADS.map((lead, i) => layerCase(lead, 37, true, true, 0, i)),
    ...[1, 2, 15, 16, 17, 64, 129, 380, 500, 4100].map((K, i) => layerCase([3], K, true, true, i % 2, i + 10)),
    layerCase([3], 33, false, false, 0, 30),
    layerCase([3], 33, true, false, 0, 31),
    layerCase([3], 33, false, true, 0, 32),
    layerCase([4], 65, true, true, 100, 33),
  ],
  fuzz: fc
    .tuple(leads, widths, fc.boolean(), fc.boolean(), fc.constantFrom(0, 0, 5), seeds)
    .map((all) => layerCase(...all)),
};

/** `sets` of frequencies: one for all, one for each row, or "named" by an operand (rows outside included). */
function tableCase(
  B: number,
  T: number,
  R: number,
  most: number,
  scale: number,
  seed: number,
  sets: "one" | "each" | "named" = "one",
): Case {
  const count = sets === "one" ? 1 : sets === "each" ? Math.max(B, 1) : 3;
  return {
    name: `[${B},${T}] R ${R} up to ${most} scale ${scale} sets ${sets} seed ${seed}`,
    inputs: [
      operand([B, T], integers(seed, B * T, 0, most)),
      operand(
        [count, R],
        Float32Array.from(
          { length: count * R },
          (_, i) => (1 - Math.floor(i / R) / 8) * 10000 ** (-(i % R) / Math.max(R, 1)),
        ),
      ),
      sets === "named" ? operand([B, T], integers(seed + 1, B * T, -1, count)) : undefined,
    ],
    attrs: [scale],
    // cos and sin of the same f32 angle, then one product.
    bound: () => 3 * UNIT * scale,
  };
}

const ropeTable: Family = {
  op: ropeTableOp,
  table: [
    tableCase(1, 1, 8, 5, 1, 1),
    tableCase(2, 7, 16, 300, 1, 2),
    tableCase(1, 33, 5, 131_072, Math.fround(1.1386), 3),
    tableCase(3, 0, 4, 9, 1, 4),
    tableCase(2, 3, 1, 9, 1, 5),
    tableCase(3, 5, 6, 300, 1, 6, "each"),
    tableCase(4, 1, 16, 300, 1, 7, "named"),
    tableCase(1, 9, 5, 131_072, Math.fround(1.1386), 8, "named"),
  ],
  fuzz: fc
    .tuple(
      fc.integer({ min: 0, max: 3 }),
      fc.integer({ min: 0, max: 20 }),
      fc.integer({ min: 1, max: 40 }),
      fc.constantFrom(3, 2048, 1_000_000),
      fc.constantFrom(1, 0.5),
      seeds,
      fc.constantFrom("one" as const, "each" as const, "named" as const),
    )
    .map((all) => tableCase(...all)),
};

type HeadLayout = "rows" | "permute" | "narrow";

/** x[B,T,H,D] as it is, as [B,H,T,D] turned, or as a part of a fused projection. */
function heads(layout: HeadLayout, [B, T, H, D]: readonly number[], seed: number): Operand {
  if (layout === "permute") {
    const shape = [B!, H!, T!, D!];
    return operand(shape, normals(seed, product(shape)), "f32", { view: [["permute", 0, 2, 1, 3]] });
  }
  if (layout === "narrow") {
    const shape = [B!, T!, H! + 2, D! + 3];
    return operand(shape, normals(seed, product(shape)), "f32", {
      view: [
        ["narrow", 2, 1, H!],
        ["narrow", 3, 2, D!],
      ],
    });
  }
  const shape = [B!, T!, H!, D!];
  return operand(shape, normals(seed, product(shape)));
}

function ropeCase(
  B: number,
  T: number,
  H: number,
  D: number,
  R: number,
  between: number,
  layout: HeadLayout,
  seed: number,
): Case {
  const half = Math.min(R, Math.floor(D / 2));
  const table = normals(seed + 1, B * T * 2 * half, 0.4);
  return {
    name: `[${B},${T},${H},${D}] R ${half} ${between ? "interleaved" : "halves"} ${layout} seed ${seed}`,
    inputs: [heads(layout, [B, T, H, D], seed), operand([B, T, 2, half], table)],
    attrs: [between],
    // Two products and a sum of numbers below 7 and 1.4 in size; what does not rotate is copied.
    bound: () => 3 * UNIT * 2 * 7 * 1.4,
  };
}

const rope: Family = {
  op: ropeOp,
  table: (["rows", "permute", "narrow"] as const).flatMap((layout, i) => [
    ropeCase(2, 3, 4, 16, 8, 0, layout, 10 * i + 1),
    ropeCase(2, 3, 4, 16, 8, 1, layout, 10 * i + 2),
    ropeCase(1, 5, 3, 20, 4, 0, layout, 10 * i + 3),
    ropeCase(1, 5, 3, 21, 5, 1, layout, 10 * i + 4),
    ropeCase(1, 1, 1, 2, 1, 0, layout, 10 * i + 5),
    ropeCase(0, 4, 2, 8, 4, 0, layout, 10 * i + 6),
    ropeCase(1, 2, 2, 134, 67, 0, layout, 10 * i + 7),
  ]),
  fuzz: fc
    .tuple(
      fc.integer({ min: 0, max: 3 }),
      fc.integer({ min: 0, max: 5 }),
      fc.integer({ min: 1, max: 5 }),
      fc.integer({ min: 2, max: 50 }),
      fc.integer({ min: 1, max: 25 }),
      fc.constantFrom(0, 1),
      fc.constantFrom("rows" as const, "permute" as const, "narrow" as const),
      seeds,
    )
    .map((all) => ropeCase(...all)),
};

export const NORM_ROPE: readonly Family[] = [rms, layer, ropeTable, rope];
