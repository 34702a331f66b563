// What the tests of grammars share: machines without a tokenizer, and texts that walk through them.

import { automatonOf } from "../../../src/generate/grammar/automaton.js";
import type { Grammar } from "../../../src/generate/grammar/expr.js";
import { gbnfGrammar } from "../../../src/generate/grammar/gbnf.js";
import { type JsonSchema, schemaGrammar } from "../../../src/generate/grammar/json-schema.js";
import { Machine, type Stacks } from "../../../src/generate/grammar/machine.js";
import { regexExpr } from "../../../src/generate/grammar/regex.js";
import { Vocabulary } from "../../../src/generate/grammar/vocabulary.js";

export const UTF8 = new TextEncoder();

const machine = (grammar: Grammar, option: string): Machine => new Machine(automatonOf(grammar, option));
export const ofRegex = (source: string): Machine =>
  machine({ rules: [{ name: "root", body: regexExpr(source, "regex") }] }, "regex");
export const ofGrammar = (source: string): Machine => machine(gbnfGrammar(source), "grammar");
export const ofSchema = (schema: JsonSchema): Machine => machine(schemaGrammar(schema), "json_schema");

/** The state after a text; undefined if no text of the grammar begins so. */
export const after = (of: Machine, text: string): Stacks | undefined => of.run(of.start, UTF8.encode(text));
export const accepts = (of: Machine, text: string): boolean => after(of, text)?.done === true;

/** The bytes that may follow. */
export function bytesAfter(of: Machine, state: Stacks): number[] {
  const from = of.number(state);
  return Array.from({ length: 256 }, (_, byte) => byte).filter((byte) => of.step(from, of.classOf[byte]!) >= 0);
}

/** A random text of the grammar: at random for `length` bytes, then by the shortest way to its end. */
export function walk(of: Machine, next: () => number, length: number): string {
  const bytes: number[] = [];
  let state = of.start;
  while (bytes.length < length) {
    const all = bytesAfter(of, state);
    if (all.length === 0 || (state.done && next() < 0.1)) break;
    const byte = all[Math.floor(next() * all.length)]!;
    bytes.push(byte);
    state = of.run(state, [byte])!;
  }
  if (!state.done) bytes.push(...shortestEnd(of, state));
  return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(Uint8Array.from(bytes));
}

/** How many stacks lie above each other at least. */
function depthOf({ done, below }: Stacks): number {
  return done || below.length === 0 ? 0 : 1 + Math.min(...below.map(depthOf));
}

/** Bytes that complete a text, by the states with the fewest stacks above each other first. */
export function shortestEnd(of: Machine, state: Stacks): number[] {
  const seen = new Map<number, { readonly from: number; readonly byte: number }>();
  const start = of.number(state);
  const queues: number[][] = [];
  const add = (at: number): void => {
    const depth = depthOf(of.states[at]!);
    queues[depth] ??= [];
    queues[depth].push(at);
  };
  add(start);
  for (;;) {
    const at = queues.find((queue) => (queue?.length ?? 0) > 0)?.shift();
    if (at === undefined) throw new Error("a text that was begun cannot be finished");
    if (of.complete[at] === 1) {
      const bytes: number[] = [];
      for (let back = at; back !== start; back = seen.get(back)!.from) bytes.unshift(seen.get(back)!.byte);
      return bytes;
    }
    const classes = new Set<number>();
    for (let byte = 0; byte < 256; byte++) {
      if (classes.has(of.classOf[byte]!)) continue;
      classes.add(of.classOf[byte]!);
      const to = of.step(at, of.classOf[byte]!);
      if (to < 0 || to === start || seen.has(to)) continue;
      seen.set(to, { from: at, byte });
      add(to);
    }
  }
}

/** A vocabulary of these tokens, whose ids are their places. */
export function vocabularyOf(
  tokens: readonly (string | Uint8Array)[],
  begin: "kept" | "dropped" | "needed" = "kept",
): Vocabulary {
  const bytes = tokens.map((token) => (typeof token === "string" ? UTF8.encode(token) : token));
  return new Vocabulary({ bytes, begin, notFirst: new Set() }, tokens.length + 1, []);
}
