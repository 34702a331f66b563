// What JSON texts are made of, as expressions: the rules that every grammar of a schema has, lists, and members of objects.

import { charsOf } from "./chars.js";
import { type Edge, EMPTY, type Expr, either, literal, maybe, repeat, seq } from "./expr.js";

/** Numbers of the rules that every grammar has. */
export const ROOT = 0;
export const SPACE: Expr = { rule: 1 };
export const STRING: Expr = { rule: 2 };
export const ANY_VALUE: Expr = { rule: 3 };
export const ANY_NUMBER: Expr = { rule: 4 };
export const ANY_INTEGER: Expr = { rule: 5 };
export const ANY_ESCAPE: Expr = { rule: 6 };

/** Between members and at both ends of them: nothing, a space, or the end of a line and at most 20 blanks. */
export const BLANKS = either(EMPTY, literal(" "), seq(literal("\n"), repeat({ set: charsOf(" \t") }, 0, 20)));
export const ONE_SPACE = maybe(literal(" "));

export function list(open: string, body: Expr | undefined, empty: boolean, close: string): Expr {
  return seq(
    literal(open),
    either(...(body ? [seq(SPACE, body, SPACE, literal(close))] : []), ...(empty ? [literal(close)] : [])),
  );
}

export const COMMA = seq(literal(","), SPACE);
export const COLON = seq(literal(":"), ONE_SPACE);
export const many = (one: Expr): Expr => seq(one, repeat(seq(COMMA, one), 0));

/** An object's members in their order, each there or not; `other` ones at the end. */
export function members(
  named: readonly { readonly pair: Expr; readonly needed: boolean }[],
  other: Expr | undefined,
): Expr {
  // State 2n: no member before number n; 2n + 1: some. A pair begins in a state of its own.
  const edges: Edge[] = [];
  let states = 2 * named.length + 2;
  const free = (from: number, to: number, by: Expr = EMPTY): void => void edges.push({ from, to, by });
  const pair = (n: number, by: Expr, to: number): void => {
    const begin = states++;
    free(2 * n, begin);
    free(2 * n + 1, begin, COMMA);
    edges.push({ from: begin, to, by });
  };
  for (const [n, one] of named.entries()) {
    pair(n, one.pair, 2 * n + 3);
    if (one.needed) continue;
    free(2 * n, 2 * n + 2);
    free(2 * n + 1, 2 * n + 3);
  }
  const last = named.length;
  if (other) pair(last, other, 2 * last + 1);
  const some: Expr = { graph: { states, edges, ends: new Set([2 * last + 1]) } };
  return list("{", some, !named.some(({ needed }) => needed), "}");
}
