// The place of a lane's token in a paged cache: shared by the references of attention and kv_append.

import type { HostTensor } from "./op.js";

/** Row and position of lane `at` of `lanes[2,B,T]`; a row of -1 marks an unused lane. */
export function laneOf(lanes: HostTensor, at: number): { readonly row: number; readonly position: number } {
  const { data } = lanes;
  return { row: data[at]!, position: data[data.length / 2 + at]! };
}

/** An error message if an active lane names a row outside the table, or a negative position. */
export function laneProblem(table: HostTensor, row: number, position: number): string | undefined {
  if (row >= table.shape[0]!) return `a lane is of row ${row}; the table has ${table.shape[0]}`;
  if (position < 0) return `a lane stands at position ${position}`;
  return undefined;
}

/** The page that holds position `position` of a row with pages of `size` tokens; pages are used as a ring. */
export function pageOf(table: HostTensor, row: number, position: number, size: number): number {
  const columns = table.shape[1]!;
  return table.data[row * columns + 1 + (Math.floor(position / size) % (columns - 1))]!;
}

/** An error message if a page is outside the cache. */
export function pageProblem(page: number, pages: number): string | undefined {
  return page >= 0 && page < pages ? undefined : `the table names page ${page}; the cache has ${pages}`;
}
