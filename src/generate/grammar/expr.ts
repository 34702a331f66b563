// What a text may be, as an expression: the common form that regular expressions, grammars and JSON schemas are read into.

import { OptionError } from "../../core/errors.js";
import { type CharSet, charsOf, intersection } from "./chars.js";

/** A set of texts. */
export type Expr =
  /** One character of a set. */
  | { readonly set: CharSet }
  /** One after the other. */
  | { readonly all: readonly Expr[] }
  /** One of them. */
  | { readonly oneOf: readonly Expr[] }
  | { readonly of: Expr; readonly min: number; readonly max: number }
  /** What a rule of the grammar says, by its number. */
  | { readonly rule: number }
  | { readonly graph: Graph };

/** Texts that lead from the first state to one of `ends`. */
export interface Graph {
  /** The first is state 0. */
  readonly states: number;
  readonly edges: readonly Edge[];
  readonly ends: ReadonlySet<number>;
}

export interface Edge {
  readonly from: number;
  readonly to: number;
  readonly by: Expr;
}

/** A grammar: its rules, of which the first is the whole text. */
export interface Grammar {
  readonly rules: readonly {
    readonly name: string;
    readonly body: Expr;
    /** It is called from many places, and stays one for all of them however short it is. */
    readonly apart?: boolean;
  }[];
}

export const EMPTY: Expr = { all: [] };
export const NOTHING: Expr = { oneOf: [] };

/** The text itself. */
export function literal(text: string): Expr {
  return { all: Array.from(text, (char) => ({ set: charsOf(char) })) };
}

export const seq = (...all: readonly Expr[]): Expr => ({ all });
export const either = (...oneOf: readonly Expr[]): Expr => ({ oneOf });
export const repeat = (of: Expr, min: number, max = Number.POSITIVE_INFINITY): Expr => ({ of, min, max });
export const maybe = (of: Expr): Expr => repeat(of, 0, 1);

/** Most states of a graph, and steps that a combination of two may take. */
const MOST_STATES = 20_000;

export function tooLarge(option: string, what: string): never {
  throw new OptionError(`${option}: ${what}`, {
    details: { option },
    hint: "lower the numbers of its repetitions, or split it",
  });
}

/** An expression without rules as a graph whose edges are sets of characters, none of them empty. */
function setGraph(
  expr: Expr,
  option: string,
): { next: Map<number, [CharSet, number][]>; ends: Set<number>; count: number } {
  const edges: [CharSet, number][][] = [];
  const free: number[][] = [];
  const state = (): number => {
    if (edges.length >= MOST_STATES) tooLarge(option, `more than ${MOST_STATES} states`);
    free.push([]);
    return edges.push([]) - 1;
  };
  const build = (one: Expr, from: number): number => {
    if ("set" in one) {
      const to = state();
      edges[from]!.push([one.set, to]);
      return to;
    }
    if ("all" in one) return one.all.reduce((at, part) => build(part, at), from);
    if ("oneOf" in one) {
      const to = state();
      for (const option of one.oneOf) {
        const begin = state();
        free[from]!.push(begin);
        free[build(option, begin)]!.push(to);
      }
      return to;
    }
    if ("of" in one) {
      let at = from;
      for (let n = 0; n < one.min; n++) at = build(one.of, at);
      if (one.max === Number.POSITIVE_INFINITY) {
        const loop = state();
        free[at]!.push(loop);
        free[build(one.of, loop)]!.push(loop);
        return loop;
      }
      const to = state();
      for (let n = one.min; n < one.max; n++) {
        free[at]!.push(to);
        at = build(one.of, at);
      }
      free[at]!.push(to);
      return to;
    }
    if ("graph" in one) {
      const { graph } = one;
      const own = Array.from({ length: graph.states }, state);
      free[from]!.push(own[0]!);
      for (const edge of graph.edges) free[build(edge.by, own[edge.from]!)]!.push(own[edge.to]!);
      const to = state();
      for (const end of graph.ends) free[own[end]!]!.push(to);
      return to;
    }
    throw new Error("a rule has no graph of characters"); // those who call never pass one
  };
  const start = state();
  const end = build(expr, start);
  const closures = free.map((_, from) => {
    const found = new Set([from]);
    for (const at of found) for (const to of free[at]!) found.add(to);
    return found;
  });
  const next = new Map<number, [CharSet, number][]>();
  const ends = new Set<number>();
  closures.forEach((found, from) => {
    next.set(
      from,
      [...found].flatMap((at) => edges[at]!),
    );
    if (found.has(end)) ends.add(from);
  });
  return { next, ends, count: edges.length };
}

/**
 * The texts that are in both of two expressions without rules.
 * @throws OptionError if the result has too many states
 */
export function both(a: Expr, b: Expr, option: string): Expr {
  const [left, right] = [setGraph(a, option), setGraph(b, option)];
  const numbers = new Map<number, number>([[0, 0]]);
  const edges: Edge[] = [];
  const ends = new Set<number>();
  const found = new Map<CharSet, Map<CharSet, CharSet>>();
  const common = (one: CharSet, other: CharSet): CharSet => {
    const own = found.get(one) ?? new Map<CharSet, CharSet>();
    found.set(one, own);
    const set = own.get(other) ?? intersection(one, other);
    own.set(other, set);
    return set;
  };
  for (const [key, from] of numbers) {
    const [p, q] = [Math.floor(key / right.count), key % right.count];
    if (left.ends.has(p) && right.ends.has(q)) ends.add(from);
    for (const [one, p2] of left.next.get(p)!) {
      for (const [other, q2] of right.next.get(q)!) {
        const set = common(one, other);
        if (set.length === 0) continue;
        const to = p2 * right.count + q2;
        if (!numbers.has(to)) numbers.set(to, numbers.size);
        if (numbers.size > MOST_STATES || edges.length > 8 * MOST_STATES) {
          tooLarge(option, "its rules for one text have too many combinations");
        }
        edges.push({ from, to: numbers.get(to)!, by: { set } });
      }
    }
  }
  return { graph: { states: numbers.size, edges, ends } };
}

/** An expression without rules in which each character is written another way. */
export function spelled(expr: Expr, spell: (set: CharSet) => Expr): Expr {
  if ("set" in expr) return spell(expr.set);
  if ("all" in expr) return { all: expr.all.map((part) => spelled(part, spell)) };
  if ("oneOf" in expr) return { oneOf: expr.oneOf.map((part) => spelled(part, spell)) };
  if ("of" in expr) return { ...expr, of: spelled(expr.of, spell) };
  if ("rule" in expr) return expr;
  const { graph } = expr;
  return { graph: { ...graph, edges: graph.edges.map((edge) => ({ ...edge, by: spelled(edge.by, spell) })) } };
}
