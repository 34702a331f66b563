// Cases of the elementwise ops: activation, gated, clamped_gated, add, scale, copy, advance.

import fc from "fast-check";
import type { DType, HostArray } from "../../../src/core/dtype.js";
import { ACT, type Act, activationOp } from "../../../src/ops/activation.js";
import { addOp } from "../../../src/ops/add.js";
import { advanceOp } from "../../../src/ops/advance.js";
import { copyOp } from "../../../src/ops/copy.js";
import { clampedGatedBackOp, clampedGatedOp, gatedOp } from "../../../src/ops/gated.js";
import { scaleOp } from "../../../src/ops/scale.js";
import { type Case, type Family, type Operand, operand, UNIT, type ViewStep } from "../../support/conformance.js";
import { bytes, integers, normals, product } from "../../support/random.js";
import { ACTS, actBound, acts, LEADS, leads, seeds } from "./_tools.js";

/** Numbers where activations are interesting: zeros of both signs, tiny, huge, and the range around zero. */
function activating(seed: number, count: number): Float32Array {
  const special = [0, -0, 1e-30, -1e-30, 30, -30, 1e4, -1e4, 0.5, -0.5, 3, -3, 6.5, -6.5, Number.NaN, 88, -88, -104];
  return normals(seed, count, 3).map((x, i) => (i % 3 === 0 ? (special[(i / 3) % special.length] ?? x) : x));
}

function activationCase(lead: readonly number[], width: number, act: Act, seed: number): Case {
  const shape = [...lead, width];
  const x = activating(seed, product(shape));
  return {
    name: `[${shape}] ${act} seed ${seed}`,
    inputs: [operand(shape, x)],
    attrs: [ACT[act]],
    bound: () => (i) => actBound(act, x[i]!, 0) || 1e-45,
  };
}

const activation: Family = {
  op: activationOp,
  table: [
    ...ACTS.map((act, i) => activationCase([2, 3], 67, act, i + 1)),
    ...LEADS.map((lead, i) => activationCase(lead, 17, "silu", i + 20)),
    activationCase([3], 70_001, "gelu", 40),
  ],
  fuzz: fc.tuple(leads, fc.integer({ min: 0, max: 80 }), acts, seeds).map((all) => activationCase(...all)),
};

type Layout = "rows" | "narrow" | "permute" | "expand";
const LAYOUTS: readonly Layout[] = ["rows", "narrow", "permute", "expand"];

/** A [a, b, K] operand stored in another layout whose last dim stays contiguous. */
function laidOut(layout: Layout, [a, b, K]: readonly [number, number, number], make: (count: number) => Float32Array) {
  const stored: readonly number[] =
    layout === "narrow"
      ? [a, b + 1, K + 5]
      : layout === "permute"
        ? [b, a, K]
        : layout === "expand"
          ? [1, b, K]
          : [a, b, K];
  const views: Record<Layout, ViewStep[]> = {
    rows: [],
    narrow: [
      ["narrow", 2, 3, K],
      ["narrow", 1, 1, b],
    ],
    permute: [["permute", 1, 0, 2]],
    expand: [["expand", a, b, K]],
  };
  return operand(stored, make(product(stored)), "f32", { view: views[layout] });
}

function gatedCase(dims: readonly [number, number, number], gate: Layout, up: Layout, act: Act, seed: number): Case {
  const g = laidOut(gate, dims, (count) => normals(seed, count, 3));
  const u = laidOut(up, dims, (count) => normals(seed + 1, count));
  const highest = (data: HostArray): number => Array.from(data).reduce((high, x) => Math.max(high, Math.abs(x)), 0);
  const error = actBound(act, highest(g.data), 0) * highest(u.data);
  return {
    name: `[${dims}] ${gate} ${up} ${act} seed ${seed}`,
    inputs: [g, u],
    attrs: [ACT[act]],
    bound: (want) => (i) => error + 2 * UNIT * Math.abs(want[i]!) + 1e-45,
  };
}

const layouts: fc.Arbitrary<Layout> = fc.constantFrom(...LAYOUTS);
const dims: fc.Arbitrary<[number, number, number]> = fc.tuple(
  fc.integer({ min: 0, max: 5 }),
  fc.integer({ min: 0, max: 5 }),
  fc.integer({ min: 1, max: 70 }),
);

const gated: Family = {
  op: gatedOp,
  table: [
    ...ACTS.map((act, i) => gatedCase([2, 3, 37], "rows", "rows", act, i + 1)),
    ...LAYOUTS.flatMap((a, i) => LAYOUTS.map((b, j) => gatedCase([3, 4, 33], a, b, "silu", 10 * i + j + 100))),
    gatedCase([0, 2, 5], "rows", "rows", "gelu", 7),
    gatedCase([1, 2, 40_003], "rows", "rows", "gelu_tanh", 8),
  ],
  fuzz: fc.tuple(dims, layouts, layouts, acts, seeds).map((all) => gatedCase(...all)),
};

/** Elements of a row that do not lie side by side, as gates and ups that alternate. */
function apart([a, b, K]: readonly [number, number, number], seed: number): Operand {
  return operand([a, K, b], normals(seed, a * K * b, 3), "f32", { view: [["permute", 0, 2, 1]] });
}

function clampedCase(
  dims: readonly [number, number, number],
  gate: Layout,
  up: Layout,
  limit: number,
  seed: number,
): Case {
  const { name, inputs } = gatedCase(dims, gate, up, "quick_gelu", seed);
  const error = actBound("quick_gelu", limit, 0) * (limit + 1);
  return {
    name: `${name} limit ${limit}`,
    inputs: seed % 2 === 0 ? inputs : [apart(dims, seed), inputs[1]],
    attrs: [limit],
    bound: (want) => (i) => error + 4 * UNIT * Math.abs(want[i]!) + 1e-45,
  };
}

const clampedGated: Family = {
  op: clampedGatedOp,
  table: [
    ...LAYOUTS.map((layout, i) => clampedCase([2, 3, 37], layout, "rows", 2, 2 * i + 2)),
    clampedCase([2, 3, 37], "rows", "permute", 7, 9),
    clampedCase([1, 2, 5003], "rows", "rows", 0.5, 12),
  ],
  fuzz: fc.tuple(dims, layouts, layouts, fc.constantFrom(0.5, 2, 7), seeds).map((all) => clampedCase(...all)),
};

function clampedBackCase(...all: Parameters<typeof clampedCase>): Case {
  const [dims, , , limit, seed] = all;
  const { name, inputs } = clampedCase(...all);
  // Some lie at the limits themselves, where the gradient passes.
  for (const one of inputs) one!.data.set([limit, -limit].slice(0, one!.data.length));
  const dy = normals(seed + 9, product(dims));
  // Slopes as of activation_back, of numbers up to the limit; below, as far as 16 away.
  const error = 16 * UNIT * (1 + Math.max(limit, 16)) * (limit + 1);
  return {
    name,
    inputs: [...inputs, operand(dims, dy)],
    attrs: [limit],
    bound: () => (i) => Math.abs(dy[i]!) * error + 1e-30,
  };
}

const clampedBack: Family = {
  op: clampedGatedBackOp,
  table: [
    ...LAYOUTS.map((layout, i) => clampedBackCase([2, 3, 37], layout, "rows", 2, 2 * i + 2)),
    clampedBackCase([2, 3, 37], "rows", "permute", 7, 9),
    clampedBackCase([0, 3, 5], "rows", "rows", 1, 10),
    clampedBackCase([1, 2, 5003], "rows", "rows", 0.5, 12),
  ],
  fuzz: fc.tuple(dims, layouts, layouts, fc.constantFrom(0.5, 2, 7), seeds).map((all) => clampedBackCase(...all)),
};

function addCase(lead: readonly number[], width: number, seed: number): Case {
  const shape = [...lead, width];
  const count = product(shape);
  return {
    name: `[${shape}] seed ${seed}`,
    inputs: [operand(shape, normals(seed, count)), operand(shape, normals(seed + 1, count, 100))],
    attrs: [],
  };
}

const add: Family = {
  op: addOp,
  table: [...LEADS.map((lead, i) => addCase(lead, 37, i)), addCase([2], 50_001, 9), addCase([], 0, 10)],
  fuzz: fc.tuple(leads, fc.integer({ min: 0, max: 90 }), seeds).map((all) => addCase(...all)),
};

/** Smallest normal number: below it a quotient loses its digits. */
const LEAST = 2 ** -126;

function scaleCase(lead: readonly number[], width: number, factor: number, softcap: number, seed: number): Case {
  const shape = [...lead, width];
  return {
    name: `[${shape}] * ${factor} cap ${softcap} seed ${seed}`,
    inputs: [operand(shape, normals(seed, product(shape), 5))],
    attrs: [factor, softcap],
    // A product is one rounding, the same for all; a soft cap is a tanh of a few.
    bound: softcap > 0 ? (want) => (i) => 8 * UNIT * Math.abs(want[i]!) + LEAST : undefined,
  };
}

// Nothing that makes a product subnormal: WGSL lets an implementation flush those, factors as well as results.
const factors = fc.float({ min: -8, max: 8, noNaN: true }).map((factor) => (Math.abs(factor) < 2 ** -100 ? 0 : factor));
const scale: Family = {
  op: scaleOp,
  table: [
    ...LEADS.map((lead, i) => scaleCase(lead, 37, Math.fround(0.37), 0, i)),
    scaleCase([3], 501, Math.fround(-2.7), 30, 10),
    scaleCase([3], 501, 1, 2, 11),
    scaleCase([1], 40_001, Math.fround(1 / 3), 50, 12),
  ],
  fuzz: fc
    .tuple(leads, fc.integer({ min: 0, max: 90 }), factors, fc.constantFrom(0, 0, 0.5, 30), seeds)
    .map((all) => scaleCase(...all)),
};

type CopyLayout = "rows" | "narrow" | "transpose" | "expand";
const COPY_LAYOUTS: readonly CopyLayout[] = ["rows", "narrow", "transpose", "expand"];

function values(dtype: DType, seed: number, count: number): HostArray {
  if (dtype === "i32") return integers(seed, count, -(2 ** 31), 2 ** 31 - 1);
  if (dtype === "i8") return Int8Array.from(integers(seed, count, -128, 127));
  if (dtype === "u8") return bytes(seed, count);
  // Large, small, subnormal in f16, halfway between two f16 or bf16 numbers.
  const special = [
    65504,
    65520,
    1e6,
    2 ** -24,
    2 ** -25,
    3 * 2 ** -25,
    1 + 2 ** -11,
    1 + 3 * 2 ** -11,
    1 + 2 ** -8,
    -0,
    1e-40,
  ];
  return normals(seed, count).map((x, i) => (i % 7 === 3 ? (special[Math.floor(i / 7)] ?? x) : x));
}

function copyOperand(layout: CopyLayout, [a, b, c]: readonly [number, number, number], dtype: DType, seed: number) {
  const stored =
    layout === "narrow"
      ? [a + 1, b + 2, c + 3]
      : layout === "transpose"
        ? [c, a, b]
        : layout === "expand"
          ? [a, 1, c]
          : [a, b, c];
  const views: Record<CopyLayout, ViewStep[]> = {
    rows: [],
    narrow: [
      ["narrow", 0, 1, a],
      ["narrow", 1, 1, b],
      ["narrow", 2, 2, c],
    ],
    transpose: [["permute", 1, 2, 0]],
    expand: [["expand", a, b, c]],
  };
  return operand(stored, values(dtype, seed, product(stored)), dtype, { view: views[layout], fixed: true });
}

function copyCase(
  size: readonly [number, number, number],
  from: CopyLayout,
  to: Exclude<CopyLayout, "expand">,
  x: DType,
  y: DType,
  seed: number,
): Case {
  return {
    name: `[${size}] ${x} ${from} to ${y} ${to} seed ${seed}`,
    inputs: [copyOperand(from, size, x, seed), copyOperand(to, size, y, seed + 1)],
    attrs: [],
  };
}

const PAIRS: readonly (readonly [DType, DType])[] = [
  ...(["f32", "f16", "bf16"] as const).flatMap((x) => (["f32", "f16", "bf16"] as const).map((y) => [x, y] as const)),
  ["i32", "i32"],
  ["i8", "i8"],
  ["u8", "u8"],
];
const TO = ["rows", "narrow", "transpose"] as const;

const copy: Family = {
  op: copyOp,
  table: [
    ...PAIRS.flatMap(([x, y], i) =>
      COPY_LAYOUTS.flatMap((from, j) => TO.map((to, k) => copyCase([3, 5, 19], from, to, x, y, 100 * i + 10 * j + k))),
    ),
    copyCase([1, 130, 77], "transpose", "rows", "bf16", "bf16", 1),
    copyCase([2, 65, 129], "transpose", "narrow", "f32", "f16", 2),
    copyCase([0, 5, 3], "rows", "rows", "f32", "bf16", 3),
    copyCase([2, 3, 0], "narrow", "rows", "f32", "f32", 4),
    copyCase([1, 1, 1], "rows", "rows", "f16", "bf16", 5),
    copyCase([2, 1, 40_001], "rows", "rows", "f32", "bf16", 6),
  ],
  fuzz: fc
    .tuple(
      fc.tuple(fc.integer({ min: 0, max: 6 }), fc.integer({ min: 1, max: 40 }), fc.integer({ min: 0, max: 70 })),
      fc.constantFrom(...COPY_LAYOUTS),
      fc.constantFrom(...TO),
      fc.constantFrom(...PAIRS),
      seeds,
    )
    .map(([size, from, to, [x, y], seed]) => copyCase(size, from, to, x, y, seed)),
};

function advanceCase(shape: readonly number[], by: number, seed: number): Case {
  return {
    name: `[${shape}] by ${by} seed ${seed}`,
    inputs: [operand(shape, integers(seed, product(shape), -1000, 100_000))],
    attrs: [by],
  };
}

const advance: Family = {
  op: advanceOp,
  table: [[1], [7, 1], [0], [3, 33]].map((shape, i) => advanceCase(shape, i - 1, i)),
  fuzz: fc.tuple(leads, fc.integer({ min: -100, max: 100 }), seeds).map((all) => advanceCase(...all)),
};

export const ELEMENTWISE: readonly Family[] = [activation, gated, clampedGated, clampedBack, add, scale, copy, advance];
