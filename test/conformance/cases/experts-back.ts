// Cases of the gradients of mixtures of experts: by the inputs of products with chosen matrices, by dense stacks, and by the scores of
// the experts.

import fc from "fast-check";
import {
  expertLinearBackOp,
  expertOuterOp,
  fourBitExpertBackOp,
  llmInt8ExpertBackOp,
  routeBackOp,
} from "../../../src/ops/experts-back.js";
import { FOUR_BIT, FOUR_BIT_ROUNDING, type FourBitKind } from "../../../src/ops/four-bit.js";
import { COMPUTE, type Compute } from "../../../src/ops/linear.js";
import { type Bound, type Case, type Family, type Operand, operand, UNIT } from "../../support/conformance.js";
import { integers, normals } from "../../support/random.js";
import { productBound, seeds, sumUnits } from "./_tools.js";
import { even, fourBitStack, int8Stack, type Sizes, sizes } from "./experts.js";
import { ROUNDINGS, roundingFlag } from "./four-bit.js";

interface Options {
  /** All rows have one expert; otherwise some have none. */
  readonly crowded?: boolean;
  /** The expert of the last row. */
  readonly wrong?: number;
}

/** The experts of rows; the first of several has none of them. */
function chosenFor({ M, A, E }: Sizes, seed: number, { crowded, wrong }: Options): Int32Array {
  const chosen = crowded ? new Int32Array(M * A).fill(E - 1) : integers(seed + 1, M * A, E > 2 ? 1 : 0, E - 1);
  if (wrong !== undefined) chosen[chosen.length - 1] = wrong;
  return chosen;
}

const nameOf = ({ M, A, E, N, K }: Sizes, seed: number, { crowded, wrong }: Options): string =>
  `M ${M} A ${A} E ${E} N ${N} K ${K}${crowded ? " crowded" : ""} ${wrong ?? ""} seed ${seed}`;

/** A case of dy · W of the experts, for `stack` operands that stand for `dense`. */
function backCase(
  sizes: Sizes,
  seed: number,
  options: Options & { compute?: Compute },
  { operands, dense, name = "" }: { operands: readonly (Operand | undefined)[]; dense: Float32Array; name?: string },
  attrs: readonly number[],
): Case {
  const { M, A, E, N, K } = sizes;
  const { compute = "f32" } = options;
  const dy = normals(seed, M * A * N);
  const chosen = chosenFor(sizes, seed, options);
  const turned = Float32Array.from({ length: E * N * K }, (_, i) => {
    const [e, at] = [Math.floor(i / (N * K)), i % (N * K)];
    return dense[e * N * K + (at % N) * K + Math.floor(at / N)]!;
  });
  // Two more roundings than a dense product has, of a code times its scale and of the scale; in bf16 both operands are rounded.
  const units = sumUnits(N + 2) + (compute === "bf16" ? 2 * 2 ** -8 : 0);
  return {
    name: `${nameOf(sizes, seed, options)} ${name}${compute === "bf16" ? " in bf16" : ""}`,
    inputs: [operand([M, A, N], dy), ...operands, operand([M, A], chosen)],
    attrs: [...attrs, COMPUTE[compute]],
    bound(want) {
      const numbers = Array.from(want);
      const rows: (Bound | undefined)[] = [];
      return (i) => {
        const row = Math.floor(i / K);
        const e = chosen[row]!;
        const from = dy.subarray(row * N, (row + 1) * N);
        const matrix = turned.subarray(e * N * K, (e + 1) * N * K);
        const bound = (rows[row] ??= productBound(from, matrix, N, K, units, { act: "none" })(
          numbers.slice(row * K, (row + 1) * K),
        ));
        return typeof bound === "number" ? bound : bound(i % K);
      };
    },
    fails: options.wrong !== undefined,
  };
}

type Make = (sizes: Sizes, seed: number, options?: Options & { compute?: Compute }) => Case;

const dense: Make = (sizes, seed, options = {}) => {
  const { E, N, K } = sizes;
  const w = normals(seed + 3, E * N * K, 0.5);
  return backCase(sizes, seed, options, { operands: [operand([E, N, K], w)], dense: w }, []);
};

const int8: Make = (sizes, seed, options = {}) => backCase(sizes, seed, options, int8Stack(sizes, seed), []);

const fourBit =
  (kind: FourBitKind, blocksize: number, twice: boolean, rounding: keyof typeof FOUR_BIT_ROUNDING = "f32"): Make =>
  (sizes, seed, options = {}) => {
    const rounds = options.compute === "bf16" ? "f32" : rounding; // other products do not round the decoded values
    const stack = fourBitStack(sizes, seed, { kind, blocksize, twice });
    const named = { ...stack, name: stack.name + roundingFlag(rounds) };
    return backCase(sizes, seed, options, named, [FOUR_BIT[kind], blocksize, FOUR_BIT_ROUNDING[rounds]]);
  };

/** One row and many, panels and rows, one expert for all and none for some. */
const table = (make: Make): Case[] => [
  make({ M: 1, each: true, A: 2, E: 4, N: 16, K: 64 }, 1),
  make({ M: 5, each: true, A: 3, E: 3, N: 18, K: 70 }, 11),
  make({ M: 14, each: true, A: 2, E: 3, N: 32, K: 40 }, 21),
  make({ M: 19, each: true, A: 1, E: 2, N: 7, K: 34 }, 31, { crowded: true }),
  make({ M: 0, each: true, A: 2, E: 4, N: 16, K: 32 }, 41),
  make({ M: 2, each: true, A: 2, E: 1, N: 1, K: 2 }, 51),
  make({ M: 1, each: true, A: 2, E: 3, N: 272, K: 18 }, 61),
  make({ M: 2, each: true, A: 2, E: 4, N: 16, K: 32 }, 71, { wrong: 4 }),
  make({ M: 2, each: true, A: 2, E: 4, N: 16, K: 32 }, 81, { wrong: -1 }),
  make({ M: 9, each: true, A: 2, E: 3, N: 32, K: 40 }, 91, { compute: "bf16" }),
];

/** Fuzzed shapes, smaller than those of the products forward: what they look for is how rows are grouped. */
const small = (shapes: fc.Arbitrary<Sizes>): fc.Arbitrary<Sizes> =>
  shapes.map(({ M, N, K, ...rest }) => ({ ...rest, M: Math.ceil(M / 3), N: Math.min(N, 32), K: 2 * Math.ceil(K / 6) }));

const fuzz = (shapes: fc.Arbitrary<Sizes>, make: fc.Arbitrary<Make>): fc.Arbitrary<Case> =>
  fc
    .tuple(make, small(shapes), seeds, fc.boolean(), fc.constantFrom<Compute>("f32", "bf16"))
    .map(([one, size, seed, crowded, compute]) => one(size, seed, { crowded, compute }));

const products: readonly Family[] = [
  {
    op: expertLinearBackOp,
    // More rows of an expert than are gathered at once.
    table: [...table(dense), dense({ M: 530, each: true, A: 1, E: 1, N: 5, K: 6 }, 3)],
    fuzz: fuzz(sizes, fc.constant(dense)),
  },
  { op: llmInt8ExpertBackOp, table: table(int8), fuzz: fuzz(sizes, fc.constant(int8)) },
  {
    op: fourBitExpertBackOp,
    table: [
      ...table(fourBit("nf4", 64, true)),
      ...(["fp4", "e2m1", "o4"] as const).flatMap((kind, i) => [
        fourBit(kind, 32, kind === "fp4")({ M: 4, each: true, A: 2, E: 3, N: 16, K: 96 }, 120 + i),
        fourBit(kind, 32, false)({ M: 3, each: true, A: 2, E: 3, N: 5, K: 50 }, 130 + i),
      ]),
      ...(["f16", "bf16"] as const).map((rounding, i) =>
        fourBit("nf4", 32, false, rounding)({ M: 5, each: true, A: 2, E: 3, N: 16, K: 64 }, 140 + i),
      ),
    ],
    fuzz: fuzz(
      even,
      fc
        .tuple(
          fc.constantFrom<FourBitKind>("nf4", "fp4", "int4", "e2m1"),
          fc.constantFrom(32, 64, 128),
          fc.boolean(),
          fc.constantFrom(...ROUNDINGS),
        )
        .map((all) => fourBit(...all)),
    ),
  },
];

function outerCase(sizes: Sizes, seed: number, options: Options = {}): Case {
  const { M, each, A, E, N, K } = sizes;
  const dy = normals(seed, M * A * N);
  const x = normals(seed + 2, M * (each ? A : 1) * K);
  const chosen = chosenFor(sizes, seed, options);
  return {
    name: `${nameOf(sizes, seed, options)}${each ? " each" : ""}`,
    inputs: [operand([M, A, N], dy), operand([M, each ? A : 1, K], x), operand([M, A], chosen)],
    attrs: [E],
    bound: () => (i) => {
      const [e, n, k] = [Math.floor(i / (N * K)), Math.floor(i / K) % N, i % K];
      let size = 0;
      let count = 0;
      for (let row = 0; row < M * A; row++) {
        if (chosen[row] !== e) continue;
        count++;
        size += Math.abs(dy[row * N + n]! * x[(each ? row : Math.floor(row / A)) * K + k]!);
      }
      return size * sumUnits(count);
    },
    fails: options.wrong !== undefined,
  };
}

const outer: Family = {
  op: expertOuterOp,
  table: [
    outerCase({ M: 1, each: false, A: 2, E: 4, N: 16, K: 64 }, 1),
    outerCase({ M: 5, each: true, A: 3, E: 3, N: 18, K: 70 }, 11),
    outerCase({ M: 300, each: false, A: 2, E: 3, N: 5, K: 19 }, 21, { crowded: true }),
    outerCase({ M: 0, each: false, A: 2, E: 3, N: 4, K: 3 }, 31),
    outerCase({ M: 3, each: true, A: 2, E: 4, N: 6, K: 9 }, 41, { wrong: 4 }),
  ],
  fuzz: fc
    .tuple(sizes, seeds, fc.boolean())
    .map(([one, seed, crowded]) => outerCase({ ...one, K: Math.ceil(one.K / 3) }, seed, { crowded })),
};

function routeCase(M: number, E: number, A: number, normalize: boolean, seed: number, wrong?: number): Case {
  const logits = normals(seed, M * E, 2);
  // Experts of a token differ, in no order.
  const chosen = Int32Array.from({ length: M * A }, (_, i) => {
    const [m, a] = [Math.floor(i / A), i % A];
    return (integers(seed + m + 1, 1, 0, E - 1)[0]! + a) % E;
  });
  if (wrong !== undefined) chosen[chosen.length - 1] = wrong;
  const given = normals(seed + 2, M * A);
  return {
    name: `M ${M} E ${E} A ${A}${normalize ? " normalized" : ""} ${wrong ?? ""} seed ${seed}`,
    inputs: [operand([M, E], logits), operand([M, A], chosen), operand([M, A], given)],
    attrs: [normalize ? 1 : 0],
    // Shares are good to 40 units, as those of `route`; what they multiply is a gradient less a mean of gradients.
    bound: () => (i) => {
      const m = Math.floor(i / E);
      return 2 * (40 + A) * UNIT * Math.max(0, ...given.subarray(m * A, (m + 1) * A).map(Math.abs)) + 1e-30;
    },
    fails: wrong !== undefined,
  };
}

const route: Family = {
  op: routeBackOp,
  table: [
    ...[true, false].flatMap((normalize, i) => [
      routeCase(1, 4, 2, normalize, 10 + i),
      routeCase(70, 8, 3, normalize, 20 + i),
      routeCase(3, 1, 1, normalize, 30 + i),
      routeCase(5, 128, 8, normalize, 40 + i),
      routeCase(2, 4, 4, normalize, 50 + i),
      routeCase(0, 4, 2, normalize, 60 + i),
      routeCase(3, 4, 2, normalize, 70 + i, 4),
    ]),
    routeCase(3, 4, 2, true, 80, -1),
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

export const EXPERTS_BACK: readonly Family[] = [...products, outer, route];
