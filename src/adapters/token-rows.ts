// What `trainable_token_indices` may be.

import { isWhole, listOf } from "../core/checks.js";

/** Ids of tokens, or rows of modules by the ends of their paths. */
export type TokenIndices = readonly number[] | Readonly<Record<string, readonly number[]>> | null;

/** Most rows of an adapter; whoever trains more trains the whole matrix. */
const MOST = 1_000_000;

function isRows(value: unknown): boolean {
  const rows = listOf(value, (one): one is number => isWhole(one));
  return rows !== undefined && rows.length <= MOST && new Set(rows).size === rows.length;
}

export function isTokenIndices(value: unknown): value is TokenIndices {
  if (value === null) return true;
  if (typeof value !== "object" || Array.isArray(value)) return isRows(value);
  const entries = Object.entries(value);
  return entries.length <= 1000 && entries.every(([name, rows]) => name !== "" && isRows(rows));
}
