// Cases of attention over keys that stand beside the queries, with every feature alone and in combination; those over the
// pages of a cache are in paged.ts.

import fc from "fast-check";
import { attentionOp } from "../../../src/ops/attention.js";
import { COMPUTE } from "../../../src/ops/linear.js";
import { type Case, type Family, type Operand, operand } from "../../support/conformance.js";
import { bytes, integers, normals, product } from "../../support/random.js";
import { attentionBound, type HeadLayout, laidOut, slopesOf } from "./_attention.js";
import { seeds } from "./_tools.js";
import { advanceLanes, append, pagedAttention } from "./paged.js";

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
  readonly mask?: "some" | "rows" | "left";
  readonly segments?: boolean;
  readonly slopes?: boolean;
  /** W of `distances[H,W]`. */
  readonly distances?: number;
  readonly bias?: "full" | "head" | "batch";
  readonly causal?: boolean;
  readonly window?: number;
  readonly softcap?: number;
  readonly sinks?: boolean;
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

function attentionCase(seed: number, o: Options = {}): Case {
  const { B = 2, T = 5, G = 2, share = 2, D = 8, causal = true, window = 0, softcap = 0, size = 1 } = o;
  const E = o.E ?? D;
  const S = o.S ?? T;
  const H = G * share;
  const scale = Math.fround(1 / Math.sqrt(D));
  const k = laidOut(o.kv ?? "rows", [B, G, S, D], seed + 1, 1, o.codes === "both" || o.codes === "keys");
  const v = laidOut(o.kv ?? "rows", [B, G, S, E], seed + 2, 1, o.codes === "both" || o.codes === "values");
  const absmax = o.codes && normals(seed + 6, 2 * B * G * S).map((x) => Math.abs(x) + 0.1);
  const slopes = o.slopes ? slopesOf(H) : undefined;
  const bias = o.bias && biasOf(o.bias, [B, H, T, S], seed + 3);
  const added = (slopes ? Math.max(0, ...slopes) * Math.max(S, 1) : 0) + (bias ? 3.5 : 0) + (o.distances ? 3.5 : 0);
  const bound = attentionBound({
    D,
    keys: S,
    scale,
    size,
    added,
    codes: o.codes === "both",
    rounded: o.compute !== undefined,
  });
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
      undefined,
      undefined,
      o.mask && operand([B, S], maskOf(o.mask, B, S, seed + 4)),
      o.segments ? operand([B, S], integers(seed + 5, B * S, 0, 2).sort()) : undefined,
      slopes && operand([H], slopes),
      o.distances === undefined ? undefined : operand([H, o.distances], normals(seed + 7, H * o.distances)),
      bias,
      o.sinks ? operand([H], normals(seed + 8, H, 3)) : undefined,
    ],
    attrs: [scale, causal ? 1 : 0, window, softcap, o.compute ? COMPUTE.bf16 : COMPUTE.f32],
    bound: () => bound,
  };
}

/** Every feature alone, on short and on long contexts, and with one query (decoding). */
const FEATURES: readonly Options[] = [
  {},
  { causal: false },
  { mask: "some" },
  { mask: "rows" },
  { mask: "left" },
  { segments: true },
  { slopes: true },
  { distances: 5 },
  { distances: 301, causal: false },
  { distances: 1, slopes: true },
  { bias: "full" },
  { bias: "head" },
  { bias: "batch" },
  { window: 3 },
  { window: 1 },
  { window: 3, causal: false },
  { softcap: 2 },
  { sinks: true },
  { sinks: true, mask: "rows", bias: "full" },
  { sinks: true, codes: "both", segments: true, window: 3, softcap: 2 },
  { sinks: true, compute: "bf16", share: 9, G: 1, D: 70 },
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

const EVERYTHING: Options = {
  mask: "some",
  segments: true,
  slopes: true,
  distances: 9,
  bias: "head",
  window: 9,
  softcap: 3,
};

/** More queries than keys: all of them see all keys. */
const CROSS: readonly Options[] = [
  {},
  { mask: "left" },
  { bias: "full" },
  { softcap: 2, E: 20 },
  { codes: "both", share: 5, G: 1 },
  { compute: "bf16", q: "swapped", kv: "swapped" },
];

const attention: Family = {
  op: attentionOp,
  table: [
    ...FEATURES.map((o, i) => attentionCase(10 * i, o)),
    ...FEATURES.map((o, i) => attentionCase(10 * i + 1, { S: 23, T: 1, ...o })),
    ...FEATURES.map((o, i) => attentionCase(10 * i + 2, { T: 37, D: 20, B: 1, ...o, S: 150 })),
    ...CROSS.map((o, i) => attentionCase(900 + 10 * i, { T: 9, S: 4, causal: false, ...o })),
    attentionCase(970, { T: 90, S: 70, D: 40, causal: false }),
    attentionCase(980, { T: 3, S: 0, causal: false }),
    attentionCase(1000, { ...EVERYTHING, T: 7, S: 40 }),
    attentionCase(1001, { ...EVERYTHING, T: 7, S: 40, E: 12, q: "swapped", kv: "part" }),
    attentionCase(1003, { ...EVERYTHING, T: 7, S: 40, codes: "both" }),
    attentionCase(1013, { ...EVERYTHING, T: 130, S: 200, D: 70, codes: "both" }),
    attentionCase(1014, { T: 1, S: 1300, D: 64, G: 1, share: 4, B: 1, codes: "both" }),
    attentionCase(1015, { T: 1, S: 1300, D: 128, G: 2, share: 8, B: 2, mask: "left", codes: "both" }),
    attentionCase(1016, { T: 40, S: 300, sinks: true, mask: "left" }),
    attentionCase(1002, { ...EVERYTHING, T: 130, S: 200, bias: "full", B: 1 }),
    attentionCase(1004, { T: 1, S: 1300, D: 64, G: 1, share: 4, B: 1 }),
    attentionCase(1005, { T: 3, S: 1300, D: 12, mask: "left", B: 3 }),
    attentionCase(1006, { T: 150, S: 150, D: 33, G: 1, share: 3, B: 1 }),
    attentionCase(1007, { B: 0 }),
    attentionCase(1008, { T: 0, S: 6 }),
    attentionCase(1009, { D: 1, E: 1, G: 1, share: 1, B: 1, T: 2 }),
    attentionCase(1010, { D: 128, E: 128, T: 4, S: 70 }),
    ...pagedAttention.table,
  ],
  fuzz: fc.oneof(
    fc
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
          mask: fc.constantFrom(undefined, "some" as const, "rows" as const, "left" as const),
          segments: fc.boolean(),
          slopes: fc.boolean(),
          distances: fc.constantFrom(undefined, undefined, 1, 7, 33),
          bias: fc.constantFrom(undefined, "full" as const, "head" as const, "batch" as const),
          causal: fc.boolean(),
          window: fc.constantFrom(0, 0, 1, 4, 30),
          softcap: fc.constantFrom(0, 0, 2),
          sinks: fc.boolean(),
          size: fc.constantFrom(1, 1, 10),
          compute: fc.constantFrom(undefined, "bf16" as const),
          codes: fc.constantFrom(undefined, "both" as const, "both" as const, "keys" as const, "values" as const),
        }),
      )
      .map(([seed, { extra, sinks, ...o }]) =>
        attentionCase(seed, { ...o, S: o.T + extra, sinks: sinks && !o.slopes && o.distances === undefined }),
      ),
    pagedAttention.fuzz,
  ),
};

export const ATTENTION: readonly Family[] = [attention, append, advanceLanes];
