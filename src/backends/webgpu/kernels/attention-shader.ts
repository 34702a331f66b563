// The WGSL of attention. One workgroup processes a tile of query rows of one group of heads (heads that share keys are rows
// of one tile) over all keys they see, 64 at a time, with a running maximum and sum (Milakov and Gimelshein 2018; Dao et
// al. 2022). Optional operands are variants, so that absent ones take no binding.
//
// A token's bits depend on its own keys only. Keys are cut into blocks of 64 and spans of 256, counted from the first key
// of the row's own text: position 0 of a cache, the first key of a segment, or the first that the mask shows. Spans are
// combined in order and by the same expressions, whether one workgroup takes all of them or each has its own. Keys that
// only other rows of the tile see do not affect a row: their weight is zero, and the factor on its earlier sums is one.

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
import { ACTIVATIONS, FLOATS, fold, LOWEST, literal, range } from "../wgsl.js";
import { BLOCK, FADE, ROOM, SPAN, SUNK } from "./attention-parts.js";
import { PAGED, PAGED_PARAMS } from "./paged.js";

export type Stored = "f32" | "f16" | "bf16" | "i8";

/** How optional operands are bound. */
export interface Bound {
  /** Keys lie in pages: `lanes` and `table` are bound. */
  readonly paged: boolean;
  /** "mask", "segments", "apart" (both), "merged" (both in one buffer) or "none". */
  readonly hides: "none" | "mask" | "segments" | "apart" | "merged";
  /** "slopes", "distances", "apart" (both), "joined" (both in one buffer) or "none". */
  readonly adds: "none" | "slopes" | "distances" | "apart" | "joined";
  readonly bias: boolean;
  /** Not in the shader of a span: `combine` adds them. */
  readonly sinks: boolean;
  readonly reports: boolean;
}

export interface Options extends Bound {
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
  /** Each span has a workgroup of its own; `combine` combines their results. */
  readonly split: boolean;
}

/** Value of one code step, as a fraction of its row's absmax. */
const CODE = literal(1 / 127);

const SIZES = ["R", "share", "T", "H", "G", "D", "E", "tiles", "groups", "splits"];
const strides = (name: string): string[] => [name, `${name}0`, `${name}1`, `${name}2`, `${name}3`];

const PARAMS: readonly string[] = [
  ...SIZES,
  ...PAGED_PARAMS,
  ...["lanes", "lanes0", "lanes1"],
  ...strides("q"),
  ...strides("k"),
  ...strides("v"),
  ...strides("b"),
  ...["y", "scales", "half", "scales1", "scales2", "mask", "segments", "slopes", "distances", "far:i32", "sinks"],
  ...["scale:f32", "causal", "window:i32", "softcap:f32"],
];

export const attentionShader: (options: Options) => Shader = family("attention", (options: Options): ShaderSpec => {
  const { k, v, rows, d64, e64, quad, paged, hides, adds, bias, sinks, reports, split } = options;
  const many = rows > 1;
  const typed = (of: string): string => (many ? `vec4<${of}>` : of);
  const type = typed("f32");
  const lane = (name: string, r: string | number): string => (many ? `${name}[${r}]` : name);
  const each = range(rows);
  const parts = range(e64);
  const masked = hides !== "none" && hides !== "segments";
  const segmented = hides !== "none" && hides !== "mask";
  const scaled = k === "i8" || v === "i8";

  const segment = hides === "merged" ? "both[2u * (b * P.S + j)]" : "segments[P.segments + b * P.S + j]";
  const unmasked = hides === "merged" ? "both[2u * (b * P.S + j) + 1u] != 0" : "mask_bits(P.mask + b * P.S + j) != 0u";
  const shown = [segmented ? "segment_at(b, j) == whose" : "", masked ? unmasked : ""].filter(Boolean).join(" && ");

  // For each row of the tile: the owner of the keys it sees, its position, and whether it is still open. A loop: compilers
  // inline functions, and four copies of these are a third of what a software adapter compiles.
  const r = many ? "r" : 0;
  const look = `for (var r = 0u; r < ${rows}u && r0 + r < P.R; r++) {
    let t = (r0 + r) / P.share;
    ${
      paged
        ? `let owns = lanes[P.lanes + b * P.lanes1 + t];
    let stands = lanes[P.lanes + P.lanes0 + b * P.lanes1 + t];
    ${lane("owner", r)} = owns;
    ${lane("at", r)} = stands;
    if (owns >= 0) {
      let wrong = attention_problem(owns, stands);
      ${lane("open", r)} = wrong.code == 0u;
      ${reports ? "if (wrong.code != 0u && lid == 0u) { report(wrong.code, wrong.a, wrong.b, 0u); }" : ""}
    }`
        : `${lane("at", r)} = i32(P.S) - i32(P.T) + i32(t);
    ${segmented ? `${lane("owner", r)} = segment_at(b, P.S - P.T + t);` : ""}
    ${lane("open", r)} = true;`
    }
  }`;

  // Members see only keys from `lo` to `hi`; spans are counted from `base`.
  const reach = `var upto = foremost;
    ${each.map((r) => `if (${lane("member", r)}) { upto = max(upto, ${lane("at", r)}); }`).join(" ")}
    lo = 0u;
    if (P.window > 0) { lo = u32(max(0, foremost + 1 - P.window)); }
    ${paged ? "hi = u32(max(0, keys_of(whose, upto)));" : "hi = P.S;\n    if (P.causal != 0u) { hi = u32(upto + 1); } else if (P.window > 0) { hi = min(P.S, u32(max(0, upto + P.window))); }"}
    ${
      shown
        ? `var ends = vec2<u32>(P.S, P.S);
    for (var j = lid; j < hi; j += ${BLOCK}u) { if (${shown}) { ends = min(ends, vec2<u32>(j, P.S - 1u - j)); } }
    nearest(ends, lid);
    let found = workgroupUniformLoad(&nearest_cells[0]);
    let base = found.x;
    hi = P.S - found.y;
    lo = max(lo, base);`
        : "let base = 0u;"
    }`;

  const dots = quad
    ? `for (var d = 0u; d < P.D / 4u; d++) {
          let key = k_quad(key_at / 4u + d);
          ${each.map((r) => `${lane("s", r)} += dot(key, qs[${r * d64 * 16}u + d]);`).join("\n          ")}
        }`
    : `for (var d = 0u; d < P.D; d++) {
          let key = k_at(key_at + d * P.k3);
          ${each.map((r) => `${lane("s", r)} += key * qs[${r * d64 * 64}u + d];`).join(" ")}
        }`;
  const away = "u32(clamp(i32(j) - i, -P.far, P.far) + P.far)";
  const distance = `${adds === "joined" ? "slopes" : "distances"}[P.distances + h * u32(2 * P.far + 1) + ${away}]`;
  const score = (r: number): string => `{
          let row = r0 + ${r}u;
          let i = ${lane("at", r)};
          var visible = ${lane("member", r)};
          if (P.causal != 0u && i32(j) > i) { visible = false; }
          if (P.window > 0 && abs(i32(j) - i) >= P.window) { visible = false; }
          if (visible) {
            let h = g * P.share + row % P.share;
            var value = ${lane("s", r)} * P.scale;
            if (P.softcap > 0.0) { value = P.softcap * tanh_of(value / P.softcap); }
            ${adds === "none" || adds === "distances" ? "" : "value += slopes[P.slopes + h] * f32(i32(j) - i);"}
            ${adds === "none" || adds === "slopes" ? "" : `value += ${distance};`}
            ${bias ? "value += bias[P.b + b * P.b0 + h * P.b1 + (row / P.share) * P.b2 + j * P.b3];" : ""}
            ${lane("scores", r)} = value;
            ${lane("seen", r)} = 1.0;
          }
        }`;
  const found = paged
    ? `let named = page_of(u32(whose), j);
        ${
          reports
            ? `let wrong = page_problem(named);
        if (wrong.code != 0u) { report(wrong.code, wrong.a, wrong.b, 0u); }`
            : ""
        }
        let page = u32(clamp(named, 0, i32(P.pages) - 1));
        let rest = j % P.S;
        vs[lid] = P.v + page * P.v0 + g * P.v1 + rest * P.v2;`
    : "let page = b;\n        let rest = j;";
  const scaleAt = "scales[P.scales + page * P.scales1 + g * P.scales2 + rest";

  // The members' results for one span: the highest score, the sum of weights, and the weighted sum of values.
  const span = `var best = ${type}(${LOWEST});
      var sum = ${type}(0.0);
      ${parts.map((e) => `var mixed${e} = ${type}(0.0);`).join(" ")}
      let end = min(start + ${SPAN}u, hi);
      for (var j0 = start + (max(lo, start) - start) / ${BLOCK}u * ${BLOCK}u; j0 < end; j0 += ${BLOCK}u) {
        let j = j0 + lid;
        var scores = ${type}(${LOWEST});
        var seen = ${type}(0.0);
        ${v === "i8" ? "var value_scale = 0.0;" : ""}
        if (j >= lo && j < end${shown ? ` && ${shown}` : ""}) {
        ${found}
        var s = ${type}(0.0);
        let key_at = P.k + page * P.k0 + g * P.k1 + rest * P.k2;
        ${dots}
        ${k === "i8" ? `s *= ${scaleAt}] * ${CODE};` : ""}
        ${v === "i8" ? `value_scale = ${scaleAt} + P.half] * ${CODE};` : ""}
        ${each.map(score).join("\n        ")}
        }
        let higher = max(best, highest(scores, lid));
        let p = exp(scores - higher) * seen;
        let less = fade(best, higher);
        best = higher;
        sum = sum * less + p;
        ps[lid] = ${v === "i8" ? "p * value_scale" : "p"};
        workgroupBarrier();
        ${parts.map((e) => `mixed${e} *= less;`).join(" ")}
        let n = min(${BLOCK}u, end - j0);
        for (var i = max(lo, j0) - j0; i < n; i++) {
          let weight = ps[i];
          let row = ${paged ? "vs[i]" : "P.v + b * P.v0 + g * P.v1 + (j0 + i) * P.v2"};
          ${parts
            .map((e) => `if (lid + ${e * 64}u < P.E) { mixed${e} += weight * v_at(row + (lid + ${e * 64}u) * P.v3); }`)
            .join("\n          ")}
        }
        workgroupBarrier();
      }
      let whole = total(sum, lid);`;

  const outAt = "((bg * P.R + r0 + ROWu) * P.splits + span) * (P.E + 2u)";
  const store = (r: number): string => `if (${lane("member", r)}) {
        let out = ${outAt.replace("ROW", `${r}`)};
        if (lid == 0u) { y[out] = ${lane("best", r)}; y[out + 1u] = ${lane("whole", r)}; }
        ${parts.map((e) => `if (lid + ${e * 64}u < P.E) { y[out + 2u + lid + ${e * 64}u] = ${lane(`mixed${e}`, r)}; }`).join("\n        ")}
      }`;
  const nothing = (r: number): string =>
    `if (r0 + ${r}u < P.R && lid == 0u) { let out = ${outAt.replace("ROW", `${r}`)}; y[out] = ${LOWEST}; y[out + 1u] = 0.0; }`;
  const merge = `let top = max(all_best, best);
      let old = fade(all_best, top);
      let fresh = fade(best, top);
      all_best = top;
      all_whole = all_whole * old + whole * fresh;
      ${parts.map((e) => `all_mixed${e} = all_mixed${e} * old + mixed${e} * fresh;`).join(" ")}`;
  const finish = (r: number): string => `if (r0 + ${r}u < P.R) {
    let row = r0 + ${r}u;
    let h = g * P.share + row % P.share;
    let out = P.y + ((b * P.T + row / P.share) * P.H + h) * P.E;
    let share = ${sinks ? `sunk(${lane("all_best", r)}, ${lane("all_whole", r)}, h)` : lane("all_whole", r)};
    ${parts
      .map((e) => {
        const mixed = lane(`all_mixed${e}`, r);
        const value = sinks ? `${mixed} * share` : `select(${mixed} / share, 0.0, share == 0.0)`;
        return `if (lid + ${e * 64}u < P.E) { y[out + lid + ${e * 64}u] = ${value}; }`;
      })
      .join("\n    ")}
  }`;

  // Rows of one text at nearby positions process their keys together; the other rows of the tile follow.
  const members = many
    ? `let lead = select(select(select(3u, 2u, open.z), 1u, open.y), 0u, open.x);
      whose = owner[lead];
      let foremost = at[lead];
      member = open & (owner == vec4<i32>(whose)) & (at >= vec4<i32>(foremost)) & (at < vec4<i32>(foremost + ${rows}));
      open = open & !member;`
    : `whose = owner;
      let foremost = at;
      member = true;
      open = false;`;

  return {
    bindings: [
      reads("q", "array<f32>"),
      reads("k", quad ? quadType(k) : "array<u32>"),
      reads("v"),
      ...(scaled ? [reads("scales", "array<f32>")] : []),
      ...(paged ? [reads("lanes", "array<i32>"), reads("table", "array<i32>")] : []),
      ...(hides === "mask" || hides === "apart" ? [reads("mask")] : []),
      ...(hides === "segments" || hides === "apart" ? [reads("segments", "array<i32>")] : []),
      ...(hides === "merged" ? [reads("both", "array<i32>")] : []),
      ...(adds === "slopes" || adds === "apart" || adds === "joined" ? [reads("slopes", "array<f32>")] : []),
      ...(adds === "distances" || adds === "apart" ? [reads("distances", "array<f32>")] : []),
      ...(bias ? [reads("bias", "array<f32>")] : []),
      ...(sinks ? [reads("sinks", "array<f32>")] : []),
      writes("y"),
    ],
    params: PARAMS,
    reports,
    workgroup: BLOCK,
    declarations: [
      FLOATS,
      ACTIVATIONS,
      quad ? quadReader("k", k) : reader("k", k),
      reader("v", v),
      hides === "mask" || hides === "apart" ? bitsReader("mask", "u8") : "",
      segmented ? `fn segment_at(b: u32, j: u32) -> i32 { return ${segment}; }` : "",
      paged ? `${PAGED}${ROOM}` : "",
      fold("highest", type, BLOCK, (a, b) => `max(${a}, ${b})`),
      fold("total", type, BLOCK, (a, b) => `${a} + ${b}`),
      shown ? fold("nearest", "vec2<u32>", BLOCK, (a, b) => `min(${a}, ${b})`) : "",
      FADE(type),
      sinks ? SUNK : "",
      `var<workgroup> qs: array<${quad ? "vec4<f32>" : "f32"}, ${rows * d64 * (quad ? 16 : 64)}>;`,
      `var<workgroup> ps: array<${type}, ${BLOCK}>;`,
      paged ? `var<workgroup> vs: array<u32, ${BLOCK}>;` : "",
    ],
    body: `
  ${split ? "let span = group % P.splits;\n  let place = group / P.splits;" : "let place = group;"}
  let tile = place % P.tiles;
  let bg = place / P.tiles;
  let b = bg / P.G;
  let g = bg % P.G;
  let r0 = tile * ${rows}u;
  if (bg >= P.groups) { return; }
  var owner = ${typed("i32")}(0);
  var at = ${typed("i32")}(0);
  var open = ${typed("bool")}(false);
  ${look}
  ${queries(rows, d64, quad)}
  workgroupBarrier();
  ${
    split
      ? each.map(nothing).join("\n  ")
      : `var all_best = ${type}(${LOWEST});
  var all_whole = ${type}(0.0);
  ${parts.map((e) => `var all_mixed${e} = ${type}(0.0);`).join(" ")}`
  }
  var member = ${typed("bool")}(false);
  var whose = 0;
  var start = 0u;
  var lo = 0u;
  var hi = 0u;
  loop {
    if (start >= hi) {
      if (!any(open)) { break; }
      ${members}
      ${reach}
      start = base + (lo - base) / ${SPAN}u * ${SPAN}u;
      ${split ? `start += span * ${SPAN}u;\n      hi = min(hi, start + ${SPAN}u);` : ""}
      if (start >= hi) { continue; }
    }
    ${span}
    ${split ? each.map(store).join("\n    ") : merge}
    start += ${SPAN}u;
  }
  ${split ? "" : each.map(finish).join("\n  ")}`,
  };
});

/** Fills `qs` with the tile's queries. */
function queries(rows: number, d64: number, quad: boolean): string {
  const from = "P.q + b * P.q0 + (row / P.share) * P.q1 + (g * P.share + row % P.share) * P.q2";
  if (!quad) {
    return `for (var x = lid; x < ${rows}u * P.D; x += ${BLOCK}u) {
    let row = min(r0 + x / P.D, P.R - 1u);
    let d = x % P.D;
    qs[(x / P.D) * ${d64 * 64}u + d] = q[${from} + d * P.q3];
  }`;
  }
  return `for (var x = lid; x < ${rows}u * (P.D / 4u); x += ${BLOCK}u) {
    let row = min(r0 + x / (P.D / 4u), P.R - 1u);
    let d = x % (P.D / 4u);
    let first = ${from} + 4u * d * P.q3;
    qs[(x / (P.D / 4u)) * ${d64 * 16}u + d] = vec4<f32>(q[first], q[first + P.q3], q[first + 2u * P.q3], q[first + 3u * P.q3]);
  }`;
}
