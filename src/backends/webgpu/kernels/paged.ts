// Where the tokens of lanes lie in a paged cache (ops/_paged.ts): as WGSL that attention and kv_append share, and as a list
// of places that is computed once for all layers of a step. Appends bind the list instead of lanes and table, which saves a
// binding, and a table look-up per element.

import type { CommandRecorder } from "../device/command-recorder.js";
import { FAILURE } from "../device/errors.js";
import { groupsFor } from "../kernel.js";
import type { Binding, Operand } from "../schedule/call.js";
import { family, reads, WORKGROUP, writes } from "../shader.js";

/** Numbers that the WGSL below reads: rows and columns of the table, its offset, tokens per page, and number of pages. */
export const PAGED_PARAMS: readonly string[] = ["rows", "columns", "table", "S", "pages"];

export const pagedNumbers = (table: Operand, tokens: number, pages: number): Record<string, number> => ({
  rows: table.shape[0]!,
  columns: table.shape[1]!,
  table: table.offset,
  S: tokens,
  pages,
});

/** Look-ups in the table, and checks of lanes and pages. Needs the binding `table`. `Problem.code` is 0 if all is well. */
export const PAGED = `
struct Problem { code: u32, a: u32, b: u32 }
fn lane_problem(row: i32, position: i32) -> Problem {
  if (row >= i32(P.rows)) { return Problem(${FAILURE.laneRow}u, bitcast<u32>(row), P.rows); }
  if (position < 0) { return Problem(${FAILURE.lanePosition}u, bitcast<u32>(position), 0u); }
  return Problem(0u, 0u, 0u);
}
fn page_of(row: u32, position: u32) -> i32 {
  return table[P.table + row * P.columns + 1u + (position / P.S) % (P.columns - 1u)];
}
fn page_problem(page: i32) -> Problem {
  if (page >= 0 && page < i32(P.pages)) { return Problem(0u, 0u, 0u); }
  return Problem(${FAILURE.page}u, bitcast<u32>(page), P.pages);
}`;

/** Writes two words per token: page and place in it; or -1 for an unused lane; or -1 - code, and the invalid number. */
const placesShader = family("kv_append", (_: { places: true }) => ({
  bindings: [reads("lanes", "array<i32>"), reads("table", "array<i32>"), writes("places", "array<i32>")],
  params: ["count", "steps", "lanes", "half", "row", ...PAGED_PARAMS],
  declarations: [PAGED],
  body: `if (gid >= P.count) { return; }
  let lane = P.lanes + (gid / P.steps) * P.row + gid % P.steps;
  let row = lanes[lane];
  let position = lanes[lane + P.half];
  var page = -1;
  var rest = 0;
  if (row >= 0) {
    var problem = lane_problem(row, position);
    if (problem.code == 0u) {
      page = page_of(u32(row), u32(position));
      rest = position % i32(P.S);
      problem = page_problem(page);
    }
    if (problem.code != 0u) { page = -1 - i32(problem.code); rest = bitcast<i32>(problem.a); }
  }
  places[2u * gid] = page;
  places[2u * gid + 1u] = rest;`,
}));

export const PLACES = placesShader({ places: true });

/** Number of lists of places, chosen by the table's block, so that layers with different tables can alternate. */
const LISTS = 8;

/** The places of the tokens of `lanes` in a cache of `pages` pages of `tokens`; computed only if not in scratch yet. */
export function placesOf(
  recorder: CommandRecorder,
  lanes: Operand,
  table: Operand,
  tokens: number,
  pages: number,
): Binding {
  const [, batch = 0, steps = 0] = lanes.shape;
  const count = batch * steps;
  const size = Math.max(16, count * 8);
  const block = recorder.buffers.scratch(`places ${table.block.uid % LISTS}`, size);
  const binding = { block, start: 0, size: Math.ceil(size / 16) * 16 };
  const from = [lanes, table].map(({ block: { uid }, byte, shape }) => `${uid}+${byte}:${shape.join("x")}`);
  const key = `places ${from.join(" ")} ${tokens}x${pages} ${lanes.strides.join(",")}`;
  if (recorder.contents.holds(block, key)) return binding;
  const [half = 0, row = 0] = lanes.strides;
  const numbers = { count, steps, lanes: lanes.offset, half, row, ...pagedNumbers(table, tokens, pages) };
  recorder.dispatch(PLACES, [lanes, table, binding], numbers, groupsFor(count, WORKGROUP));
  recorder.contents.hold(block, key, [lanes.block, table.block]);
  return binding;
}

/** WGSL that reports an invalid place of token `i` for each call of `calls`. Needs P.rows and P.pages. */
export function reportPlace(calls: readonly string[]): string {
  return `let wrong = places[2u * i];
    if (wrong < -1) {
      let code = u32(-1 - wrong);
      let most = select(P.pages, P.rows, code == ${FAILURE.laneRow}u);
      ${calls.map((call) => `report_of(${call}, code, bitcast<u32>(places[2u * i + 1u]), most, 0u);`).join("\n      ")}
    }`;
}
