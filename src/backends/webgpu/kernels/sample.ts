// sample: temperature, top-k, top-p, min-p and the draw, one workgroup per row, with the row's own parameters. These come
// from a read-only binding, so that they are uniform over the workgroup for WGSL. Nothing is sorted: thresholds are found
// digit by digit (8 bits at a time) over integer keys in the order of the scores. Probabilities are integers in units of
// 2^-31 of the largest, and are added in 64 bits, so that the order of additions cannot change a draw. Ids equal the
// reference's unless a decision depends on the last bits of an exponential.

import { sampleOp } from "../../../ops/sample.js";
import { FAILURE } from "../device/errors.js";
import type { Kernel } from "../kernel.js";
import { along } from "../schedule/split.js";
import { family, reads, writes } from "../shader.js";
import { fold, LOWEST, MULHI } from "../wgsl.js";

/** Invocations for each row. */
export const WIDTH = 256;
/** Detects NaN by its bits, because WGSL implementations may assume that there is none. */
export const NAN = "(bits & 0x7fffffffu) > 0x7f800000u";

const HELPERS = `
struct Wide { high: u32, low: u32 }
fn add_wide(a: Wide, b: Wide) -> Wide {
  let low = a.low + b.low;
  return Wide(a.high + b.high + select(0u, 1u, low < a.low), low);
}
fn above(a: Wide, b: Wide) -> bool { return a.high > b.high || (a.high == b.high && a.low > b.low); }
/** floor(a * n / 2^24) for n up to 2^24 */
fn part_of(a: Wide, n: u32) -> Wide {
  let p0 = a.low * n;
  let m = mulhi(a.low, n);
  let p1 = a.high * n + m;
  let p2 = mulhi(a.high, n) + select(0u, 1u, p1 < m);
  return Wide((p1 >> 24u) | (p2 << 8u), (p0 >> 24u) | (p1 << 8u));
}
fn key_of(score: f32) -> u32 {
  let bits = bitcast<u32>(score + 0.0);
  return select(bits | 0x80000000u, ~bits, (bits >> 31u) != 0u);
}
var<workgroup> counts: array<atomic<u32>, 256>;
var<workgroup> highs: array<atomic<u32>, 256>;
var<workgroup> chosen: array<u32, 4>;
var<workgroup> sums: array<Wide, ${WIDTH}>;
var<workgroup> ties: array<u32, ${WIDTH}>;
fn score_at(v: u32) -> f32 { return bitcast<f32>(logits[base + v]) / heat; }
/** e^(score - top); exactly 1 for the top itself, also if it is infinite. */
fn share_of(score: f32) -> f32 { return select(exp(score - top), 1.0, score == top); }
fn mass_of(score: f32) -> u32 { return u32(share_of(score) * 2147483648.0); }
/** Of two tokens, the one with the larger score; of equal ones the first. */
struct Best { score: f32, id: u32 }
fn better(a: Best, b: Best) -> Best {
  if (b.id != 0xffffffffu && (a.id == 0xffffffffu || b.score > a.score || (b.score == a.score && b.id < a.id))) { return b; }
  return a;
}
var<private> base: u32;
var<private> heat: f32;
var<private> top: f32;
fn clear(lid: u32) {
  atomicStore(&counts[lid], 0u);
  atomicStore(&highs[lid], 0u);
  workgroupBarrier();
}
fn philox(seed: u32, sequence: u32, step: u32) -> u32 {
  var c0 = step; var c1 = sequence; var c2 = 0u; var c3 = 0u;
  var k0 = seed; var k1 = 0x4f435456u;
  for (var round = 0u; round < 10u; round++) {
    let n0 = mulhi(0xcd9e8d57u, c2) ^ c1 ^ k0;
    let n2 = mulhi(0xd2511f53u, c0) ^ c3 ^ k1;
    c1 = 0xcd9e8d57u * c2;
    c3 = 0xd2511f53u * c0;
    c0 = n0;
    c2 = n2;
    k0 += 0x9e3779b9u;
    k1 += 0xbb67ae85u;
  }
  return c0 >> 8u;
}`;

/** Finds the key of the k-th largest score digit by digit, highest digit first, and writes it to `limit`. */
export const TOP_K = `
  var limit = key_of(lowest);
  if (top_k > 0u && top_k < P.vocabulary) {
    var prefix = 0u;
    var wanted = top_k;
    for (var shift = 24i; shift >= 0; shift -= 8) {
      clear(lid);
      for (var v = lid; v < P.vocabulary; v += ${WIDTH}u) {
        let score = score_at(v);
        let key = key_of(score);
        if (score >= lowest && (shift == 24 || (key >> u32(shift + 8)) == prefix)) {
          atomicAdd(&counts[(key >> u32(shift)) & 255u], 1u);
        }
      }
      workgroupBarrier();
      if (lid == 0u) {
        var left = wanted;
        var digit = 255u;
        loop {
          let n = atomicLoad(&counts[digit]);
          if (n >= left || digit == 0u) { break; }
          left -= n;
          digit -= 1u;
        }
        chosen[0] = digit;
        chosen[1] = left;
      }
      workgroupBarrier();
      prefix = (prefix << 8u) | chosen[0];
      wanted = chosen[1];
      workgroupBarrier();
    }
    limit = max(limit, prefix);
  }`;

/**
 * Sums masses in ascending order of keys until `reached`, digit by digit, highest digit first: `prefix` is the key at which they are, or
 * the largest key if they never are, and `below` the mass of the keys before it.
 * @param each runs what it is given for tokens with their `score` and `key`
 * @param reached of `sum`
 */
export const byMass = (each: (count: string) => string, reached: string): string => `
    var prefix = 0u;
    var below = Wide(0u, 0u);
    for (var shift = 24i; shift >= 0; shift -= 8) {
      clear(lid);
      ${each(`if (shift == 24 || (key >> u32(shift + 8)) == prefix) {
        let digit = (key >> u32(shift)) & 255u;
        let mass = mass_of(score);
        let before = atomicAdd(&counts[digit], mass);
        if (before + mass < before) { atomicAdd(&highs[digit], 1u); }
        atomicMax(&met[digit], 1u);
      }`)}
      workgroupBarrier();
      if (lid == 0u) {
        var sum = below;
        var last = below;
        var held = 0u;
        for (var i = 0u; i < 256u; i++) {
          if (atomicLoad(&met[i]) == 0u) { continue; }
          held = i;
          last = sum;
          sum = add_wide(sum, Wide(atomicLoad(&highs[i]), atomicLoad(&counts[i])));
          if (${reached}) { break; }
        }
        chosen[0] = held;
        chosen[1] = last.high;
        chosen[2] = last.low;
      }
      workgroupBarrier();
      prefix = (prefix << 8u) | chosen[0];
      below = Wide(chosen[1], chosen[2]);
      atomicStore(&met[lid], 0u);
      workgroupBarrier();
    }`;

/** Finds the smallest key that top-p keeps, and how many scores of that key it drops: the lowest scores, up to 1 - p. */
export const TOP_P = `
  var gone = 0u;
  if (keep < 16777216u) {
    var total = Wide(0u, 0u);
    for (var v = lid; v < P.vocabulary; v += ${WIDTH}u) {
      let score = score_at(v);
      if (score >= lowest && key_of(score) >= limit) { total = add_wide(total, Wide(0u, mass_of(score))); }
    }
    let budget = part_of(whole(total, lid), 16777216u - keep);
    ${byMass(
      (count) => `for (var v = lid; v < P.vocabulary; v += ${WIDTH}u) {
        let score = score_at(v);
        let key = key_of(score);
        if (score >= lowest && key >= limit) { ${count} }
      }`,
      "above(sum, budget)",
    )}
    limit = max(limit, prefix);
    // Of several scores with that very key, those with the lowest ids go first, as long as the budget lasts.
    if (lid == 0u) {
      let bits = select(~limit, limit & 0x7fffffffu, (limit >> 31u) != 0u);
      let mass = mass_of(bitcast<f32>(bits));
      var lost = 0u;
      var sum = below;
      if (mass > 0u) {
        loop {
          sum = add_wide(sum, Wide(0u, mass));
          if (above(sum, budget) || lost >= P.vocabulary) { break; }
          lost += 1u;
        }
      }
      chosen[3] = lost;
    }
    workgroupBarrier();
    var equal = 0u;
    for (var v = lid; v < P.vocabulary; v += ${WIDTH}u) {
      let score = score_at(v);
      if (score >= lowest && key_of(score) == limit) { equal += 1u; }
    }
    let held = whole(Wide(0u, equal), lid).low;
    gone = min(max(held, 1u) - 1u, chosen[3]);
  }`;

/** Sums the mass of the kept tokens in order of ids, and finds the first id at which the sum exceeds the target. */
const DRAW = `
  let span = (P.vocabulary + ${WIDTH - 1}u) / ${WIDTH}u;
  let first = min(lid * span, P.vocabulary);
  let end = min(first + span, P.vocabulary);
  var equal = 0u;
  for (var v = first; v < end; v++) {
    let score = score_at(v);
    if (score >= lowest && key_of(score) == limit) { equal += 1u; }
  }
  ties[lid] = equal;
  workgroupBarrier();
  var rank = 0u;
  for (var i = 0u; i < lid; i++) { rank += ties[i]; }
  var met_before = rank;
  var mine = Wide(0u, 0u);
  var newest = -1i;
  for (var v = first; v < end; v++) {
    let score = score_at(v);
    let key = key_of(score);
    if (!(score >= lowest) || key < limit) { continue; }
    if (key == limit) { rank += 1u; if (rank <= gone) { continue; } }
    if (min_p > 0.0 && share_of(score) < min_p) { continue; }
    mine = add_wide(mine, Wide(0u, mass_of(score)));
    newest = i32(v);
  }
  sums[lid] = mine;
  workgroupBarrier();
  let total = whole(mine, lid);
  let draw = P.draws + 3u * group;
  let step = draws[draw + 2u];
  let target_mass = part_of(total, philox(u32(draws[draw]), u32(draws[draw + 1u]), u32(step)));
  var before = Wide(0u, 0u);
  for (var i = 0u; i < lid; i++) { before = add_wide(before, sums[i]); }
  let after = add_wide(before, mine);
  let fallback = latest(newest, lid);
  if (lid == 0u) { draws[draw + 2u] = step + 1; } // behind the barriers of latest: everybody has read it
  if (above(after, target_mass) && !above(before, target_mass)) {
    var sum = before;
    var found = -1i;
    rank = met_before;
    for (var v = first; v < end && found < 0; v++) {
      let score = score_at(v);
      let key = key_of(score);
      if (!(score >= lowest) || key < limit) { continue; }
      if (key == limit) { rank += 1u; if (rank <= gone) { continue; } }
      if (min_p > 0.0 && share_of(score) < min_p) { continue; }
      sum = add_wide(sum, Wide(0u, mass_of(score)));
      if (above(sum, target_mass)) { found = i32(v); }
    }
    ids[P.ids + group] = found;
  } else if (lid == 0u && !above(total, target_mass)) {
    ids[P.ids + group] = max(fallback, 0);
  }`;

/** The first of the largest scores: temperature 0. */
const GREEDY = `
  if (temperature == 0.0) {
    var best = Best(0.0, 0xffffffffu);
    for (var v = lid; v < P.vocabulary; v += ${WIDTH}u) {
      let bits = logits[base + v];
      if (${NAN}) { report(${FAILURE.nan}u, 0u, 0u, 0u); }
      best = better(best, Best(bitcast<f32>(bits), v));
    }
    let found = best_of(best, lid);
    if (lid == 0u) { ids[P.ids + group] = i32(found.id); }
    return;
  }`;

/** What the fragments above need. */
export const SHARED = [
  MULHI,
  HELPERS,
  `var<workgroup> met: array<atomic<u32>, ${WIDTH}>;`,
  fold("highest", "f32", WIDTH, (a, b) => `max(${a}, ${b})`),
  fold("whole", "Wide", WIDTH, (a, b) => `add_wide(${a}, ${b})`),
];

const shader = family("sample", () => ({
  bindings: [
    reads("logits"),
    reads("params", "array<f32>"),
    writes("draws", "array<i32>"),
    writes("ids", "array<i32>"),
  ],
  params: ["rows", "vocabulary", "logits", "params", "draws", "ids"],
  reports: true,
  workgroup: WIDTH,
  declarations: [
    ...SHARED,
    fold("best_of", "Best", WIDTH, (a, b) => `better(${a}, ${b})`),
    fold("latest", "i32", WIDTH, (a, b) => `max(${a}, ${b})`),
  ],
  body: `if (group >= P.rows) { return; }
  let own = P.params + 4u * group;
  let temperature = params[own];
  if (temperature < 0.0) {
    if (lid == 0u) { ids[P.ids + group] = 0; }
    return;
  }
  base = P.logits + group * P.vocabulary;
  ${GREEDY}
  heat = temperature;
  let top_k = u32(params[own + 1u]);
  let keep = u32(clamp(round(params[own + 2u] * 16777216.0), 0.0, 16777216.0));
  let min_p = params[own + 3u];
  // Scores below this are minus infinity: never drawn.
  let lowest = ${LOWEST};
  var most = lowest;
  for (var v = lid; v < P.vocabulary; v += ${WIDTH}u) {
    let bits = logits[base + v];
    if (${NAN}) { report(${FAILURE.nan}u, 0u, 0u, 0u); }
    most = max(most, bitcast<f32>(bits) / temperature);
  }
  top = highest(most, lid);
  if (top == lowest && lid == 0u) { report(${FAILURE.noLogits}u, 0u, 0u, 0u); }
  ${TOP_K}
  ${TOP_P}
  ${DRAW}`,
}));

export const sample: Kernel = {
  op: sampleOp,
  record({ operands: [logits, params, draws, ids] }, recorder) {
    const [rows = 0, vocabulary = 0] = logits!.shape;
    const offsets = { logits: logits!.offset, params: params!.offset, draws: draws!.offset, ids: ids!.offset };
    recorder.dispatch(shader({}), [logits!, params!, draws!, ids!], { rows, vocabulary, ...offsets }, rows);
    return undefined;
  },
  axes: ({ operands: [logits, params, draws, ids] }) => [
    along(logits!.shape[0]!, { 0: [logits, 0], 1: [params, 0], 2: [draws, 0], 3: [ids, 0] }),
  ],
  shaders: () => [shader({})],
};
