// attention: one workgroup takes some query rows of one group of heads (heads that share keys are rows of one tile) past
// all keys they see, 64 at a time, with a running maximum and sum (Milakov and Gimelshein 2018; Dao et al. 2022). The
// T x S matrix never exists. Everything optional is a variant, so that what is absent takes no binding.

import type { DType } from "../../../core/dtype.js";
import { attentionOp } from "../../../ops/attention.js";
import { FAILURE } from "../device/errors.js";
import type { Kernel, Part, Target } from "../kernel.js";
import type { Operand, Piece } from "../schedule/call.js";
import { along } from "../schedule/split.js";
import {
  bitsReader,
  family,
  quadReader,
  quadType,
  reader,
  reads,
  type Shader,
  type ShaderSpec,
  writes,
} from "../shader.js";
import { ACTIVATIONS, FLOATS, fold, LOWEST, literal } from "../wgsl.js";
import { checked, combined, joined, merged, PARTS, scratch, WIDTH } from "./attention-parts.js";

type Stored = "f32" | "f16" | "bf16" | "i8";

interface Options {
  readonly [more: string]: string | number | boolean;
  readonly k: Stored;
  readonly v: Stored;
  /** Query rows per workgroup: 1 or 4. */
  readonly rows: number;
  /** Head sizes in units of 64, rounded up. */
  readonly d64: number;
  readonly e64: number;
  /** Keys are read four elements at a time. */
  readonly quad: boolean;
  readonly cursor: boolean;
  /** "mask", "segments", "apart" (both), "merged" (both in one buffer) or "none". */
  readonly hides: "none" | "mask" | "segments" | "apart" | "merged";
  /** In a binding of their own, or "joined" to the scales of codes. */
  readonly slopes: "none" | "own" | "joined";
  readonly bias: boolean;
  readonly reports: boolean;
  /** The keys are shared out among workgroups; `combine` puts their results together. */
  readonly split: boolean;
}

/** What a code counts of its row's absmax. */
const CODE = literal(1 / 127);
/** Keys per workgroup when they are shared out, and the fewest workgroups that fill a device without that. */
const SPAN = 256;
const FILLED = 256;

const SIZES = ["R", "share", "T", "H", "G", "S", "D", "E", "tiles", "groups", "splits"];
const strides = (name: string): string[] => [name, `${name}0`, `${name}1`, `${name}2`, `${name}3`];

const shader = family("attention", (options: Options): ShaderSpec => {
  const { k, v, rows, d64, e64, quad, cursor, hides, slopes, bias, reports, split } = options;
  const many = rows > 1;
  const type = many ? "vec4<f32>" : "f32";
  const lane = (name: string, r: string): string => (many ? `${name}[${r}]` : name);
  const each = Array.from({ length: rows }, (_, r) => r);
  const parts = Array.from({ length: e64 }, (_, e) => e);
  const codes = k === "i8" || v === "i8";
  const slopeAt = `${slopes === "joined" ? "scales" : "slopes"}[P.slopes + h]`;
  const masked = hides === "mask" || hides === "apart" || hides === "merged";
  const segmented = hides === "segments" || hides === "apart" || hides === "merged";
  const segmentAt = hides === "merged" ? "both[2u * (b * P.S + (j))]" : "segments[P.segments + b * P.S + (j)]";
  const dots = quad
    ? `for (var d = 0u; d < P.D; d += 4u) {
        let key = k_quad((at + d) / 4u);
        ${each.map((r) => `${lane("s", `${r}`)} += dot(key, vec4<f32>(qs[${r * d64 * 64}u + d], qs[${r * d64 * 64}u + d + 1u], qs[${r * d64 * 64}u + d + 2u], qs[${r * d64 * 64}u + d + 3u]));`).join("\n        ")}
      }`
    : `for (var d = 0u; d < P.D; d++) {
        let key = k_at(at + d * P.k3);
        ${each.map((r) => `${lane("s", `${r}`)} += key * qs[${r * d64 * 64}u + d];`).join(" ")}
      }`;
  const score = (r: number): string => `{
        let row = r0 + ${r}u;
        let t = row / P.share;
        let h = g * P.share + row % P.share;
        let i = past + t;
        var visible = row < P.R;
        if (P.causal != 0u && j > i) { visible = false; }
        if (P.window > 0u && j + P.window <= i) { visible = false; }
        ${segmented ? `if (visible && segment_at(b, j) != segment_at(b, i)) { visible = false; }` : ""}
        if (visible) {
          var value = ${lane("s", `${r}`)} * P.scale;
          if (P.softcap > 0.0) { value = P.softcap * tanh_of(value / P.softcap); }
          ${slopes === "none" ? "" : `value += ${slopeAt} * f32(i32(j) - i32(i));`}
          ${bias ? "value += bias[P.b + b * P.b0 + h * P.b1 + t * P.b2 + j * P.b3];" : ""}
          ${lane("scores", `${r}`)} = value;
          ${lane("seen", `${r}`)} = 1.0;
        }
      }`;
  const finish = (
    r: string,
  ): string => `let out = P.y + ((b * P.T + row / P.share) * P.H + g * P.share + row % P.share) * P.E;
    let share = ${lane("whole", r)};
    ${parts
      .map(
        (e) =>
          `if (lid + ${e * 64}u < P.E) { var value = 0.0; if (share > 0.0) { value = ${lane(`mixed${e}`, r)} / share; } y[out + lid + ${e * 64}u] = value; }`,
      )
      .join("\n    ")}`;
  // Results of a span: the highest score, the sum, and the values times their weights.
  const part = (r: string): string => `let out = ((bg * P.R + row) * P.splits + span) * (P.E + 2u);
    if (lid == 0u) { y[out] = ${lane("best", r)}; y[out + 1u] = ${lane("whole", r)}; }
    ${parts.map((e) => `if (lid + ${e * 64}u < P.E) { y[out + 2u + lid + ${e * 64}u] = ${lane(`mixed${e}`, r)}; }`).join("\n    ")}`;
  return {
    bindings: [
      reads("q", "array<f32>"),
      reads("k", quad ? quadType(k) : "array<u32>"),
      reads("v"),
      ...(codes ? [reads("scales", "array<f32>")] : []),
      ...(cursor ? [reads("cursor", "array<i32>")] : []),
      ...(hides === "mask" || hides === "apart" ? [reads("mask")] : []),
      ...(hides === "segments" || hides === "apart" ? [reads("segments", "array<i32>")] : []),
      ...(hides === "merged" ? [reads("both", "array<i32>")] : []),
      ...(slopes === "own" ? [reads("slopes", "array<f32>")] : []),
      ...(bias ? [reads("bias", "array<f32>")] : []),
      writes("y"),
    ],
    params: [
      ...SIZES,
      ...strides("q"),
      ...strides("k"),
      ...strides("v"),
      ...strides("b"),
      ...["y", "scales", "half", "cursor", "mask", "segments", "slopes"],
      ...["scale:f32", "causal", "window", "softcap:f32"],
    ],
    reports,
    workgroup: WIDTH,
    declarations: [
      FLOATS,
      ACTIVATIONS,
      quad ? quadReader("k", k) : reader("k", k),
      reader("v", v),
      hides === "mask" || hides === "apart" ? bitsReader("mask", "u8") : "",
      segmented ? `fn segment_at(b: u32, j: u32) -> i32 { return ${segmentAt}; }` : "",
      fold("highest", type, WIDTH, (a, b) => `max(${a}, ${b})`),
      fold("total", type, WIDTH, (a, b) => `${a} + ${b}`),
      `var<workgroup> qs: array<f32, ${rows * d64 * 64}>;`,
      `var<workgroup> ps: array<${type}, ${WIDTH}>;`,
    ],
    body: `
  ${split ? "let span = group % P.splits;\n  let place = group / P.splits;" : "let place = group;"}
  let tile = place % P.tiles;
  let bg = place / P.tiles;
  let b = bg / P.G;
  let g = bg % P.G;
  let r0 = tile * ${rows}u;
  if (bg >= P.groups) { return; }
  ${cursor ? "let cursor_value = cursor[P.cursor];" : "let cursor_value = i32(P.S) - i32(P.T);"}
  if (cursor_value < 0 || cursor_value + i32(P.T) > i32(P.S)) {
    ${reports ? `if (group == 0u && lid == 0u) { report(${FAILURE.keysOverflow}u, bitcast<u32>(cursor_value), P.S, P.T); }` : ""}
    return;
  }
  let past = u32(cursor_value);
  for (var x = lid; x < ${rows}u * P.D; x += ${WIDTH}u) {
    let row = min(r0 + x / P.D, P.R - 1u);
    let d = x % P.D;
    qs[(x / P.D) * ${d64 * 64}u + d] =
      q[P.q + b * P.q0 + (row / P.share) * P.q1 + (g * P.share + row % P.share) * P.q2 + d * P.q3];
  }
  workgroupBarrier();
  var hi = past + P.T;
  var lo = 0u;
  if (P.causal != 0u) { hi = min(hi, past + min(r0 + ${rows - 1}u, P.R - 1u) / P.share + 1u); }
  if (P.window > 0u) { let first = past + r0 / P.share + 1u; lo = select(0u, first - P.window, first > P.window); }
  ${split ? `lo = max(lo, span * ${SPAN}u);\n  hi = min(hi, (span + 1u) * ${SPAN}u);` : ""}
  var best = ${type}(${LOWEST});
  var sum = ${type}(0.0);
  ${parts.map((e) => `var mixed${e} = ${type}(0.0);`).join(" ")}
  for (var j0 = lo; j0 < hi; j0 += ${WIDTH}u) {
    let j = j0 + lid;
    var scores = ${type}(${LOWEST});
    var seen = ${type}(0.0);
    ${v === "i8" ? "var value_scale = 0.0;" : ""}
    if (j < hi${masked ? (hides === "merged" ? " && both[2u * (b * P.S + j) + 1u] != 0" : " && mask_bits(P.mask + b * P.S + j) != 0u") : ""}) {
      var s = ${type}(0.0);
      let at = P.k + b * P.k0 + g * P.k1 + j * P.k2;
      ${dots}
      ${k === "i8" ? `s *= scales[P.scales + bg * P.S + j] * ${CODE};` : ""}
      ${v === "i8" ? `value_scale = scales[P.scales + P.half + bg * P.S + j] * ${CODE};` : ""}
      ${each.map(score).join("\n      ")}
    }
    let higher = max(best, highest(scores, lid));
    let p = exp(scores - higher) * seen;
    let fade = exp(best - higher);
    best = higher;
    sum = sum * fade + p;
    ps[lid] = ${v === "i8" ? "p * value_scale" : "p"};
    workgroupBarrier();
    ${parts.map((e) => `mixed${e} *= fade;`).join(" ")}
    let n = min(${WIDTH}u, hi - j0);
    for (var i = 0u; i < n; i++) {
      let weight = ps[i];
      let row = P.v + b * P.v0 + g * P.v1 + (j0 + i) * P.v2;
      ${parts
        .map((e) => `if (lid + ${e * 64}u < P.E) { mixed${e} += weight * v_at(row + (lid + ${e * 64}u) * P.v3); }`)
        .join("\n      ")}
    }
    workgroupBarrier();
  }
  let whole = total(sum, lid);
  ${each
    .map(
      (r) => `if (r0 + ${r}u < P.R) {
    let row = r0 + ${r}u;
    ${split ? part(`${r}`) : finish(`${r}`)}
  }`,
    )
    .join("\n  ")}`,
  };
});

function placed(name: string, { offset, strides: s }: Operand): Record<string, number> {
  return { [name]: offset, [`${name}0`]: s[0]!, [`${name}1`]: s[1]!, [`${name}2`]: s[2]!, [`${name}3`]: s[3]! };
}

const NO_BIAS = { b: 0, b0: 0, b1: 0, b2: 0, b3: 0 };

/** Which of the optional operands are there. */
interface Given {
  readonly scales: boolean;
  readonly cursor: boolean;
  readonly mask: boolean;
  readonly segments: boolean;
  readonly slopes: boolean;
  readonly bias: boolean;
}

/** How optional operands are bound. Where bindings run out, two of them share one, or the cursor is checked apart. */
function bound(
  given: Given,
  storageBuffers: number,
): Pick<Options, "cursor" | "hides" | "slopes" | "bias" | "reports"> {
  const { scales, cursor, mask, segments, slopes, bias } = given;
  let free = storageBuffers - 4 - [scales, cursor, mask, segments, slopes, bias].filter(Boolean).length;
  const merges = mask && segments && free < 0;
  if (merges) free++;
  const joins = scales && slopes && free < 0;
  if (joins) free++;
  return {
    cursor,
    hides: mask && segments ? (merges ? "merged" : "apart") : mask ? "mask" : segments ? "segments" : "none",
    slopes: slopes ? (joins ? "joined" : "own") : "none",
    bias,
    reports: cursor && free > 0,
  };
}

export const attention: Kernel = {
  op: attentionOp,
  record(call, queue, target) {
    const [q, k, v, scales, cursor, mask, segments, slopes, bias, y] = call.operands;
    const [scale = 1, causal = 1, window = 0, softcap = 0] = call.attributes;
    const [B = 0, T = 0, H = 0, D = 0] = q!.shape;
    const [, G = 1, S = 0, E = 0] = v!.shape;
    if (!cursor && S < T) return `${S - T} + ${T} keys do not fit ${S}`;
    if (y!.count === 0) return undefined;
    const share = H / G;
    const width = y!.strides[1]! / E; // heads of a row of y: more than H if this is a part of a larger call
    const R = T * share;
    const rows = R === 1 ? 1 : 4;
    const given = {
      scales: scales !== undefined,
      cursor: cursor !== undefined,
      mask: mask !== undefined,
      segments: segments !== undefined,
      slopes: slopes !== undefined,
      bias: bias !== undefined,
    };
    const binding = bound(given, target.storageBuffers);
    const merges = binding.hides === "merged";
    const joins = binding.slopes === "joined";
    if (cursor && !binding.reports) checked(queue, cursor, T, S);
    const aligned = (n: number): boolean => n % 4 === 0;
    const quad = aligned(D) && k!.strides[3] === 1 && aligned(k!.offset) && k!.strides.slice(0, 3).every(aligned);
    const tiles = Math.ceil(R / rows);
    const groups = tiles * B * G;
    // Few queries and many keys: workgroups share the keys, so that the whole device reads them.
    const spans = groups < FILLED ? Math.ceil(S / SPAN) : 1;
    const splits = B * G * R * spans * (E + 2) * 4 <= y!.block.binding ? spans : 1;
    const split = splits > 1;
    const made = shader({
      k: k!.dtype as Stored,
      v: v!.dtype as Stored,
      rows,
      d64: Math.ceil(D / 64),
      e64: Math.ceil(E / 64),
      quad,
      ...binding,
      split,
    });
    const pieces: Piece[] = [q!, k!, v!];
    if (joins) pieces.push(joined(queue, scales!, slopes!));
    else if (scales) pieces.push(scales);
    if (cursor) pieces.push(cursor);
    if (merges) pieces.push(merged(queue, mask!, segments!));
    else pieces.push(...[mask, segments].filter((operand) => operand !== undefined));
    pieces.push(...[joins ? undefined : slopes, bias].filter((operand) => operand !== undefined));
    const out: Piece = split ? scratch(queue, "spans", B * G * R * splits * (E + 2)) : y!;
    pieces.push(out);
    const numbers = {
      ...{ R, share, T, H: width, G, S, D, E, tiles, groups: B * G, splits },
      ...placed("q", q!),
      ...placed("k", k!),
      ...placed("v", v!),
      ...(bias ? placed("b", bias) : NO_BIAS),
      ...{ y: y!.offset, cursor: cursor?.offset ?? 0, mask: mask?.offset ?? 0 },
      ...{ segments: segments?.offset ?? 0, scales: joins ? 0 : (scales?.offset ?? 0) },
      half: joins ? scales!.count / 2 : (scales?.strides[0] ?? 0),
      ...{ slopes: joins ? scales!.count : (slopes?.offset ?? 0), scale, causal, window, softcap },
    };
    queue.dispatch(made, pieces, numbers, groups * splits);
    if (split) {
      const count = B * G * R;
      const sizes = { count, share, T, H: width, G, R, E, splits, y: y!.offset };
      combined(queue, out, y!, sizes);
    }
    return undefined;
  },
  axes({ operands: [q, k, v, scales, , mask, segments, slopes, bias, y] }) {
    const [batch = 0, , H = 0] = q!.shape;
    const [, groups = 0] = v!.shape;
    const rows = along(batch, {
      0: [q, 0],
      1: [k, 0],
      2: [v, 0],
      3: [scales, 1],
      5: [mask, 0],
      6: [segments, 0],
      8: [bias, 0],
      9: [y, 0],
    });
    if (batch > 1) return [rows];
    const share = H / groups;
    const heads = (begin: number, count: number): [number, number] => [begin * share, count * share];
    const parts: Record<number, Part> = {
      0: { operand: q!, dim: 2, range: heads },
      1: { operand: k!, dim: 1 },
      2: { operand: v!, dim: 1 },
      9: { operand: y!, dim: 2, range: heads },
    };
    if (scales) parts[3] = { operand: scales, dim: 2 };
    if (slopes) parts[7] = { operand: slopes, dim: 0, range: heads };
    if (bias) parts[8] = { operand: bias, dim: 1, range: heads };
    return [{ size: groups, parts }];
  },
  shaders: (target) => [...PARTS, ...variants(target)],
};

/** All combinations of what a model may ask for with heads of up to 64; larger heads, as models have them, on their own. */
function variants({ storageBuffers }: Target): Shader[] {
  const flags = [false, true];
  const all = flags.flatMap((cursor) =>
    flags.flatMap((mask) =>
      flags.flatMap((segments) =>
        flags.flatMap((slopes) => flags.map((bias) => ({ cursor, mask, segments, slopes, bias }))),
      ),
    ),
  );
  const heads = [
    [2, 2],
    [3, 2],
    [4, 4],
  ] as const;
  const made = new Map<string, Shader>();
  for (const dtype of ["f32", "f16", "bf16", "i8"] as const satisfies readonly DType[]) {
    for (const quad of flags) {
      for (const rows of [1, 4]) {
        const add = (given: Omit<Given, "scales">, d64: number, e64: number): void => {
          const binding = bound({ ...given, scales: dtype === "i8" }, storageBuffers);
          for (const split of flags) {
            const one = shader({ k: dtype, v: dtype, rows, d64, e64, quad, ...binding, split });
            made.set(one.key, one);
          }
        };
        for (const given of all) add(given, 1, 1);
        for (const [d64, e64] of heads) for (const given of [all[0]!, all.at(-1)!]) add(given, d64, e64);
      }
    }
  }
  return [...made.values()];
}
