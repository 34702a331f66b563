// Cases of the smaller ops that gradients are made of: fill, sum_rows, embedding_back, activation_back, the norms'
// gradients, cross_entropy and its gradient.

import fc from "fast-check";
import { ACT, type Act, activationBackOp } from "../../../src/ops/activation.js";
import { crossEntropyBackOp, crossEntropyOp } from "../../../src/ops/cross-entropy.js";
import { embeddingBackOp } from "../../../src/ops/embedding.js";
import { fillOp } from "../../../src/ops/fill.js";
import { layerNormBackOp } from "../../../src/ops/layer-norm.js";
import { rmsNormBackOp } from "../../../src/ops/rms-norm.js";
import { sumRowsOp } from "../../../src/ops/sum-rows.js";
import { type Case, type Family, operand, UNIT, type ViewStep } from "../../support/conformance.js";
import { integers, normals, product } from "../../support/random.js";
import { ACTS, acts, LEADS, leads, seeds, sumUnits } from "./_tools.js";

const EPS = Math.fround(1e-5);
const widths = fc.integer({ min: 1, max: 150 });

function fillCase(shape: readonly number[], view: readonly ViewStep[], value: number): Case {
  const data = normals(3, product(shape));
  return {
    name: `[${shape}] ${JSON.stringify(view)} ${value}`,
    inputs: [operand(shape, data, "f32", { view })],
    attrs: [value],
  };
}
const fill: Family = {
  op: fillOp,
  table: [
    ...LEADS.map((lead, i) => fillCase([...lead, 7], [], i - 2)),
    fillCase([5, 40], [["narrow", 1, 3, 20]], 0),
    fillCase([3, 4, 5], [["permute", 2, 0, 1]], 1.5),
    fillCase([4, 6], [["narrow", 0, 1, 2]], -1),
  ],
  fuzz: fc.tuple(leads, widths).map(([lead, K]) => fillCase([...lead, K], [], 0.5)),
};

function sumCase(lead: readonly number[], K: number, seed: number): Case {
  const rows = product(lead);
  const x = normals(seed, rows * K);
  return {
    name: `[${lead}] K ${K} seed ${seed}`,
    inputs: [operand([...lead, K], x)],
    attrs: [],
    bound: () => (k) => {
      let size = 0;
      for (let m = 0; m < rows; m++) size += Math.abs(x[m * K + k]!);
      return size * sumUnits(rows);
    },
  };
}
const sum: Family = {
  op: sumRowsOp,
  table: [
    ...LEADS.map((lead, i) => sumCase(lead, 37, i)),
    ...[1, 15, 16, 17, 130].map((K, i) => sumCase([5], K, i + 10)),
    ...[63, 64, 65, 700].map((rows, i) => sumCase([rows], 9, i + 20)),
  ],
  fuzz: fc.tuple(leads, widths, seeds).map((all) => sumCase(...all)),
};

function tableCase(lead: readonly number[], V: number, K: number, seed: number, bad?: number): Case {
  const rows = product(lead);
  const ids = integers(seed, rows, 0, V - 1);
  if (bad !== undefined) ids[rows - 1] = bad;
  return {
    name: `[${lead}] V ${V} K ${K} seed ${seed} ${bad ?? ""}`,
    inputs: [operand(lead, ids), operand([...lead, K], normals(seed + 1, rows * K))],
    attrs: [V],
    // Rows are added in their order on every device.
    bound: (want) => (i) => sumUnits(rows) * (Math.abs(want[i]!) + 3.5),
    fails: bad !== undefined,
  };
}
const table: Family = {
  op: embeddingBackOp,
  table: [
    ...LEADS.map((lead, i) => tableCase(lead, 11, 20, i)),
    tableCase([40], 3, 17, 10),
    tableCase([9], 200, 5, 11),
    tableCase([4], 1, 65, 12),
    tableCase([3], 7, 4, 13, 7),
    tableCase([3], 7, 4, 14, -1),
  ],
  fuzz: fc.tuple(leads, fc.integer({ min: 1, max: 60 }), widths, seeds).map((all) => tableCase(...all)),
};

function activationCase(shape: readonly number[], act: Act, size: number, seed: number): Case {
  const dy = normals(seed + 1, product(shape));
  return {
    name: `[${shape}] ${act} size ${size} seed ${seed}`,
    inputs: [operand(shape, normals(seed, product(shape), size)), operand(shape, dy)],
    attrs: [ACT[act]],
    // Slopes are made of exponentials good to a few roundings, of numbers below two, some of them times x.
    bound: () => (i) => Math.abs(dy[i]!) * 16 * UNIT * (1 + size) + 1e-30,
  };
}
const activation: Family = {
  op: activationBackOp,
  table: [
    ...LEADS.map((lead, i) => activationCase([...lead, 19], "silu", 1, i)),
    ...ACTS.flatMap((act, i) => [activationCase([3, 65], act, 1, i + 10), activationCase([130], act, 8, i + 30)]),
  ],
  fuzz: fc.tuple(leads, widths, acts, seeds).map(([lead, K, act, seed]) => activationCase([...lead, K], act, 2, seed)),
};

/** Largest |g| of a row and what the division by its deviation makes of an error. */
function normBound(
  x: Float32Array,
  dy: Float32Array,
  w: (k: number) => number,
  K: number,
  eps: number,
  centered: boolean,
) {
  return (want: ArrayLike<number>) => (i: number) => {
    const row = Math.floor(i / K) * K;
    let mean = 0;
    let high = 0;
    let largest = 0;
    for (let k = 0; k < K; k++) {
      mean += centered ? x[row + k]! / K : 0;
      high = Math.max(high, Math.abs(x[row + k]!));
      largest = Math.max(largest, Math.abs(dy[row + k]! * w(k)));
    }
    let variance = 0;
    for (let k = 0; k < K; k++) variance += (x[row + k]! - mean) ** 2 / K;
    const r = 1 / Math.sqrt(variance + eps);
    return 4 * sumUnits(K) * (largest * r * (1 + high * r) * (1 + high * r) + Math.abs(want[i]!)) + 1e-30;
  };
}

function rmsCase(lead: readonly number[], K: number, offset: number, seed: number): Case {
  const count = product(lead) * K;
  const [x, weight, dy] = [normals(seed, count), normals(seed + 1, K), normals(seed + 2, count)];
  return {
    name: `[${lead}] K ${K} offset ${offset} seed ${seed}`,
    inputs: [operand([...lead, K], x), operand([K], weight), operand([...lead, K], dy)],
    attrs: [EPS, offset],
    bound: normBound(x, dy, (k) => Math.abs(weight[k]!) + offset, K, EPS, false),
  };
}
const rms: Family = {
  op: rmsNormBackOp,
  table: [
    ...LEADS.map((lead, i) => rmsCase(lead, 37, 0, i)),
    ...[1, 2, 15, 16, 17, 64, 129, 700].map((K, i) => rmsCase([3], K, i % 2, i + 10)),
  ],
  fuzz: fc.tuple(leads, widths, fc.constantFrom(0, 1), seeds).map((all) => rmsCase(...all)),
};

function layerCase(lead: readonly number[], K: number, weighted: boolean, shift: number, seed: number): Case {
  const count = product(lead) * K;
  const x = normals(seed, count).map((v) => v + shift);
  const [weight, dy] = [weighted ? normals(seed + 1, K) : undefined, normals(seed + 2, count)];
  return {
    name: `[${lead}] K ${K}${weighted ? " weight" : ""} shift ${shift} seed ${seed}`,
    inputs: [operand([...lead, K], x), weight && operand([K], weight), operand([...lead, K], dy)],
    attrs: [EPS],
    bound: normBound(x, dy, (k) => weight?.[k] ?? 1, K, EPS, true),
  };
}
const layer: Family = {
  op: layerNormBackOp,
  table: [
    ...LEADS.map((lead, i) => layerCase(lead, 37, i % 2 === 0, 0, i)),
    ...[2, 15, 16, 17, 64, 129, 700].map((K, i) => layerCase([3], K, i % 2 === 0, i % 3, i + 10)),
  ],
  fuzz: fc
    .tuple(leads, fc.integer({ min: 4, max: 150 }), fc.boolean(), fc.constant(0), seeds)
    .map((all) => layerCase(...all)),
};

const NONE = -100;

function targetsOf(seed: number, R: number, V: number): Int32Array {
  return integers(seed, R, 0, V - 1).map((target, r) => (r % 4 === 3 ? NONE : target));
}

function lossCase(R: number, V: number, smoothing: number, size: number, seed: number, bad?: number): Case {
  const targets = targetsOf(seed + 1, R, V);
  if (bad !== undefined) targets[0] = bad;
  return {
    name: `[${R},${V}] smoothing ${smoothing} size ${size} seed ${seed} ${bad ?? ""}`,
    inputs: [operand([R, V], normals(seed, R * V, size)), operand([R], targets)],
    attrs: [smoothing, NONE],
    // Differences of logits are exact to a rounding; the sum of exponentials has a relative error, which the log makes absolute.
    bound: () => sumUnits(V) + 4 * UNIT * (7 * size + 3),
    fails: bad !== undefined,
  };
}
const loss: Family = {
  op: crossEntropyOp,
  table: [
    ...[0, 0.1].flatMap((smoothing, i) =>
      [1, 2, 15, 16, 17, 300].map((V, j) => lossCase(5, V, smoothing, 1 + 4 * i, 10 * i + j)),
    ),
    lossCase(0, 5, 0, 1, 40),
    lossCase(1, 2000, 0.2, 10, 41),
    lossCase(3, 7, 0, 1, 42, 7),
    lossCase(3, 7, 0, 1, 43, -1),
  ],
  fuzz: fc
    .tuple(fc.integer({ min: 1, max: 20 }), widths, fc.constantFrom(0, 0.1), fc.constantFrom(1, 6), seeds)
    .map((all) => lossCase(...all)),
};

function lossBackCase(R: number, V: number, smoothing: number, more: boolean, seed: number, bad?: number): Case {
  const logits = normals(seed, R * V, 3);
  const targets = targetsOf(seed + 1, R, V);
  if (bad !== undefined) targets[0] = bad;
  const lse = Float32Array.from({ length: R }, (_, r) =>
    Math.log(logits.subarray(r * V, (r + 1) * V).reduce((sum, z) => sum + Math.exp(z), 0)),
  );
  const [dloss, dlse] = [normals(seed + 2, R), normals(seed + 3, R)];
  return {
    name: `[${R},${V}] smoothing ${smoothing}${more ? " dlse" : ""} seed ${seed} ${bad ?? ""}`,
    inputs: [
      operand([R, V], logits),
      operand([R], targets),
      operand([R], lse),
      operand([R], dloss),
      more ? operand([R], dlse) : undefined,
    ],
    attrs: [smoothing, NONE],
    // A weight is the exponential of a difference of numbers below 15 that is rounded once.
    bound: () => (i) => {
      const r = Math.floor(i / V);
      return (Math.abs(dloss[r]!) + Math.abs(dlse[r]!)) * 24 * UNIT + 1e-30;
    },
    fails: bad !== undefined,
  };
}
const lossBack: Family = {
  op: crossEntropyBackOp,
  table: [
    ...[0, 0.1].flatMap((smoothing, i) =>
      [1, 2, 15, 16, 17, 300].map((V, j) => lossBackCase(5, V, smoothing, j % 2 === i, 10 * i + j)),
    ),
    lossBackCase(0, 5, 0, true, 40),
    lossBackCase(3, 7, 0, false, 42, 7),
    lossBackCase(3, 7, 0, true, 43, -1),
  ],
  fuzz: fc
    .tuple(fc.integer({ min: 1, max: 20 }), widths, fc.constantFrom(0, 0.1), fc.boolean(), seeds)
    .map((all) => lossBackCase(...all)),
};

export const GRADIENTS: readonly Family[] = [fill, sum, table, activation, rms, layer, loss, lossBack];
