// What attention does beside its one kernel: results of shared-out keys put together, and inputs put together where a device
// cannot bind each of them.

import { FAILURE } from "../device/errors.js";
import type { Queue } from "../device/queue.js";
import { groupsFor } from "../kernel.js";
import type { Operand, Piece } from "../schedule/call.js";
import { bitsReader, family, reads, type Shader, WORKGROUP, writes } from "../shader.js";
import { LOWEST } from "../wgsl.js";

/** Threads of a workgroup of attention. */
export const WIDTH = 64;

/** Puts the results of all spans of a query row together. */
const combine = family("attention", (_: { combine: true }) => ({
  bindings: [reads("parts", "array<f32>"), writes("y")],
  params: ["count", "share", "T", "H", "G", "R", "E", "splits", "y"],
  workgroup: WIDTH,
  body: `if (group >= P.count) { return; }
  let row = group % P.R;
  let bg = group / P.R;
  let first = group * P.splits * (P.E + 2u);
  var best = ${LOWEST};
  for (var i = 0u; i < P.splits; i++) { best = max(best, parts[first + i * (P.E + 2u)]); }
  var sum = 0.0;
  for (var i = 0u; i < P.splits; i++) {
    let at = first + i * (P.E + 2u);
    sum += parts[at + 1u] * exp(parts[at] - best);
  }
  let h = (bg % P.G) * P.share + row % P.share;
  let out = P.y + (((bg / P.G) * P.T + row / P.share) * P.H + h) * P.E;
  for (var e = lid; e < P.E; e += ${WIDTH}u) {
    var value = 0.0;
    for (var i = 0u; i < P.splits; i++) {
      let at = first + i * (P.E + 2u);
      value += parts[at + 2u + e] * exp(parts[at] - best);
    }
    y[out + e] = select(0.0, value / sum, sum > 0.0);
  }`,
}));

/** Segment and mask of each key side by side, for devices that cannot bind both beside everything else. */
const merge = family("attention", (_: { merge: true }) => ({
  bindings: [reads("mask"), reads("segments", "array<i32>"), writes("both", "array<i32>")],
  params: ["count", "mask", "segments"],
  declarations: [bitsReader("mask", "u8")],
  body: `if (gid >= P.count) { return; }
  both[2u * gid] = segments[P.segments + gid];
  both[2u * gid + 1u] = i32(mask_bits(P.mask + gid));`,
}));

/** Scales of codes with the slopes behind them, for the same devices. */
const join = family("attention", (_: { join: true }) => ({
  bindings: [reads("scales", "array<f32>"), reads("slopes", "array<f32>"), writes("joined")],
  params: ["count", "heads", "scales", "half", "slopes"],
  body: `if (gid >= P.count + P.heads) { return; }
  let row = gid % (P.count / 2u); // those of the keys, then those of the values, which may lie apart
  if (gid < P.count) { joined[gid] = scales[P.scales + (gid / (P.count / 2u)) * P.half + row]; } else { joined[gid] = slopes[P.slopes + gid - P.count]; }`,
}));

/** Reports a cursor that does not fit, where the kernel itself has no binding left to do so. */
const check = family("attention", (_: { check: true }) => ({
  bindings: [reads("cursor", "array<i32>")],
  params: ["cursor", "T", "S"],
  reports: true,
  workgroup: 1,
  body: `let past = cursor[P.cursor];
  if (past < 0 || past + i32(P.T) > i32(P.S)) { report(${FAILURE.keysOverflow}u, bitcast<u32>(past), P.S, P.T); }`,
}));

export function scratch(queue: Queue, slot: string, words: number): Piece {
  const size = Math.ceil(words / 4) * 16;
  return { block: queue.buffers.scratch(slot, size), start: 0, size };
}

export function merged(queue: Queue, mask: Operand, segments: Operand): Piece {
  const { count } = mask;
  const piece = scratch(queue, "mask", 2 * count);
  const numbers = { count, mask: mask.offset, segments: segments.offset };
  queue.dispatch(merge({ merge: true }), [mask, segments, piece], numbers, groupsFor(count, WORKGROUP));
  return piece;
}

export function joined(queue: Queue, scales: Operand, slopes: Operand): Piece {
  const { count } = scales;
  const heads = slopes.count;
  const piece = scratch(queue, "scales", count + heads);
  const numbers = { count, heads, scales: scales.offset, half: scales.strides[0]!, slopes: slopes.offset };
  queue.dispatch(join({ join: true }), [scales, slopes, piece], numbers, groupsFor(count + heads, WORKGROUP));
  return piece;
}

/** Puts the spans' results in `parts` together into y. */
export function combined(queue: Queue, parts: Piece, y: Operand, numbers: Record<string, number>): void {
  queue.dispatch(combine({ combine: true }), [parts, y], numbers, numbers.count!);
}

/** Reports a cursor that leaves no room for T keys of S. */
export function checked(queue: Queue, cursor: Operand, T: number, S: number): void {
  queue.dispatch(check({ check: true }), [cursor], { cursor: cursor.offset, T, S }, 1);
}

export const PARTS: readonly Shader[] = [
  merge({ merge: true }),
  join({ join: true }),
  check({ check: true }),
  combine({ combine: true }),
];
