// A grammar as automata over bytes, one for each rule: a state goes on by a byte, freely, or by a call of another rule. What cannot
// end in a whole text is cut away, so every text that the automata can begin can be finished.

import { OptionError } from "../../core/errors.js";
import { show } from "../../core/show.js";
import type { CharSet } from "./chars.js";
import { type Expr, type Grammar, tooLarge } from "./expr.js";
import { utf8Ranges } from "./utf8.js";

/** Most states of a grammar. */
const MOST_STATES = 200_000;
/** Rules inside each other that are written out, and nesting of one rule's expression. */
const DEEPEST = 2000;
/** A rule that calls no other and is at most so long is written out where it is called. */
const SHORT = 64;

/** Ways on from a state, in threes or twos of numbers. */
export interface Automaton {
  /** By a byte of a range: first, last, to. */
  readonly bytes: readonly (readonly number[])[];
  readonly free: readonly (readonly number[])[];
  /** By a call: the first state of the rule, and where to go on after it. */
  readonly calls: readonly (readonly number[])[];
  /** The states at which a rule ends. */
  readonly ends: Uint8Array;
  /** States after which a rule only ends. */
  readonly tails: Uint8Array;
  readonly start: number;
  /**
   * Repetitions are copies of each other. Of a state in one: the same state in the first copy, and how many copies follow before the
   * repetition can come to another end than that one's; of others the state itself, and 0.
   */
  readonly first: Int32Array;
  readonly copies: Int32Array;
  /** Some text is in the grammar. */
  readonly possible: boolean;
}

/** The list of most states. */
const NONE: number[] = [];

function push(lists: number[][], state: number, ...values: readonly number[]): void {
  if (lists[state] === NONE) lists[state] = [...values];
  else lists[state]!.push(...values);
}

class Builder {
  readonly bytes: number[][] = [];
  readonly free: number[][] = [];
  readonly calls: number[][] = [];
  readonly first: number[] = [];
  readonly copies: number[] = [];
  readonly #grammar: Grammar;
  readonly #option: string;
  readonly #short: readonly boolean[];
  #depth = 0;

  constructor(grammar: Grammar, option: string) {
    this.#grammar = grammar;
    this.#option = option;
    this.#short = grammar.rules.map(({ body, apart }) => !apart && sizeOf(body, SHORT) <= SHORT);
  }

  state(): number {
    const at = this.bytes.length;
    if (at >= MOST_STATES) tooLarge(this.#option, `the grammar has more than ${MOST_STATES} states`);
    this.bytes.push(NONE);
    this.free.push(NONE);
    this.calls.push(NONE);
    this.first.push(at);
    this.copies.push(0);
    return at;
  }

  /** Adds what an expression allows after `from`; returns the state behind it. A call's rule is its number until `link`. */
  add(expr: Expr, from: number): number {
    if (this.#depth++ > DEEPEST) tooLarge(this.#option, `more than ${DEEPEST} parts inside each other`);
    const to = this.#add(expr, from);
    this.#depth--;
    return to;
  }

  #add(expr: Expr, from: number): number {
    if ("set" in expr) return this.#set(expr.set, from);
    if ("all" in expr) return expr.all.reduce((at, part) => this.add(part, at), from);
    if ("of" in expr) return this.#repeat(expr.of, expr.min, expr.max, from);
    if ("oneOf" in expr) {
      const to = this.state();
      for (const one of expr.oneOf) {
        const begin = this.state();
        push(this.free, from, begin);
        push(this.free, this.add(one, begin), to);
      }
      return to;
    }
    if ("graph" in expr) {
      const { states, edges, ends } = expr.graph;
      const own = Array.from({ length: states }, () => this.state());
      push(this.free, from, own[0]!);
      for (const edge of edges) push(this.free, this.add(edge.by, own[edge.from]!), own[edge.to]!);
      const to = this.state();
      for (const end of ends) push(this.free, own[end]!, to);
      return to;
    }
    if (this.#short[expr.rule]) return this.add(this.#grammar.rules[expr.rule]!.body, from);
    const to = this.state();
    push(this.calls, from, expr.rule, to);
    return to;
  }

  #set(set: CharSet, from: number): number {
    const { states, edges } = piecesOf(set);
    const to = this.state();
    const begin = this.bytes.length;
    for (let n = 0; n < states; n++) this.state();
    const at = (place: number): number => (place === FROM ? from : place === TO ? to : begin + place);
    for (const [first, last, a, b] of edges) push(this.bytes, at(a), first, last, at(b));
    return to;
  }

  #repeat(of: Expr, min: number, max: number, from: number): number {
    let at = this.#copies(of, min, from, () => {});
    if (max === Number.POSITIVE_INFINITY) {
      const loop = this.state();
      push(this.free, at, loop);
      push(this.free, this.add(of, loop), loop);
      return loop;
    }
    const to = this.state();
    at = this.#copies(of, max - min, at, (begin) => push(this.free, begin, to));
    push(this.free, at, to);
    return to;
  }

  /** Copies of a part, one after the other, each with a state at its begin. */
  #copies(of: Expr, count: number, from: number, begins: (state: number) => void): number {
    let at = from;
    let first = 0;
    const consumes = !canBeEmpty(of);
    for (let n = 0; n < count; n++) {
      const begin = this.state();
      push(this.free, at, begin);
      begins(begin);
      at = this.add(of, begin);
      if (n === 0) first = begin;
      // Copies are laid out alike, so a state's place in one is its place in the first.
      for (let state = begin; consumes && state < this.bytes.length; state++) {
        if (this.first[state] !== state) continue; // of a repetition inside
        this.first[state] = first + state - begin;
        this.copies[state] = count - n;
      }
    }
    return at;
  }
}

/** The ends of a character's bytes, beside the states between them. */
const FROM = -1;
const TO = -2;

interface Pieces {
  /** States between the two ends. */
  readonly states: number;
  readonly edges: readonly (readonly [first: number, last: number, from: number, to: number])[];
}

const pieces = new WeakMap<CharSet, Pieces>();

/** The bytes of a set's characters, whose sequences share their ends. */
function piecesOf(set: CharSet): Pieces {
  const known = pieces.get(set);
  if (known) return known;
  const edges: [number, number, number, number][] = [];
  const tails = new Map<string, number>(); // by what is left of a sequence
  for (const ranges of utf8Ranges(set)) {
    let at = FROM;
    for (const [n, [first, last]] of ranges.entries()) {
      const rest = ranges.slice(n + 1);
      const key = rest.join(";");
      const before = rest.length === 0 ? TO : tails.get(key);
      const next = before ?? tails.size;
      edges.push([first, last, at, next]);
      if (before !== undefined) break;
      tails.set(key, next);
      at = next;
    }
  }
  const made = { states: tails.size, edges };
  pieces.set(set, made);
  return made;
}

/** Parts of an expression, up to a little more than `most`; endless with a call. */
function sizeOf(expr: Expr, most: number): number {
  const sum = (parts: readonly Expr[], times = 1): number => {
    let total = 1;
    for (const part of parts) {
      total += times * sizeOf(part, most);
      if (total > most) return total;
    }
    return total;
  };
  if ("set" in expr) return expr.set.length > 8 ? expr.set.length : 1;
  if ("all" in expr) return sum(expr.all);
  if ("oneOf" in expr) return sum(expr.oneOf);
  if ("of" in expr) return sum([expr.of], expr.max === Number.POSITIVE_INFINITY ? expr.min + 1 : expr.max);
  if ("graph" in expr) return sum(expr.graph.edges.map(({ by }) => by));
  return Number.POSITIVE_INFINITY;
}

/** True if an expression may be the empty text; true for a call, where it is not known. */
function canBeEmpty(expr: Expr): boolean {
  if ("set" in expr) return false;
  if ("all" in expr) return expr.all.every(canBeEmpty);
  if ("oneOf" in expr) return expr.oneOf.some(canBeEmpty);
  if ("of" in expr) return expr.min === 0 || canBeEmpty(expr.of);
  return true;
}

/**
 * @param option the call's option, for errors
 * @param usable bytes that the vocabulary can write; all by default
 * @throws OptionError if the grammar is too large, if a rule begins with itself, and if no text is in it
 */
export function automatonOf(grammar: Grammar, option: string, usable?: Uint8Array): Automaton {
  const builder = new Builder(grammar, option);
  const starts: number[] = [];
  const stops: number[] = [];
  const ruleOf: number[] = [];
  // Only rules that are called are built, the first one always.
  const wanted = [0];
  const queued = new Set(wanted);
  for (const rule of wanted) {
    starts[rule] = builder.state();
    const from = builder.calls.length - 1;
    stops[rule] = builder.add(grammar.rules[rule]!.body, starts[rule]!);
    for (let state = from; state < builder.calls.length; state++) {
      ruleOf[state] = rule;
      const calls = builder.calls[state]!;
      for (let n = 0; n < calls.length; n += 2) {
        if (queued.has(calls[n]!)) continue;
        queued.add(calls[n]!);
        wanted.push(calls[n]!);
      }
    }
  }
  const { bytes, free, calls } = builder;
  if (usable) {
    bytes.forEach((own, state) => {
      bytes[state] = usableOf(own, usable);
    });
  }
  const alive = productive(bytes, free, calls, ruleOf, starts, stops);
  for (let state = 0; state < bytes.length; state++) {
    bytes[state] = kept(bytes[state]!, 3, (n) => alive[bytes[state]![n + 2]!] === 1);
    free[state] = kept(free[state]!, 1, (n) => alive[free[state]![n]!] === 1);
    const own = calls[state]!;
    calls[state] = kept(own, 2, (n) => alive[starts[own[n]!]!] === 1 && alive[own[n + 1]!] === 1);
  }
  const ends = new Uint8Array(bytes.length);
  for (const rule of wanted) ends[stops[rule]!] = 1;
  refuseLeftRecursion(grammar, option, { free, calls, ends, starts, wanted });
  for (const own of calls) for (let n = 0; n < own.length; n += 2) own[n] = starts[own[n]!]!;
  const tails = new Uint8Array(bytes.length);
  for (let state = bytes.length - 1; state >= 0; state--) {
    for (let at = state; ; ) {
      if (bytes[at]!.length + calls[at]!.length > 0) break;
      if (ends[at] === 1 && free[at]!.length === 0) {
        tails[state] = 1;
        break;
      }
      if (ends[at] === 1 || free[at]!.length !== 1 || free[at]![0] === at) break;
      at = free[at]![0]!;
      if (tails[at] === 1) {
        tails[state] = 1;
        break;
      }
    }
  }
  return {
    bytes,
    free,
    calls,
    ends,
    tails,
    start: starts[0]!,
    first: Int32Array.from(builder.first),
    copies: Int32Array.from(builder.copies),
    possible: alive[starts[0]!] === 1,
  };
}

function kept(list: number[], step: number, keep: (n: number) => boolean): number[] {
  if (list.length === 0) return NONE;
  const out: number[] = [];
  for (let n = 0; n < list.length; n += step) if (keep(n)) for (let i = 0; i < step; i++) out.push(list[n + i]!);
  return out;
}

/** Ranges of bytes without those that no token has. */
function usableOf(own: readonly number[], usable: Uint8Array): number[] {
  const out: number[] = [];
  for (let n = 0; n < own.length; n += 3) {
    for (let byte = own[n]!; byte <= own[n + 1]!; byte++) {
      if (usable[byte] !== 1) continue;
      const begin = byte;
      while (byte < own[n + 1]! && usable[byte + 1] === 1) byte++;
      out.push(begin, byte, own[n + 2]!);
    }
  }
  return out;
}

/** The states from which the end of their rule can be reached. */
function productive(
  bytes: readonly (readonly number[])[],
  free: readonly (readonly number[])[],
  calls: readonly (readonly number[])[],
  ruleOf: readonly number[],
  starts: readonly number[],
  stops: readonly number[],
): Uint8Array {
  const back: number[][] = bytes.map(() => NONE); // ways back that need no rule
  const waiting: number[][] = starts.map(() => []); // calls of each rule: from, to
  const callsTo: number[][] = bytes.map(() => NONE); // rule, from
  bytes.forEach((own, from) => {
    for (let n = 2; n < own.length; n += 3) push(back, own[n]!, from);
    for (const to of free[from]!) push(back, to, from);
    const called = calls[from]!;
    for (let n = 0; n < called.length; n += 2) push(callsTo, called[n + 1]!, called[n]!, from);
  });
  const alive = new Uint8Array(bytes.length);
  const todo = stops.filter((stop) => stop !== undefined);
  for (const state of todo) alive[state] = 1;
  const reach = (state: number): void => {
    if (alive[state] === 1) return;
    alive[state] = 1;
    todo.push(state);
  };
  for (let at = todo.pop(); at !== undefined; at = todo.pop()) {
    for (const from of back[at]!) reach(from);
    const own = callsTo[at]!;
    for (let n = 0; n < own.length; n += 2) {
      if (alive[starts[own[n]!]!] === 1) reach(own[n + 1]!);
      else waiting[own[n]!]!.push(own[n + 1]!);
    }
    const rule = ruleOf[at]!;
    if (starts[rule] === at) for (const from of waiting[rule]!) reach(from);
  }
  return alive;
}

/** @throws OptionError if a rule can call itself before it has a byte: it would never begin */
function refuseLeftRecursion(
  grammar: Grammar,
  option: string,
  {
    free,
    calls,
    ends,
    starts,
    wanted,
  }: {
    free: readonly (readonly number[])[];
    calls: readonly (readonly number[])[];
    ends: Uint8Array;
    starts: readonly number[];
    wanted: readonly number[];
  },
): void {
  const empty = new Set<number>(); // rules that can be nothing
  const begins = (rule: number): { calls: Set<number>; ends: boolean } => {
    const found = new Set([starts[rule]!]);
    const called = new Set<number>();
    let end = false;
    for (const at of found) {
      if (ends[at] === 1) end = true;
      for (const to of free[at]!) found.add(to);
      for (let n = 0; n < calls[at]!.length; n += 2) {
        called.add(calls[at]![n]!);
        if (empty.has(calls[at]![n]!)) found.add(calls[at]![n + 1]!);
      }
    }
    return { calls: called, ends: end };
  };
  for (let grown = true; grown; ) {
    grown = false;
    for (const rule of wanted) {
      if (empty.has(rule) || !begins(rule).ends) continue;
      empty.add(rule);
      grown = true;
    }
  }
  const after = new Map(wanted.map((rule) => [rule, begins(rule).calls]));
  for (const rule of wanted) {
    const found = new Set(after.get(rule));
    for (const one of found) for (const next of after.get(one) ?? []) found.add(next);
    if (!found.has(rule)) continue;
    throw new OptionError(`${option}: the rule ${show(grammar.rules[rule]!.name)} begins with itself`, {
      details: { option, rule: grammar.rules[rule]!.name },
      hint: "write the repetition with * or +, or let it end with itself",
    });
  }
}
