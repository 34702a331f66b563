// Cases of attention_back: every feature alone and in combination, heads that are no vectors, several blocks of keys.

import fc from "fast-check";
import { attentionBackOp } from "../../../src/ops/attention-back.js";
import { type Case, type Family, operand } from "../../support/conformance.js";
import { integers, normals } from "../../support/random.js";
import { type HeadLayout, laidOut } from "./_attention.js";
import { seeds, sumUnits } from "./_tools.js";
import { biasOf, maskOf } from "./attention.js";

interface Options {
  readonly B?: number;
  readonly T?: number;
  readonly S?: number;
  readonly G?: number;
  /** Query heads per key head. */
  readonly share?: number;
  readonly D?: number;
  readonly E?: number;
  readonly layout?: HeadLayout;
  readonly mask?: "some" | "rows" | "left";
  readonly segments?: boolean;
  readonly slopes?: boolean;
  readonly sinks?: boolean;
  readonly bias?: "full" | "head" | "batch";
  readonly causal?: boolean;
  readonly window?: number;
  readonly softcap?: number;
}

function backCase(seed: number, o: Options = {}): Case {
  const { B = 2, T = 5, G = 2, share = 2, D = 8, causal = true, window = 0, softcap = 0, layout = "rows" } = o;
  const E = o.E ?? D;
  const S = o.S ?? T;
  const H = G * share;
  const scale = Math.fround(1 / Math.sqrt(D));
  const slopes = o.slopes ? Float32Array.from({ length: H }, (_, h) => 2 ** (-8 * ((h + 1) / H))) : undefined;
  // The error of a score (as for attention) moves its weight relatively; dy · v, of numbers below 3.5, has that of a sum
  // over E; gradients sum these over keys or over queries and heads. Weights of a row sum to one, so sums over keys do not
  // grow; those over queries do.
  const dot = Math.min(3.5 * 3.5 * D, 3.5 * 3.5 * Math.sqrt(D) * 4) * scale;
  const added = (slopes ? Math.max(0, ...slopes) * Math.max(S, 1) : 0) + (o.bias ? 3.5 : 0);
  const weight = 2 * (dot + added) * sumUnits(D) + sumUnits(S);
  const along = 3.5 * 3.5 * Math.sqrt(E) * 4;
  const one = 3.5 * (along * (2 * weight + sumUnits(E)) + along * sumUnits(S)) * Math.max(scale, 1);
  const features = Object.entries(o)
    .filter(([, value]) => value !== undefined && value !== false)
    .map(([key, value]) => (value === true ? key : `${key} ${value}`));
  return {
    name: `${features.join(", ")} seed ${seed}`,
    inputs: [
      laidOut(layout, [B, T, H, D], seed),
      laidOut(layout, [B, G, S, D], seed + 1),
      laidOut(layout, [B, G, S, E], seed + 2),
      laidOut(layout, [B, T, H, E], seed + 3),
      o.mask && operand([B, S], maskOf(o.mask, B, S, seed + 4)),
      o.segments ? operand([B, S], integers(seed + 5, B * S, 0, 2).sort()) : undefined,
      slopes && operand([H], slopes),
      o.bias && biasOf(o.bias, [B, H, T, S], seed + 6),
      o.sinks ? operand([H], normals(seed + 7, H)) : undefined,
    ],
    attrs: [scale, causal ? 1 : 0, window, softcap],
    bound: (_, name) => (name === "dq" ? one : one * Math.sqrt(T * share)),
  };
}

const FEATURES: readonly Options[] = [
  {},
  { causal: false },
  { causal: false, T: 7, S: 4 },
  { S: 11 },
  { mask: "some" },
  { mask: "rows" },
  { mask: "left" },
  { segments: true },
  { slopes: true },
  { sinks: true },
  { sinks: true, mask: "rows", bias: "full", softcap: 2 },
  { bias: "full" },
  { bias: "head" },
  { bias: "batch" },
  { window: 3 },
  { window: 1, S: 9 },
  { softcap: 2 },
  { E: 5 },
  { E: 24 },
  { share: 1 },
  { G: 1, share: 5 },
  { layout: "swapped" },
  { layout: "part" },
  { mask: "some", segments: true, slopes: true, bias: "full", window: 4, softcap: 3 },
];

export const ATTENTION_BACK: readonly Family[] = [
  {
    op: attentionBackOp,
    table: [
      ...FEATURES.map((o, i) => backCase(10 * i, o)),
      // More queries and keys than a block, heads that are no multiple of a vector.
      ...FEATURES.map((o, i) => backCase(10 * i + 500, { ...o, T: 39, S: 150, D: 19, B: 1 })),
      backCase(1000, { T: 130, D: 64, B: 1, share: 1 }),
      backCase(1001, { T: 70, D: 128, E: 96, G: 1, B: 1 }),
      backCase(1002, { T: 3, D: 200, B: 1 }),
      backCase(1003, { T: 0, S: 4 }),
      backCase(1004, { B: 0 }),
      backCase(1005, { T: 1, S: 1 }),
    ],
    fuzz: fc
      .tuple(
        seeds,
        fc.record({
          B: fc.integer({ min: 1, max: 3 }),
          T: fc.integer({ min: 1, max: 70 }),
          G: fc.integer({ min: 1, max: 3 }),
          share: fc.integer({ min: 1, max: 4 }),
          D: fc.integer({ min: 1, max: 40 }),
          E: fc.integer({ min: 1, max: 40 }),
          layout: fc.constantFrom<HeadLayout>("rows", "swapped", "part"),
          mask: fc.constantFrom("some", "rows", "left", undefined),
          segments: fc.boolean(),
          slopes: fc.boolean(),
          sinks: fc.boolean(),
          bias: fc.constantFrom("full", "head", "batch", undefined),
          causal: fc.boolean(),
          window: fc.integer({ min: 0, max: 20 }),
          softcap: fc.constantFrom(0, 2),
        }),
      )
      .map(([seed, o]) => backCase(seed, { ...o, slopes: o.slopes && !o.sinks } as Options)),
  },
];
