// Cases of changes to scores: edit, warp. What is dropped must agree exactly.

import fc from "fast-check";
import { editOp } from "../../../src/ops/edit.js";
import { warpOp } from "../../../src/ops/warp.js";
import { type Case, type Family, operand, UNIT } from "../../support/conformance.js";
import { seeds } from "./_tools.js";
import { type Kind, logitsOf, rows, type Sampling, sane, vocabularies } from "./sampling.js";

/** Edits of N tokens of each row, every third of which is skipped; every third row has only these. */
function editCase(kind: Kind, B: number, V: number, N: number, seed: number, wrong = false): Case {
  const ids = new Int32Array(B * N);
  for (let b = 0; b < B; b++) {
    const [first, step] = [(seed * 31 + b * 17) % V, 1 + (seed % 3)];
    // N steps stay within one round, so no token comes twice.
    for (let n = 0; n < N; n++) ids[b * N + n] = n % 3 === 2 || n * step >= V ? -1 : (first + n * step) % V;
  }
  if (wrong) ids[ids.length - 1] = V;
  const adds = [0, 0.75, -2, Number.NEGATIVE_INFINITY, 0.1];
  const edits = Float32Array.from({ length: 3 * B * N }, (_, i) => {
    const [n, kind] = [Math.floor(i / 3) + seed, i % 3];
    if (kind === 0) return adds[n % 5]!;
    return kind === 1 ? [1, 1.3, 0.8][n % 3]! : [0, 0.25, 0, 0.01][n % 4]!;
  });
  return {
    name: `${kind} [${B},${V}] ${N} edits seed ${seed}${wrong ? " wrong" : ""}`,
    inputs: [
      operand([B, V], logitsOf(kind, B, V, seed)),
      operand([B, N], ids),
      operand([B, N, 3], edits),
      operand(
        [B],
        Int32Array.from({ length: B }, (_, b) => ((b + seed) % 3 === 2 ? 1 : 0)),
      ),
    ],
    attrs: [],
    // Scores of at most some 25 after the penalty; on a GPU a division is within 2.5 ulp, and the growth is added in one rounding or two.
    bound: () => 6 * UNIT * 25,
    fails: wrong,
  };
}

const edit: Family = {
  op: editOp,
  table: [
    editCase("normal", 1, 50, 9, 1),
    editCase("ties", 3, 20, 20, 2),
    editCase("holes", 4, 333, 100, 3),
    editCase("equal", 2, 5000, 900, 4),
    editCase("normal", 3, 1, 2, 5),
    editCase("empty", 3, 40, 7, 6),
    editCase("normal", 0, 40, 7, 7),
    editCase("normal", 3, 40, 0, 8),
    editCase("normal", 2, 40, 7, 9, true),
  ],
  fuzz: fc.tuple(sane, rows, vocabularies, fc.nat(60), seeds).map((all) => editCase(...all)),
};

interface Warping extends Sampling {
  readonly typical_p?: number;
  readonly epsilon?: number;
  readonly eta?: number;
}

/** Rows that share their parameters, or take those of `mix` in turn. */
function warpCase(
  kind: Kind,
  B: number,
  V: number,
  data: number,
  o: Warping = {},
  mix: readonly Warping[] = [o],
): Case {
  const params = Array.from({ length: B }, (_, r) => {
    const {
      temperature = 1,
      top_k = 0,
      top_p = 1,
      min_p = 0,
      typical_p = 1,
      epsilon = 0,
      eta = 0,
    } = mix[r % mix.length]!;
    return [temperature, top_k, top_p, min_p, typical_p, epsilon, eta];
  });
  return {
    name: `${kind} [${B},${V}] ${JSON.stringify(mix)} data ${data}`,
    inputs: [operand([B, V], logitsOf(kind, B, V, data)), operand([B, 7], Float32Array.from(params.flat()))],
    attrs: [],
    // What is dropped must agree exactly; on a GPU a division is within 2.5 ulp, of scores below 75.
    bound: () => 5 * UNIT * 75,
    fails: kind === "nan",
  };
}

const WARPINGS: readonly Warping[] = [
  {},
  { typical_p: 0.913 },
  { typical_p: 0.377, temperature: 0.7 },
  { typical_p: 0.0417 },
  { epsilon: 0.00417 },
  { epsilon: 0.913 },
  { eta: 0.00417 },
  { eta: 0.377, temperature: 2.5 },
  { top_k: 40, typical_p: 0.613 },
  { top_p: 0.913, typical_p: 0.613, temperature: 0.8 },
  { min_p: 0.0417, epsilon: 0.0139, eta: 0.0371 },
  { temperature: 0.77, top_k: 50, top_p: 0.97, min_p: 0.0017, typical_p: 0.877, epsilon: 0.0023, eta: 0.0129 },
];

const warp: Family = {
  op: warpOp,
  table: [
    ...WARPINGS.flatMap((o, i) => [
      warpCase("normal", 3, 333, 10 * i, o),
      warpCase("holes", 2, 100, 10 * i + 1, o),
      warpCase("normal", 2, 5003, 10 * i + 2, o),
      warpCase("normal", 1, 1, 10 * i + 3, o),
      warpCase("equal", 2, 700, 10 * i + 4, o),
      warpCase("ties", 3, 300, 10 * i + 5, o),
    ]),
    // Every row its own parameters, some greedy, some unused.
    ...(["normal", "ties", "holes"] as const).map((kind, i) =>
      warpCase(kind, 17, 700, 360 + i, {}, [{ temperature: 0 }, ...WARPINGS, { temperature: -1 }]),
    ),
    warpCase("peak", 3, 40, 380, { typical_p: 0.9 }),
    warpCase("peak", 3, 300, 381, { epsilon: 0.01, eta: 0.01 }),
    warpCase("nan", 3, 40, 382, { typical_p: 0.9 }),
    { ...warpCase("nan", 2, 40, 383, {}, [{}, { temperature: 0 }]), fails: false },
    warpCase("empty", 2, 40, 384, { typical_p: 0.9, epsilon: 0.01, eta: 0.01 }),
    warpCase("normal", 0, 40, 385, { typical_p: 0.9 }),
    warpCase("normal", 1, 50_257, 386, { typical_p: 0.95 }),
    warpCase("normal", 1, 50_257, 387, { top_k: 50, typical_p: 0.95, eta: 0.003 }),
  ],
  fuzz: fc
    .tuple(
      fc.constantFrom<Kind>("normal", "holes"),
      rows,
      vocabularies,
      seeds,
      fc.record({
        temperature: fc.constantFrom(1, 0.2, 0.77, 3, 0),
        top_k: fc.constantFrom(0, 0, 3, 50),
        top_p: fc.constantFrom(1, 1, 0.913, 0.377),
        min_p: fc.constantFrom(0, 0, 0.0417),
        typical_p: fc.constantFrom(1, 0.913, 0.377, 0.0417),
        epsilon: fc.constantFrom(0, 0, 0.00317, 0.0417),
        eta: fc.constantFrom(0, 0, 0.00317, 0.0417),
      }),
    )
    .map(([kind, B, V, data, o]) => warpCase(kind, B, V, data, o)),
};

export const WARPING: readonly Family[] = [edit, warp];
