// Helpers of the attention kernel: they combine the results of spans, merge inputs where a device cannot bind each of them,
// and check lanes where the kernel has no binding left for reports.

import type { CommandRecorder } from "../device/command-recorder.js";
import { FAILURE } from "../device/errors.js";
import { groupsFor } from "../kernel.js";
import type { Binding, Operand } from "../schedule/call.js";
import { bitsReader, family, reads, type Shader, WORKGROUP, writes } from "../shader.js";
import { LOWEST } from "../wgsl.js";
import { PAGED, PAGED_PARAMS } from "./paged.js";

/** Keys per block, one for each invocation of a workgroup, and per span. Results of spans are combined in order. */
export const BLOCK = 64;
export const SPAN = 256;

/** `fade`: the factor that rescales sums to a new maximum; exactly one if the maximum has not changed. */
export const FADE = (type: string): string =>
  `fn fade(old: ${type}, top: ${type}) -> ${type} { return select(exp(old - top), ${type}(1.0), old == top); }`;

/**
 * WGSL of `sunk(best, whole, h)`: the factor on the sum of values of a row of head h whose weights, relative to the score `best`, sum up
 * to `whole`. A sink is one more key, whose value is zero.
 */
export const SUNK = `
fn sunk(best: f32, whole: f32, h: u32) -> f32 {
  let sink = sinks[P.sinks + h];
  let top = max(best, sink);
  let less = exp(best - top);
  return less / (whole * less + exp(sink - top));
}`;

/** Combines the results of all spans of a query row, in order. */
const combine = family("attention", ({ sinks }: { combine: true; sinks: boolean }) => ({
  bindings: [reads("parts", "array<f32>"), ...(sinks ? [reads("sinks", "array<f32>")] : []), writes("y")],
  params: ["count", "share", "T", "H", "G", "R", "E", "splits", "sinks", "y"],
  workgroup: BLOCK,
  declarations: [FADE("f32"), sinks ? SUNK : ""],
  body: `if (group >= P.count) { return; }
  let row = group % P.R;
  let bg = group / P.R;
  let first = group * P.splits * (P.E + 2u);
  let h = (bg % P.G) * P.share + row % P.share;
  let out = P.y + (((bg / P.G) * P.T + row / P.share) * P.H + h) * P.E;
  for (var e = lid; e < P.E; e += ${BLOCK}u) {
    var all_best = ${LOWEST};
    var all_whole = 0.0;
    var all_mixed = 0.0;
    for (var i = 0u; i < P.splits; i++) {
      let at = first + i * (P.E + 2u);
      let best = parts[at];
      let whole = parts[at + 1u];
      if (whole == 0.0) { continue; } // nothing was seen, and no values are there
      let top = max(all_best, best);
      let old = fade(all_best, top);
      let fresh = fade(best, top);
      all_best = top;
      all_whole = all_whole * old + whole * fresh;
      all_mixed = all_mixed * old + parts[at + 2u + e] * fresh;
    }
    y[out + e] = ${sinks ? "all_mixed * sunk(all_best, all_whole, h)" : "select(all_mixed / all_whole, 0.0, all_whole == 0.0)"};
  }`,
}));

/** Interleaves segment and mask of each key, for devices that cannot bind both. */
const merge = family("attention", (_: { merge: true }) => ({
  bindings: [reads("mask"), reads("segments", "array<i32>"), writes("both", "array<i32>")],
  params: ["count", "mask", "segments"],
  declarations: [bitsReader("mask", "u8")],
  body: `if (gid >= P.count) { return; }
  both[2u * gid] = segments[P.segments + gid];
  both[2u * gid + 1u] = i32(mask_bits(P.mask + gid));`,
}));

/** Appends the distances to the slopes, for the same devices. */
const join = family("attention", (_: { join: true }) => ({
  bindings: [reads("slopes", "array<f32>"), reads("distances", "array<f32>"), writes("joined")],
  params: ["heads", "count", "slopes", "distances"],
  body: `if (gid >= P.heads + P.count) { return; }
  if (gid < P.heads) { joined[gid] = slopes[P.slopes + gid]; } else { joined[gid] = distances[P.distances + gid - P.heads]; }`,
}));

/** `keys_of`: the number of keys up to the last one that a query sees; `attention_problem`: why a lane is invalid. */
export const ROOM = `
fn keys_of(row: i32, position: i32) -> i32 {
  if (P.causal != 0u) { return position + 1; }
  return table[P.table + u32(row) * P.columns];
}
fn attention_problem(row: i32, position: i32) -> Problem {
  let problem = lane_problem(row, position);
  if (problem.code != 0u) { return problem; }
  let keys = keys_of(row, position) - first_of(position);
  let room = i32((P.columns - 1u) * P.S);
  if (keys > room) { return Problem(${FAILURE.room}u, bitcast<u32>(keys), bitcast<u32>(room)); }
  return problem;
}
fn first_of(position: i32) -> i32 {
  if (P.window == 0) { return 0; }
  return max(0, position + 1 - P.window);
}`;

/** Reports invalid lanes and pages if the kernel itself has no binding left for reports. One invocation per lane. */
const check = family("attention", (_: { check: true }) => ({
  bindings: [reads("lanes", "array<i32>"), reads("table", "array<i32>")],
  params: ["count", "steps", "lanes", "lanes0", "lanes1", ...PAGED_PARAMS, "causal", "window:i32"],
  reports: true,
  declarations: [PAGED, ROOM],
  body: `if (gid >= P.count) { return; }
  let lane = P.lanes + (gid / P.steps) * P.lanes1 + gid % P.steps;
  let row = lanes[lane];
  let position = lanes[lane + P.lanes0];
  if (row < 0) { return; }
  var wrong = attention_problem(row, position);
  if (wrong.code == 0u) {
    let end = keys_of(row, position);
    for (var j = first_of(position); j < end && wrong.code == 0u; j = (j / i32(P.S) + 1) * i32(P.S)) {
      wrong = page_problem(page_of(u32(row), u32(j)));
    }
  }
  if (wrong.code != 0u) { report(wrong.code, wrong.a, wrong.b, 0u); }`,
}));

export function scratch(recorder: CommandRecorder, slot: string, words: number): Binding {
  const size = Math.ceil(words / 4) * 16;
  return { block: recorder.buffers.scratch(slot, size), start: 0, size };
}

export function merged(recorder: CommandRecorder, mask: Operand, segments: Operand): Binding {
  const { count } = mask;
  const binding = scratch(recorder, "mask", 2 * count);
  const numbers = { count, mask: mask.offset, segments: segments.offset };
  recorder.dispatch(merge({ merge: true }), [mask, segments, binding], numbers, groupsFor(count, WORKGROUP));
  return binding;
}

export function joined(recorder: CommandRecorder, slopes: Operand, distances: Operand): Binding {
  const { count } = distances;
  const heads = slopes.count;
  const binding = scratch(recorder, "slopes", heads + count);
  const numbers = { heads, count, slopes: slopes.offset, distances: distances.offset };
  recorder.dispatch(join({ join: true }), [slopes, distances, binding], numbers, groupsFor(heads + count, WORKGROUP));
  return binding;
}

/** Combines the spans' results in `parts` into y. */
export function combined(
  recorder: CommandRecorder,
  parts: Binding,
  y: Operand,
  sinks: Operand | undefined,
  numbers: Record<string, number>,
): void {
  const bindings = sinks ? [parts, sinks, y] : [parts, y];
  const own = { ...numbers, sinks: sinks?.offset ?? 0 };
  recorder.dispatch(combine({ combine: true, sinks: sinks !== undefined }), bindings, own, numbers.count!);
}

/** Reports invalid lanes and table entries. */
export function checked(
  recorder: CommandRecorder,
  lanes: Operand,
  table: Operand,
  numbers: Record<string, number>,
): void {
  const [, batch = 0, steps = 0] = lanes.shape;
  const count = batch * steps;
  recorder.dispatch(check({ check: true }), [lanes, table], { ...numbers, count, steps }, groupsFor(count, WORKGROUP));
}

export const PARTS: readonly Shader[] = [
  merge({ merge: true }),
  join({ join: true }),
  check({ check: true }),
  combine({ combine: true, sinks: false }),
  combine({ combine: true, sinks: true }),
];
