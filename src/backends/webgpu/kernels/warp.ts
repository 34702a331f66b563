// warp: the scores that temperature, top-k, top-p, min-p, typical-p, epsilon and eta leave; one workgroup per row. The first four are
// those of sample. What they leave is written, and later cuts work on that: each invocation on the same tokens from then on.
//
// -log p and the entropy both hold the logarithm of the whole mass, so a token is as far from the mean surprise as its score from the
// mean score. Masses and the mean are sums of integers, as in sample.

import { warpOp } from "../../../ops/warp.js";
import { FAILURE } from "../device/errors.js";
import type { Kernel } from "../kernel.js";
import { along } from "../schedule/split.js";
import { family, reads, writes } from "../shader.js";
import { fold, LOWEST } from "../wgsl.js";
import { byMass, NAN, SHARED, TOP_K, TOP_P, WIDTH } from "./sample.js";

const DROPPED = "0xff800000u";

const HELPERS = `
const UNIT = 4.656612873077393e-10; // 2^-31
fn number_of(a: Wide) -> f32 { return f32(a.high) * 4294967296.0 + f32(a.low); }
fn depth_of(score: f32) -> f32 { return select(top - score, 0.0, score == top); }
/** Of two tokens, the one with the larger score; of equal ones the last. */
fn later(a: Best, b: Best) -> Best {
  if (b.id != 0xffffffffu && (a.id == 0xffffffffu || b.score > a.score || (b.score == a.score && b.id > a.id))) { return b; }
  return a;
}`;

/** Runs `body` for each of an invocation's tokens that are left, with `at` and `score`. */
const each = (body: string): string => `
  for (var v = lid; v < P.vocabulary; v += ${WIDTH}u) {
    let at = out + v;
    if (y[at] == ${DROPPED}) { continue; }
    let score = bitcast<f32>(y[at]);
    ${body}
  }`;

/** Sums the mass of what is left to `all`, and the mean distance below the top to `mean`. */
const MEAN = `
  mass = Wide(0u, 0u);
  var depths = Wide(0u, 0u);
  ${each(`mass = add_wide(mass, Wide(0u, mass_of(score)));
    if (mass_of(score) > 0u) { depths = add_wide(depths, Wide(0u, u32(share_of(score) * depth_of(score) * 2147483648.0))); }`)}
  all = whole(mass, lid);
  mean = number_of(whole(depths, lid)) / number_of(all);`;

/** The distance that holds the mass, digit by digit, the nearest first. */
const TYPICAL = `
  if (typical < 16777216u) {
    ${MEAN}
    let goal = part_of(all, typical);
    ${byMass((count) => each(`let key = bitcast<u32>(abs(depth_of(score) - mean)); ${count}`), "!above(goal, sum)")}
    ${each(`if (bitcast<u32>(abs(depth_of(score) - mean)) > prefix) { y[at] = ${DROPPED}; }`)}
  }`;

/** Drops what is below `least` of `all`, but the likeliest. */
const CUT = `
    var best = Best(0.0, 0xffffffffu);
    ${each("best = later(best, Best(score, v));")}
    let held = latest_of(best, lid);
    let edge = least * (number_of(all) * UNIT);
    ${each(`if (share_of(score) < edge && v != held.id) { y[at] = ${DROPPED}; }`)}`;

const shader = family("warp", () => ({
  bindings: [reads("logits"), reads("params", "array<f32>"), writes("y", "array<u32>")],
  params: ["rows", "vocabulary", "logits", "params", "y"],
  reports: true,
  workgroup: WIDTH,
  declarations: [...SHARED, HELPERS, fold("latest_of", "Best", WIDTH, (a, b) => `later(${a}, ${b})`)],
  body: `if (group >= P.rows) { return; }
  let own = P.params + 7u * group;
  let out = P.y + group * P.vocabulary;
  base = P.logits + group * P.vocabulary;
  let temperature = params[own];
  if (temperature <= 0.0) {
    for (var v = lid; v < P.vocabulary; v += ${WIDTH}u) { y[out + v] = logits[base + v]; }
    return;
  }
  heat = temperature;
  let top_k = u32(params[own + 1u]);
  let keep = u32(clamp(round(params[own + 2u] * 16777216.0), 0.0, 16777216.0));
  let min_p = params[own + 3u];
  let typical = u32(clamp(round(params[own + 4u] * 16777216.0), 0.0, 16777216.0));
  let epsilon = params[own + 5u];
  let eta = params[own + 6u];
  // Scores below this are minus infinity: never kept.
  let lowest = ${LOWEST};
  var most = lowest;
  for (var v = lid; v < P.vocabulary; v += ${WIDTH}u) {
    let bits = logits[base + v];
    if (${NAN}) { report(${FAILURE.nan}u, 0u, 0u, 0u); }
    most = max(most, bitcast<f32>(bits) / temperature);
  }
  top = highest(most, lid);
  ${TOP_K}
  ${TOP_P}
  // Of scores at the limit, those with the lowest ids go: each invocation has its part of the row.
  let span = (P.vocabulary + ${WIDTH - 1}u) / ${WIDTH}u;
  let first = min(lid * span, P.vocabulary);
  let end = min(first + span, P.vocabulary);
  var equals = 0u;
  for (var v = first; v < end; v++) {
    let score = score_at(v);
    if (score >= lowest && key_of(score) == limit) { equals += 1u; }
  }
  ties[lid] = equals;
  workgroupBarrier();
  var rank = 0u;
  for (var i = 0u; i < lid; i++) { rank += ties[i]; }
  for (var v = first; v < end; v++) {
    let score = score_at(v);
    let key = key_of(score);
    var left = score >= lowest && key >= limit;
    if (left && key == limit) { rank += 1u; left = rank > gone; }
    left = left && !(min_p > 0.0 && share_of(score) < min_p);
    y[out + v] = select(${DROPPED}, bitcast<u32>(score), left);
  }
  storageBarrier();
  var mass = Wide(0u, 0u);
  var all = Wide(0u, 0u);
  var mean = 0.0;
  ${TYPICAL}
  if (epsilon > 0.0) {
    ${MEAN}
    let least = epsilon;
    ${CUT}
  }
  if (eta > 0.0) {
    ${MEAN}
    let least = min(eta, sqrt(eta) * exp(-(log(number_of(all) * UNIT) + mean)));
    ${CUT}
  }`,
}));

export const warp: Kernel = {
  op: warpOp,
  record({ operands: [logits, params, y] }, recorder) {
    const [rows = 0, vocabulary = 0] = logits!.shape;
    const offsets = { logits: logits!.offset, params: params!.offset, y: y!.offset };
    recorder.dispatch(shader({}), [logits!, params!, y!], { rows, vocabulary, ...offsets }, rows);
    return undefined;
  },
  axes: ({ operands: [logits, params, y] }) => [
    along(logits!.shape[0]!, { 0: [logits, 0], 1: [params, 0], 2: [y, 0] }),
  ],
  shaders: () => [shader({})],
};
