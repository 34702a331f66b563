// Cases of attention, kv_append and advance_lanes over the pages of a cache: rows of any lengths, unused lanes, pieces of
// prompts, pages in any order, rings of pages under a window, keys that were written once. Places that no query may
// see hold NaN, wherever a number can be one.

import fc from "fast-check";
import { advanceLanesOp } from "../../../src/ops/advance.js";
import { kvAppendOp } from "../../../src/ops/kv-append.js";
import { COMPUTE } from "../../../src/ops/linear.js";
import { type Case, type Family, type Operand, operand } from "../../support/conformance.js";
import { integers, normals, product, uniforms } from "../../support/random.js";
import { attentionBound, type HeadLayout, laidOut, slopesOf } from "./_attention.js";
import { seeds } from "./_tools.js";

/** Tokens `from` .. `from + count` of a row, after `pad` unused lanes; one such run, or several, for each b. */
interface Run {
  readonly row: number;
  readonly from: number;
  readonly count: number;
  readonly pad?: number;
}

/** What lanes and table say, and the rows that they speak of. */
interface Pages {
  /** Runs of each b; all b have as many lanes. */
  readonly runs: readonly (readonly Run[])[];
  /** Keys that each row holds. */
  readonly held: readonly number[];
  /** Tokens of a page. */
  readonly S: number;
  /** Pages of a row; as many as the longest row needs, if not given. */
  readonly ring?: number;
  /** A row or page that is not there, a position below zero. */
  readonly wrong?: "row" | "page" | "position";
}

interface Laid {
  readonly B: number;
  readonly T: number;
  readonly P: number;
  readonly lanes: Operand;
  readonly table: Operand;
  /** Page and place of each token that its row holds still. */
  readonly places: readonly (readonly [page: number, place: number])[];
}

/** A permutation of 0 .. n - 1. */
function shuffled(seed: number, n: number): number[] {
  const next = uniforms(seed);
  const all = Array.from({ length: n }, (_, i) => i);
  for (let i = n - 1; i > 0; i--) {
    const j = Math.floor(next() * (i + 1));
    [all[i], all[j]] = [all[j]!, all[i]!];
  }
  return all;
}

function layOut({ runs, held, S, ring, wrong }: Pages, seed: number): Laid {
  const B = runs.length;
  const T = Math.max(0, ...runs.map((list) => list.reduce((n, { pad = 0, count }) => n + pad + count, 0)));
  const rows = new Int32Array(B * T).fill(-1);
  const positions = new Int32Array(B * T).fill(-7);
  runs.forEach((list, b) => {
    let at = b * T;
    for (const { row, from, count, pad = 0 } of list) {
      at += pad;
      for (let n = 0; n < count; n++, at++) {
        rows[at] = row;
        positions[at] = from + n;
      }
    }
  });
  const R = held.length;
  const columns = 1 + (ring ?? Math.max(1, ...held.map((n) => Math.ceil(n / S))));
  const needed = held.map((n) => Math.min(columns - 1, Math.ceil(n / S)));
  const P = needed.reduce((sum, n) => sum + n, 1);
  const free = shuffled(seed, P);
  const table = new Int32Array(R * columns).fill(-1);
  const places: [number, number][] = [];
  held.forEach((n, r) => {
    table[r * columns] = n;
    for (let c = 0; c < needed[r]!; c++) table[r * columns + 1 + c] = free.pop()!;
    for (let j = Math.max(0, n - (columns - 1) * S); j < n; j++) {
      places.push([table[r * columns + 1 + (Math.floor(j / S) % (columns - 1))]!, j % S]);
    }
  });
  if (wrong === "row") rows[rows.length - 1] = R;
  if (wrong === "position") positions[positions.length - 1] = -1;
  if (wrong === "page") table[1] = P;
  return {
    B,
    T,
    P,
    places,
    lanes: operand([2, B, T], Int32Array.of(...rows, ...positions)),
    table: operand([R, columns], table),
  };
}

interface Options {
  readonly G?: number;
  readonly share?: number;
  readonly D?: number;
  readonly E?: number;
  readonly q?: HeadLayout;
  readonly causal?: boolean;
  readonly window?: number;
  readonly softcap?: number;
  readonly slopes?: boolean;
  readonly distances?: number;
  readonly sinks?: boolean;
  readonly codes?: "both" | "keys" | "values";
  readonly compute?: "bf16";
}

function pagedCase(name: string, pages: Pages, o: Options = {}, seed = 1, fails = false): Case {
  const { G = 2, share = 2, D = 8, causal = true, window = 0, softcap = 0 } = o;
  const E = o.E ?? D;
  const H = G * share;
  const { S, held } = pages;
  const { B, T, P, lanes, table, places } = layOut(pages, seed);
  const scale = Math.fround(1 / Math.sqrt(D));
  const seen = new Set(places.map(([page, place]) => page * S + place));
  const unseen = (page: number, place: number): boolean => !seen.has(page * S + place);
  const stored = (width: number, at: number, codes: boolean): Operand => {
    const shape = [P, G, S, width];
    if (codes) return operand(shape, Int8Array.from(integers(at, product(shape), -127, 127)));
    const values = normals(at, product(shape));
    for (let i = 0; i < values.length; i++) {
      if (unseen(Math.floor(i / (G * S * width)), Math.floor(i / width) % S)) values[i] = Number.NaN;
    }
    return operand(shape, values);
  };
  const scales =
    o.codes &&
    normals(seed + 6, 2 * P * G * S).map((x, i) =>
      unseen(Math.floor(i / (G * S)) % P, i % S) ? Number.NaN : Math.abs(x) + 0.1,
    );
  const keys = Math.max(1, ...held);
  const added = (o.slopes ? keys : 0) + (o.distances ? 3.5 : 0);
  const rounded = o.compute !== undefined;
  const bound = attentionBound({ D, keys, scale, added, codes: o.codes === "both", rounded });
  const features = Object.entries(o).map(([key, value]) => `${key} ${value}`);
  return {
    name: `${name}: ${[`pages of ${S}`, ...features].join(", ")} seed ${seed}`,
    inputs: [
      laidOut(o.q ?? "rows", [B, T, H, D], seed + 1),
      stored(D, seed + 2, o.codes === "both" || o.codes === "keys"),
      stored(E, seed + 3, o.codes === "both" || o.codes === "values"),
      scales && operand([2, P, G, S], scales),
      lanes,
      table,
      undefined,
      undefined,
      o.slopes ? operand([H], slopesOf(H)) : undefined,
      o.distances === undefined ? undefined : operand([H, o.distances], normals(seed + 5, H * o.distances)),
      undefined,
      o.sinks ? operand([H], normals(seed + 8, H, 3)) : undefined,
    ],
    attrs: [scale, causal ? 1 : 0, window, softcap, o.compute ? COMPUTE.bf16 : COMPUTE.f32],
    bound: () => bound,
    fails,
  };
}

/** One new token for each row that holds any, in another order than that of the rows; rows without keys get no lane. */
function decode(held: readonly number[]): readonly (readonly Run[])[] {
  return held.map((_, b) => {
    const row = (b * 3 + 1) % held.length;
    return held[row] === 0 ? [{ row, from: 0, count: 0, pad: 1 }] : [{ row, from: held[row]! - 1, count: 1 }];
  });
}

const ONE = [37];
const EIGHT = [16, 1, 40, 100, 7, 64, 0, 130];

const LAYOUTS: readonly (readonly [name: string, pages: Pages])[] = [
  ["one row", { runs: decode(ONE), held: ONE, S: 16 }],
  ["one row, contiguous", { runs: decode(ONE), held: ONE, S: 48 }],
  ["eight rows", { runs: decode(EIGHT), held: EIGHT, S: 16 }],
  ["eight rows, contiguous", { runs: decode(EIGHT), held: EIGHT, S: 144 }],
  ["eight rows, odd pages", { runs: decode(EIGHT), held: EIGHT, S: 7 }],
  ["a piece", { runs: [[{ row: 1, from: 0, count: 20 }]], held: [3, 20], S: 16 }],
  ["the next piece", { runs: [[{ row: 1, from: 20, count: 25 }]], held: [3, 45], S: 16 }],
  ["a long piece", { runs: [[{ row: 0, from: 90, count: 150 }]], held: [240], S: 16 }],
  [
    "padded prompts",
    {
      runs: [
        [{ row: 2, from: 0, count: 12 }],
        [{ row: 0, from: 0, count: 5, pad: 7 }],
        [{ row: 1, from: 30, count: 9, pad: 3 }],
      ],
      held: [5, 39, 12],
      S: 16,
    },
  ],
  [
    "prompts and single tokens",
    {
      runs: [
        [
          { row: 3, from: 40, count: 1 },
          { row: 0, from: 9, count: 1 },
          { row: 1, from: 17, count: 14, pad: 2 },
          { row: 2, from: 0, count: 3 },
          { row: 2, from: 5, count: 2, pad: 1 },
        ],
      ],
      held: [10, 31, 7, 41],
      S: 16,
    },
  ],
];

const FEATURES: readonly Options[] = [
  {},
  { window: 5 },
  { window: 1, codes: "both" },
  { slopes: true, softcap: 2 },
  { distances: 9 },
  { sinks: true, window: 5, codes: "both" },
  { sinks: true, share: 5, G: 1, D: 70, E: 20 },
  { share: 5, G: 1, D: 33, E: 20 },
  { q: "part", D: 20, E: 33, share: 1 },
  { codes: "both" },
  { codes: "both", share: 9, G: 1, D: 70, E: 19 },
  { codes: "keys", slopes: true },
  { codes: "values", distances: 301 },
  { compute: "bf16" },
  { compute: "bf16", q: "swapped", window: 5, share: 9, G: 1 },
];

/** Rows that are longer than their ring of pages. */
const RINGS: readonly (readonly [name: string, pages: Pages, window: number])[] = [
  [
    "ring",
    { runs: [[{ row: 0, from: 50, count: 1 }], [{ row: 1, from: 4, count: 1 }]], held: [51, 5], S: 4, ring: 3 },
    9,
  ],
  ["ring, a piece", { runs: [[{ row: 0, from: 41, count: 10 }]], held: [51], S: 16, ring: 3 }, 20],
  ["ring in one page", { runs: [[{ row: 0, from: 50, count: 3 }]], held: [53], S: 24, ring: 1 }, 9],
  ["long ring", { runs: [[{ row: 0, from: 1000, count: 70 }]], held: [1070], S: 16, ring: 17 }, 200],
];

/** Keys that were written once, for more queries or fewer. */
const CROSS: Pages = {
  runs: [
    [{ row: 1, from: 3, count: 6 }],
    [{ row: 0, from: 100, count: 4, pad: 2 }],
    [{ row: 2, from: 0, count: 5, pad: 1 }],
  ],
  held: [50, 3, 0],
  S: 16,
};

export const pagedAttention: Omit<Family, "op"> = {
  table: [
    ...LAYOUTS.flatMap(([name, pages], i) => FEATURES.map((o, n) => pagedCase(name, pages, o, 100 * i + 7 * n + 1))),
    ...RINGS.flatMap(([name, pages, window], i) =>
      [{}, { codes: "both" as const }, { slopes: true, share: 3 }, { sinks: true }].map((o, n) =>
        pagedCase(name, pages, { ...o, window }, 2000 + 100 * i + 7 * n),
      ),
    ),
    ...[{}, { codes: "both" as const, E: 20 }, { compute: "bf16" as const, share: 9, G: 1 }].flatMap((o, n) => [
      pagedCase("cross", CROSS, { ...o, causal: false }, 3000 + n),
      pagedCase("cross, contiguous", { ...CROSS, S: 64 }, { ...o, causal: false }, 3010 + n),
    ]),
    pagedCase("long rows", { runs: decode([1300, 700]), held: [1300, 700], S: 16 }, { D: 64, share: 4 }, 4000),
    pagedCase("long rows", { runs: decode([1300, 700]), held: [1300, 700], S: 16 }, { sinks: true, D: 64 }, 4030),
    pagedCase("long rows", { runs: decode([1300, 700]), held: [1300, 700], S: 16 }, { codes: "both", D: 64 }, 4010),
    pagedCase("long rows", { runs: decode([1300, 700]), held: [1300, 700], S: 1312 }, { codes: "both" }, 4020),
    pagedCase("no lane in use", { runs: [[{ row: 0, from: 0, count: 0, pad: 3 }]], held: [4], S: 4 }),
    pagedCase("no lane", { runs: [], held: [4], S: 4 }),
    pagedCase("no such row", { runs: decode(ONE), held: ONE, S: 16, wrong: "row" }, {}, 1, true),
    pagedCase("no such page", { runs: decode(ONE), held: ONE, S: 16, wrong: "page" }, {}, 1, true),
    pagedCase("no such position", { runs: decode(ONE), held: ONE, S: 16, wrong: "position" }, {}, 1, true),
    pagedCase("too long for its pages", { runs: decode([40]), held: [40], S: 16, ring: 2 }, {}, 1, true),
    pagedCase("too long for its ring", { runs: decode([60]), held: [60], S: 16, ring: 2 }, { window: 33 }, 1, true),
  ],
  fuzz: fc
    .record({
      seed: seeds,
      rows: fc.array(fc.record({ past: fc.nat(90), count: fc.integer({ min: 0, max: 12 }) }), {
        minLength: 1,
        maxLength: 5,
      }),
      S: fc.constantFrom(1, 5, 16, 16, 32, 112),
      o: fc.record({
        G: fc.integer({ min: 1, max: 3 }),
        share: fc.integer({ min: 1, max: 9 }),
        D: fc.integer({ min: 1, max: 40 }),
        E: fc.integer({ min: 1, max: 40 }),
        causal: fc.boolean(),
        window: fc.constantFrom(0, 0, 1, 4, 30),
        softcap: fc.constantFrom(0, 0, 2),
        slopes: fc.boolean(),
        distances: fc.constantFrom(undefined, 1, 7, 33),
        sinks: fc.boolean(),
        codes: fc.constantFrom(undefined, "both" as const, "both" as const, "keys" as const, "values" as const),
        compute: fc.constantFrom(undefined, "bf16" as const),
      }),
    })
    .map(({ seed, rows, S, o: any }) => {
      const causal = any.causal || any.window > 0; // windows over a table are causal
      const o = { ...any, causal, sinks: any.sinks && !any.slopes && any.distances === undefined };
      const T = Math.max(1, ...rows.map(({ count }) => count));
      const runs = rows.map(({ past, count }, row) => [{ row, from: past, count, pad: T - count }]);
      const held = rows.map(({ past, count }) => past + count);
      return pagedCase("fuzzed", { runs, held, S }, o, seed);
    }),
};

function appendCase(
  name: string,
  pages: Pages,
  [G, D]: readonly [number, number],
  layout: HeadLayout,
  seed: number,
  codes: boolean,
  { fails = false, broken }: { fails?: boolean; broken?: number } = {},
): Case {
  const { S } = pages;
  const { B, T, P, lanes, table } = layOut(pages, seed);
  const shape = [P, G, S, D];
  const size = product(shape);
  const x = laidOut(layout, [B, T, G, D], seed + 1);
  if (broken !== undefined) for (let i = 5; i < x.data.length; i += 3 * D) x.data[i] = broken;
  return {
    name: `${name}: [${B},${T},${G},${D}] ${layout}, pages of ${S}${codes ? ", codes" : ""} seed ${seed} ${broken ?? ""}`,
    inputs: [
      x,
      lanes,
      table,
      codes
        ? operand(shape, Int8Array.from(integers(seed + 2, size, -127, 127)))
        : operand(shape, normals(seed + 2, size)),
      codes ? operand([P, G, S], normals(seed + 3, P * G * S)) : undefined,
    ],
    attrs: [],
    fails,
  };
}

const WRONG = ["row", "page", "position"] as const;

export const append: Family = {
  op: kvAppendOp,
  table: [
    ...[...LAYOUTS, ...RINGS].flatMap(([name, pages], i) =>
      (["rows", "swapped", "part"] as const).flatMap((layout, n) => [
        appendCase(name, pages, [2, 33], layout, 100 * i + 10 * n + 1, false),
        appendCase(name, pages, [3, 8], layout, 100 * i + 10 * n + 5, true),
      ]),
    ),
    ...[Number.NaN, Number.POSITIVE_INFINITY].flatMap((broken) =>
      [8, 33].map((D) => appendCase("broken", LAYOUTS[0]![1], [2, D], "rows", D, true, { broken })),
    ),
    appendCase("no lane", { runs: [], held: [4], S: 4 }, [2, 8], "rows", 1, false),
    ...WRONG.map((wrong) =>
      appendCase(`no such ${wrong}`, { runs: decode([9]), held: [9], S: 16, wrong }, [1, 4], "rows", 1, false, {
        fails: true,
      }),
    ),
  ],
  fuzz: fc
    .record({
      seed: seeds,
      rows: fc.array(fc.record({ past: fc.nat(50), count: fc.integer({ min: 0, max: 12 }) }), {
        minLength: 1,
        maxLength: 5,
      }),
      S: fc.constantFrom(1, 5, 16, 64),
      size: fc.tuple(fc.integer({ min: 1, max: 4 }), fc.integer({ min: 1, max: 70 })),
      layout: fc.constantFrom("rows" as const, "swapped" as const, "part" as const),
      codes: fc.boolean(),
    })
    .map(({ seed, rows, S, size, layout, codes }) => {
      const T = Math.max(1, ...rows.map(({ count }) => count));
      const runs = rows.map(({ past, count }, row) => [{ row, from: past, count, pad: T - count }]);
      const held = rows.map(({ past, count }) => past + count);
      return appendCase("fuzzed", { runs, held, S }, size, layout, seed, codes);
    }),
};

function lanesCase(rows: readonly number[], by: number): Case {
  const positions = rows.map((_, i) => 5 * i);
  return {
    name: `lanes of rows ${rows.join(" ")} by ${by}`,
    inputs: [operand([2, rows.length, 1], Int32Array.of(...rows, ...positions))],
    attrs: [by],
  };
}

export const advanceLanes: Family = {
  op: advanceLanesOp,
  table: [lanesCase([0, -1, 2, 1], 1), lanesCase([-1], 1), lanesCase([], 1), lanesCase([7, 3], -2)],
  fuzz: fc
    .tuple(fc.array(fc.integer({ min: -1, max: 3 }), { maxLength: 40 }), fc.integer({ min: -4, max: 4 }))
    .map(([rows, by]) => lanesCase(rows, by)),
};
