// Cases of what happens to logits: argmax, penalize, sample, append_token, token_logprobs. Ids must agree exactly.
// edit and warp are in warping.ts.

import fc from "fast-check";
import { appendTokenOp } from "../../../src/ops/append-token.js";
import { argmaxOp } from "../../../src/ops/argmax.js";
import { penalizeOp } from "../../../src/ops/penalize.js";
import { sampleOp } from "../../../src/ops/sample.js";
import { tokenLogprobsOp } from "../../../src/ops/token-logprobs.js";
import { type Case, type Family, operand, UNIT } from "../../support/conformance.js";
import { integers, normals } from "../../support/random.js";
import { seeds } from "./_tools.js";

export type Kind = "normal" | "ties" | "holes" | "equal" | "nan" | "peak" | "empty";

export function logitsOf(kind: Kind, B: number, V: number, seed: number): Float32Array {
  const logits = normals(seed, B * V, 3);
  if (kind === "equal") return logits.fill(1.5);
  if (kind === "ties") return logits.map((x) => Math.round(x));
  if (kind === "holes") return logits.map((x, i) => (i % V !== seed % V && i % 3 !== 0 ? Number.NEGATIVE_INFINITY : x));
  if (kind === "nan") logits[logits.length - 1] = Number.NaN;
  if (kind === "peak") for (let b = 0; b < B; b++) logits[b * V + ((seed * 7 + b) % V)] = Number.POSITIVE_INFINITY;
  if (kind === "empty") logits.fill(Number.NEGATIVE_INFINITY, (B - 1) * V);
  return logits;
}

const SIZES = [1, 2, 15, 16, 17, 33, 64, 100, 1000, 5003];

function argmaxCase(kind: Kind, B: number, V: number, seed: number): Case {
  return {
    name: `${kind} [${B},${V}] seed ${seed}`,
    inputs: [operand([B, V], logitsOf(kind, B, V, seed))],
    attrs: [],
    fails: kind === "nan",
  };
}

export const sane: fc.Arbitrary<Kind> = fc.constantFrom<Kind>("normal", "ties", "holes", "equal");
export const rows = fc.integer({ min: 1, max: 5 });
export const vocabularies = fc.oneof(fc.integer({ min: 1, max: 200 }), fc.integer({ min: 1, max: 3000 }));

const argmax: Family = {
  op: argmaxOp,
  table: [
    ...SIZES.map((V, i) => argmaxCase("normal", 3, V, i)),
    ...(["ties", "holes", "equal", "nan"] as const).map((kind, i) => argmaxCase(kind, 2, 77, i)),
    argmaxCase("normal", 0, 5, 9),
    argmaxCase("normal", 2, 100_003, 10),
  ],
  fuzz: fc.tuple(sane, rows, vocabularies, seeds).map((all) => argmaxCase(...all)),
};

type Penalties = readonly [repetition: number, presence: number, frequency: number];

/** Rows with histories of their own lengths; the last of several rows is unused, unless it is the wrong one. */
function penalizeCase(
  B: number,
  V: number,
  L: number,
  penalties: Penalties,
  seed: number,
  wrong: { id?: number; start?: number; end?: number } = {},
): Case {
  const history = integers(seed + 1, B * L, -2, V - 1);
  const lengths = new Int32Array(2 * B);
  for (let b = 0; b < B; b++) {
    const end = b === 0 ? L : (seed * 31 + b * 17) % (L + 1);
    lengths.set([(seed + b) % (end + 1), end], 2 * b);
  }
  const fails = Object.keys(wrong).length > 0;
  if (fails) lengths.set([wrong.start ?? 0, wrong.end ?? L], 2 * B - 2);
  else if (B > 1) lengths.set([-1, -1], 2 * B - 2);
  if (wrong.id !== undefined) history[history.length - 1] = wrong.id;
  // A row takes half of the penalties of the row before.
  const own = Float32Array.from({ length: 3 * B }, (_, i) => {
    const value = penalties[i % 3]!;
    return i % 3 === 0 ? value : value / 2 ** Math.floor(i / 3);
  });
  const size = 6 * 3 * penalties[0] + L * penalties[2] + penalties[1];
  return {
    name: `[${B},${V}] history ${L} by ${penalties.join(", ")} seed ${seed}${fails ? ` wrong ${JSON.stringify(wrong)}` : ""}`,
    inputs: [
      operand([B, V], logitsOf("ties", B, V, seed)),
      operand([B, L], history),
      operand([B, 2], lengths),
      operand([B, 3], own),
    ],
    attrs: [],
    // A repetition penalty alone is one rounding; the others may be taken off in one rounding or two. On a GPU a
    // division is within 2.5 ulp.
    bound: () => 5 * UNIT * Math.max(1, size),
    fails,
  };
}

const penalize: Family = {
  op: penalizeOp,
  table: [
    penalizeCase(1, 50, 9, [1.3, 0, 0], 1),
    penalizeCase(3, 20, 100, [1.1, 0, 0], 2),
    penalizeCase(2, 33, 0, [2, 1, 1], 3),
    penalizeCase(2, 5000, 700, [0.7, 0, 0], 4),
    penalizeCase(3, 20, 100, [1, 0.5, 0], 6),
    penalizeCase(4, 20, 100, [1, 0, 0.25], 7),
    penalizeCase(5, 300, 600, [1.2, 0.3, 0.1], 8),
    penalizeCase(3, 60, 40, [1.2, -0.3, -0.1], 9),
    penalizeCase(0, 60, 4, [1.2, 0, 0], 10),
    penalizeCase(2, 33, 7, [1.3, 0, 0], 5, { id: 33 }),
    penalizeCase(2, 33, 7, [1.3, 0, 0], 5, { end: 8 }),
    penalizeCase(2, 33, 7, [1.3, 0, 0], 5, { start: 5, end: 4 }),
    penalizeCase(2, 33, 7, [1.3, 0, 0], 5, { start: -1 }),
  ],
  fuzz: fc
    .tuple(
      rows,
      vocabularies,
      fc.nat(60),
      fc.tuple(fc.constantFrom(1, 1.05, 1.3, 0.8, 3), fc.constantFrom(0, 0.5, -0.7), fc.constantFrom(0, 0.1, -1.1)),
      seeds,
    )
    .map((all) => penalizeCase(...all)),
};

export interface Sampling {
  readonly temperature?: number;
  readonly top_k?: number;
  readonly top_p?: number;
  readonly min_p?: number;
  readonly seed?: number;
  readonly sequence?: number;
  readonly step?: number;
}

/** Rows that share their parameters, or take those of `rows` in turn. */
function sampleCase(
  kind: Kind,
  B: number,
  V: number,
  data: number,
  o: Sampling = {},
  mix: readonly Sampling[] = [o],
): Case {
  const own = (r: number): Sampling => mix[r % mix.length]!;
  const params = Array.from({ length: B }, (_, r) => {
    const { temperature = 1, top_k = 0, top_p = 1, min_p = 0 } = own(r);
    return [temperature, top_k, top_p, min_p];
  });
  const draws = Array.from({ length: B }, (_, r) => {
    const { seed = 7, sequence = 0, step = 0 } = own(r);
    return [seed, sequence + r, step];
  });
  return {
    name: `${kind} [${B},${V}] ${JSON.stringify(mix)} data ${data}`,
    inputs: [
      operand([B, V], logitsOf(kind, B, V, data)),
      operand([B, 4], Float32Array.from(params.flat())),
      operand([B, 3], Int32Array.from(draws.flat())),
    ],
    attrs: [],
    fails: kind === "nan" || kind === "empty",
  };
}

const MIX: readonly Sampling[] = [
  { temperature: 0 },
  { temperature: 0.7, top_k: 40, top_p: 0.93 },
  { temperature: -1 },
  { top_p: 0.5, step: 3, seed: -5 },
  { min_p: 0.05, sequence: 9 },
];

const SAMPLINGS: readonly Sampling[] = [
  {},
  { temperature: 0.3 },
  { temperature: 2.5, seed: -5 },
  { top_k: 1 },
  { top_k: 5 },
  { top_k: 50, seed: 2 ** 31 - 1 },
  { top_k: 1_000_000 },
  { top_p: 0.9 },
  { top_p: 0.5, step: 3 },
  { top_p: 0.01 },
  { min_p: 0.05 },
  { min_p: 1 },
  { temperature: 0.8, top_k: 40, top_p: 0.93, min_p: 0.02, step: 100_000, sequence: 77 },
];

const sample: Family = {
  op: sampleOp,
  table: [
    ...SAMPLINGS.flatMap((o, i) => [
      sampleCase("normal", 3, 333, 10 * i, o),
      sampleCase("holes", 2, 100, 10 * i + 1, o),
      sampleCase("normal", 2, 5003, 10 * i + 2, o),
      sampleCase("normal", 1, 1, 10 * i + 3, o),
    ]),
    // Ties at the edge of top-k are all kept.
    ...[1, 3, 7, 20].map((top_k, i) => sampleCase("ties", 3, 200, 200 + i, { top_k, seed: i })),
    ...Array.from({ length: 20 }, (_, i) => sampleCase("normal", 4, 50, 300 + i, { seed: i, step: i })),
    // The same request in another row; every row its own parameters, some greedy, some unused.
    ...[0, 1, 2].map((sequence, i) => sampleCase("equal", 3, 200, 350 + i, { sequence: 5 - sequence })),
    ...(["normal", "ties", "holes"] as const).map((kind, i) => sampleCase(kind, 17, 700, 360 + i, {}, MIX)),
    ...(["normal", "ties", "holes", "equal", "peak"] as const).map((kind, i) =>
      sampleCase(kind, 5, 1200, 370 + i, { temperature: 0 }),
    ),
    sampleCase("nan", 3, 40, 380, { temperature: 0 }),
    // What an unused row holds does not matter.
    { ...sampleCase("nan", 2, 40, 381, {}, [{}, { temperature: -1 }]), fails: false },
    { ...sampleCase("empty", 2, 40, 382, {}, [{ temperature: 0 }, { temperature: -1 }]), fails: false },
    sampleCase("nan", 2, 40, 400),
    sampleCase("empty", 2, 40, 402),
    sampleCase("peak", 3, 40, 403),
    sampleCase("peak", 2, 300, 404, { top_k: 5, top_p: 0.9, min_p: 0.01 }),
    sampleCase("normal", 1, 50_257, 401, { top_k: 50, top_p: 0.95, temperature: 0.7 }),
  ],
  fuzz: fc
    .tuple(
      fc.constantFrom<Kind>("normal", "holes"),
      rows,
      vocabularies,
      seeds,
      fc.record({
        temperature: fc.constantFrom(1, 0.2, 0.77, 3, 0),
        top_k: fc.constantFrom(0, 1, 3, 50),
        // Never a sum of round numbers: what lies exactly on the edge is anybody's.
        top_p: fc.constantFrom(1, 1, 0.913, 0.377),
        min_p: fc.constantFrom(0, 0, 0.0417),
        seed: fc.integer({ min: -(2 ** 31), max: 2 ** 31 - 1 }),
        sequence: fc.integer({ min: -5, max: 2 ** 31 - 9 }),
        step: fc.nat(2 ** 30),
      }),
    )
    .map(([kind, B, V, data, o]) => sampleCase(kind, B, V, data, o)),
};

/** Tokens for rows whose histories end at `ends`. */
function appendCase(L: number, ends: readonly number[], seed: number, fails = false): Case {
  const B = ends.length;
  return {
    name: `[${B},${L}] at ${ends.join(", ")} seed ${seed}`,
    inputs: [
      operand([B], integers(seed, B, 0, 999)),
      operand([B, L], integers(seed + 1, B * L, -1, 999)),
      operand([B, 2], Int32Array.from(ends.flatMap((end) => [Math.min(end, 1), end]))),
    ],
    attrs: [],
    fails,
  };
}

const append: Family = {
  op: appendTokenOp,
  table: [
    appendCase(5, [0], 1),
    appendCase(17, [16, 3, -1, 0], 2),
    appendCase(4, [], 3),
    appendCase(4, [1, 4], 4, true),
    appendCase(4, [-1, -1], 5),
  ],
  fuzz: fc
    .tuple(fc.integer({ min: 1, max: 60 }), fc.array(fc.integer({ min: -1, max: 59 }), { maxLength: 9 }), seeds)
    .map(([L, ends, seed]) =>
      appendCase(
        L,
        ends.map((end) => Math.min(end, L - 1)),
        seed,
      ),
    ),
};

function logprobsCase(kind: Kind, R: number, V: number, shift: number, seed: number, wrong?: number): Case {
  const logits = logitsOf(kind, R, V, seed).map((x) => x + shift);
  const targets = integers(seed + 1, R, 0, V - 1);
  if (kind === "holes") for (let r = 0; r < R; r++) targets[r] = seed % V; // a column that is not -inf
  if (wrong !== undefined) targets[R - 1] = wrong;
  let high = 0;
  for (const x of logits) if (Number.isFinite(x)) high = Math.max(high, Math.abs(x));
  return {
    name: `${kind} [${R},${V}] shift ${shift} seed ${seed}`,
    inputs: [operand([R, V], logits), operand([R], targets)],
    attrs: [],
    // Differences of logits round at their size; the logarithm of the sum is good to its relative error of
    // 4 sqrt(V) + 8 roundings at most.
    bound: () => (4 * Math.sqrt(V) + 8) * UNIT + 4 * UNIT * high,
    fails: wrong !== undefined,
  };
}

const logprobs: Family = {
  op: tokenLogprobsOp,
  table: [
    ...SIZES.map((V, i) => logprobsCase("normal", 3, V, 0, i)),
    logprobsCase("holes", 2, 77, 0, 20),
    logprobsCase("equal", 2, 77, 0, 21),
    logprobsCase("normal", 2, 77, 100, 22),
    logprobsCase("normal", 2, 77, -300, 23),
    logprobsCase("normal", 0, 7, 0, 24),
    logprobsCase("normal", 2, 7, 0, 25, 7),
    logprobsCase("normal", 2, 7, 0, 26, -1),
  ],
  fuzz: fc.tuple(sane, rows, vocabularies, fc.constantFrom(0, 50, -50), seeds).map((all) => logprobsCase(...all)),
};

export const SAMPLING: readonly Family[] = [argmax, penalize, sample, append, logprobs];
