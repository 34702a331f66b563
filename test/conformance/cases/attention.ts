// Cases of attention, with every feature alone and in combination, and of kv_append.

import fc from "fast-check";
import { attentionOp } from "../../../src/ops/attention.js";
import { kvAppendOp } from "../../../src/ops/kv-append.js";
import { COMPUTE } from "../../../src/ops/linear.js";
import { type Case, type Family, type Operand, operand, type ViewStep } from "../../support/conformance.js";
import { bytes, integers, normals, product } from "../../support/random.js";
import { seeds, sumUnits } from "./_tools.js";

export type HeadLayout = "rows" | "swapped" | "part";

/** A [a, b, c, d] operand as it is, stored with its middle dims swapped, or as a part of something wider. */
export function laidOut(layout: HeadLayout, shape: readonly number[], seed: number, size = 1, codes = false): Operand {
  const [a = 0, b = 0, c = 0, d = 0] = shape;
  const stored = layout === "swapped" ? [a, c, b, d] : layout === "part" ? [a, b + 1, c, d + 6] : [a, b, c, d];
  const view: Record<HeadLayout, ViewStep[]> = {
    rows: [],
    swapped: [["permute", 0, 2, 1, 3]],
    part: [
      ["narrow", 3, 2, d],
      ["narrow", 1, 1, b],
    ],
  };
  const count = product(stored);
  if (codes) return operand(stored, Int8Array.from(integers(seed, count, -127, 127)), "i8", { view: view[layout] });
  return operand(stored, normals(seed, count, size), "f32", { view: view[layout] });
}

interface Options {
  readonly B?: number;
  readonly T?: number;
  readonly S?: number;
  readonly G?: number;
  /** Query heads per key head. */
  readonly share?: number;
  readonly D?: number;
  readonly E?: number;
  readonly q?: HeadLayout;
  readonly kv?: HeadLayout;
  /** Value of the cursor; without it queries stand at the end. */
  readonly past?: number;
  readonly mask?: "some" | "rows" | "left";
  readonly segments?: boolean;
  readonly slopes?: boolean;
  readonly bias?: "full" | "head" | "batch";
  readonly causal?: boolean;
  readonly window?: number;
  readonly softcap?: number;
  /** Size of the queries: large ones make sharp softmaxes. */
  readonly size?: number;
  /** Keys, values or both as codes with scales. */
  readonly codes?: "both" | "keys" | "values";
  readonly compute?: "bf16";
}

export function maskOf(kind: NonNullable<Options["mask"]>, B: number, S: number, seed: number): Uint8Array {
  const mask = bytes(seed, B * S, 0, 3).map((x) => (x > 0 ? 1 : 0));
  if (kind === "rows") mask.fill(0, 0, S); // nothing can be seen in the first text
  if (kind === "left") {
    mask.fill(1);
    for (let b = 0; b < B; b++) mask.fill(0, b * S, b * S + ((b * 3) % S));
  }
  return mask;
}

export function biasOf(kind: NonNullable<Options["bias"]>, dims: readonly number[], seed: number): Operand {
  const [B = 0, H = 0, T = 0, S = 0] = dims;
  const shape = kind === "full" ? [B, H, T, S] : kind === "head" ? [1, H, 1, S] : [B, 1, T, S];
  return operand(shape, normals(seed, product(shape)), "f32", {
    view: kind === "full" ? [] : [["expand", B, H, T, S]],
  });
}

function attentionCase(seed: number, o: Options = {}, fails = false): Case {
  const { B = 2, T = 5, G = 2, share = 2, D = 8, causal = true, window = 0, softcap = 0, size = 1 } = o;
  const E = o.E ?? D;
  const S = o.S ?? T;
  const H = G * share;
  const past = o.past ?? S - T;
  const scale = Math.fround(1 / Math.sqrt(D));
  const k = laidOut(o.kv ?? "rows", [B, G, S, D], seed + 1, 1, o.codes === "both" || o.codes === "keys");
  const v = laidOut(o.kv ?? "rows", [B, G, S, E], seed + 2, 1, o.codes === "both" || o.codes === "values");
  const absmax = o.codes && normals(seed + 6, 2 * B * G * S).map((x) => Math.abs(x) + 0.1);
  const slopes = o.slopes ? Float32Array.from({ length: H }, (_, h) => 2 ** (-8 * ((h + 1) / H))) : undefined;
  const bias = o.bias && biasOf(o.bias, [B, H, T, S], seed + 3);
  // A score is a sum over D and what is added; its error moves the weights by as much, relatively. The result is a
  // mean of values: its error is that of the weights plus that of a sum over S. Numbers here are below 3.5 in size.
  const dot = 3.5 * 3.5 * size * D * scale;
  const added = (slopes ? Math.max(0, ...slopes) * Math.max(S, 1) : 0) + (bias ? 3.5 : 0);
  const score = Math.min(dot, 3.5 * 3.5 * size * Math.sqrt(D) * 4 * scale) + added;
  // Kernels that multiply codes with codes hold weights in 65280 steps to the largest of a block of keys.
  const steps = o.codes === "both" ? Math.sqrt(S) / 65280 : 0;
  // With bf16 queries and weights may be rounded to eight bits.
  const rounding = o.compute ? 2 ** -8 : 0;
  const bound = 3.5 * (2 * score * (sumUnits(D) + rounding) + sumUnits(S) + steps + rounding);
  const features = Object.entries(o)
    .filter(([, value]) => value !== undefined && value !== false)
    .map(([key, value]) => (value === true ? key : `${key} ${value}`));
  return {
    name: `${features.join(", ")} seed ${seed}`,
    inputs: [
      laidOut(o.q ?? "rows", [B, T, H, D], seed, size),
      k,
      v,
      absmax && operand([2, B, G, S], absmax),
      o.past === undefined ? undefined : operand([1], Int32Array.of(past)),
      o.mask && operand([B, S], maskOf(o.mask, B, S, seed + 4)),
      o.segments ? operand([B, S], integers(seed + 5, B * S, 0, 2).sort()) : undefined,
      slopes && operand([H], slopes),
      bias,
    ],
    attrs: [scale, causal ? 1 : 0, window, softcap, o.compute ? COMPUTE.bf16 : COMPUTE.f32],
    bound: () => bound,
    fails,
  };
}

/** Every feature alone, on short and on long contexts, and with one query (decoding). */
const FEATURES: readonly Options[] = [
  {},
  { causal: false },
  { past: 9 },
  { past: 0, S: 11 },
  { mask: "some" },
  { mask: "rows" },
  { mask: "left" },
  { segments: true },
  { slopes: true },
  { bias: "full" },
  { bias: "head" },
  { bias: "batch" },
  { window: 3 },
  { window: 1 },
  { window: 3, causal: false },
  { softcap: 2 },
  { E: 5 },
  { E: 24 },
  { share: 1 },
  { G: 1, share: 5 },
  { size: 20 },
  { q: "swapped", kv: "swapped" },
  { q: "part", kv: "part" },
  { codes: "both" },
  { codes: "both", share: 1, D: 33, E: 19 },
  { codes: "both", mask: "left", slopes: true },
  { codes: "both", segments: true, window: 3 },
  { codes: "both", softcap: 2, bias: "full", share: 9, G: 1 },
  { codes: "both", q: "part", kv: "part" },
  { codes: "keys", mask: "some" },
  { codes: "values", mask: "rows" },
  { compute: "bf16" },
  { compute: "bf16", mask: "left", D: 33, E: 19 },
  { compute: "bf16", segments: true, window: 3, share: 9, G: 1 },
  { compute: "bf16", mask: "some", q: "part", kv: "part" },
];

const EVERYTHING: Options = { mask: "some", segments: true, slopes: true, bias: "head", window: 9, softcap: 3 };

const attention: Family = {
  op: attentionOp,
  table: [
    ...FEATURES.map((o, i) => attentionCase(10 * i, { S: o.past ? 16 : 5, ...o })),
    ...FEATURES.map((o, i) => attentionCase(10 * i + 1, { S: 23, T: 1, ...o })),
    ...FEATURES.map((o, i) => attentionCase(10 * i + 2, { T: 37, D: 20, B: 1, ...o, S: 150 })),
    attentionCase(1000, { ...EVERYTHING, T: 7, S: 40 }),
    attentionCase(1001, { ...EVERYTHING, T: 7, S: 40, past: 20, E: 12, q: "swapped", kv: "part" }),
    attentionCase(1003, { ...EVERYTHING, T: 7, S: 40, past: 20, codes: "both" }),
    attentionCase(1013, { ...EVERYTHING, T: 130, S: 200, D: 70, codes: "both" }),
    attentionCase(1014, { T: 1, S: 1300, D: 64, G: 1, share: 4, B: 1, codes: "both" }),
    attentionCase(1015, { T: 1, S: 1300, D: 128, G: 2, share: 8, past: 1111, B: 2, mask: "left", codes: "both" }),
    attentionCase(1002, { ...EVERYTHING, T: 130, S: 200, bias: "full", B: 1 }),
    attentionCase(1004, { T: 1, S: 1300, D: 64, G: 1, share: 4, B: 1 }),
    attentionCase(1005, { T: 3, S: 1300, D: 12, past: 1200, mask: "left", B: 3 }),
    attentionCase(1006, { T: 150, S: 150, D: 33, G: 1, share: 3, B: 1 }),
    attentionCase(1007, { B: 0 }),
    attentionCase(1008, { T: 0, S: 6 }),
    attentionCase(1009, { D: 1, E: 1, G: 1, share: 1, B: 1, T: 2 }),
    attentionCase(1010, { D: 128, E: 128, T: 4, S: 70 }),
    attentionCase(1011, { T: 5, S: 8, past: 4 }, true),
    attentionCase(1012, { T: 5, S: 8, past: -1 }, true),
  ],
  fuzz: fc
    .tuple(
      seeds,
      fc.record({
        B: fc.integer({ min: 1, max: 3 }),
        T: fc.oneof(fc.constant(1), fc.integer({ min: 1, max: 20 })),
        extra: fc.integer({ min: 0, max: 90 }),
        G: fc.integer({ min: 1, max: 3 }),
        share: fc.integer({ min: 1, max: 4 }),
        D: fc.integer({ min: 1, max: 40 }),
        E: fc.option(fc.integer({ min: 1, max: 40 }), { nil: undefined }),
        q: fc.constantFrom("rows" as const, "swapped" as const, "part" as const),
        kv: fc.constantFrom("rows" as const, "swapped" as const, "part" as const),
        ahead: fc.option(fc.nat(90), { nil: undefined }),
        mask: fc.constantFrom(undefined, "some" as const, "rows" as const, "left" as const),
        segments: fc.boolean(),
        slopes: fc.boolean(),
        bias: fc.constantFrom(undefined, "full" as const, "head" as const, "batch" as const),
        causal: fc.boolean(),
        window: fc.constantFrom(0, 0, 1, 4, 30),
        softcap: fc.constantFrom(0, 0, 2),
        size: fc.constantFrom(1, 1, 10),
        compute: fc.constantFrom(undefined, "bf16" as const),
        codes: fc.constantFrom(undefined, "both" as const, "both" as const, "keys" as const, "values" as const),
      }),
    )
    .map(([seed, { extra, ahead, ...o }]) =>
      attentionCase(seed, { ...o, S: o.T + extra, past: ahead === undefined ? undefined : Math.min(ahead, extra) }),
    ),
};

function appendCase(
  layout: HeadLayout,
  [B, T, G, D]: readonly [number, number, number, number],
  room: number,
  past: number,
  seed: number,
  fails = false,
  codes = false,
): Case {
  const shape = [B, G, T + room, D];
  const size = product(shape);
  return {
    name: `[${B},${T},${G},${D}] ${layout} at ${past} of ${T + room}${codes ? " codes" : ""} seed ${seed}`,
    inputs: [
      laidOut(layout, [B, T, G, D], seed),
      operand([1], Int32Array.of(past)),
      codes
        ? operand(shape, Int8Array.from(integers(seed + 1, size, -127, 127)))
        : operand(shape, normals(seed + 1, size)),
      codes ? operand(shape.slice(0, 3), normals(seed + 2, product(shape.slice(0, 3)))) : undefined,
    ],
    attrs: [],
    fails,
  };
}

const append: Family = {
  op: kvAppendOp,
  table: [
    ...(["rows", "swapped", "part"] as const).flatMap((layout, i) => [
      appendCase(layout, [2, 3, 4, 8], 5, 2, 10 * i + 1),
      appendCase(layout, [1, 1, 2, 33], 7, 7, 10 * i + 2),
      appendCase(layout, [3, 20, 1, 5], 0, 0, 10 * i + 3),
      appendCase(layout, [0, 2, 1, 4], 2, 0, 10 * i + 4),
      appendCase(layout, [2, 0, 3, 4], 2, 1, 10 * i + 5),
      appendCase(layout, [2, 3, 4, 8], 5, 2, 10 * i + 6, false, true),
      appendCase(layout, [1, 1, 2, 33], 7, 7, 10 * i + 7, false, true),
      appendCase(layout, [3, 5, 3, 130], 2, 1, 10 * i + 8, false, true),
      appendCase(layout, [0, 2, 1, 4], 2, 0, 10 * i + 9, false, true),
    ]),
    appendCase("rows", [2, 3, 2, 4], 2, 3, 90, true),
    appendCase("rows", [2, 3, 2, 4], 2, -1, 91, true),
    appendCase("rows", [2, 3, 2, 4], 2, 3, 92, true, true),
  ],
  fuzz: fc
    .tuple(
      fc.constantFrom("rows" as const, "swapped" as const, "part" as const),
      fc.tuple(
        fc.integer({ min: 1, max: 3 }),
        fc.integer({ min: 1, max: 20 }),
        fc.integer({ min: 1, max: 4 }),
        fc.integer({ min: 1, max: 70 }),
      ),
      fc.nat(20),
      fc.nat(20),
      seeds,
      fc.boolean(),
    )
    .map(([layout, size, room, past, seed, codes]) =>
      appendCase(layout, size, room, Math.min(room, past), seed, false, codes),
    ),
};

export const ATTENTION: readonly Family[] = [attention, append];
