// Regular expressions: the same texts as JavaScript's, on random texts near to what they match.

import { expect, test } from "vitest";
import { OptionError } from "../../../src/core/errors.js";
import { automatonOf } from "../../../src/generate/grammar/automaton.js";
import { Machine } from "../../../src/generate/grammar/machine.js";
import { searchExpr } from "../../../src/generate/grammar/regex.js";
import { uniforms } from "../../support/random.js";
import { accepts, ofGrammar, ofRegex, walk } from "./support.js";

const ALPHABET = [
  "a",
  "b",
  "c",
  "A",
  "0",
  "7",
  "-",
  " ",
  ".",
  "\n",
  "é",
  "ß",
  "€",
  "日",
  "😀",
  "\u2028",
  "_",
  '"',
  "\\",
  "]",
];

function randomText(next: () => number): string {
  return Array.from({ length: Math.floor(next() * 6) }, () => ALPHABET[Math.floor(next() * ALPHABET.length)]).join("");
}

/** A random expression, of the parts that JavaScript has too. */
function randomRegex(next: () => number, depth: number): string {
  const pick = (...of: readonly (() => string)[]): string => of[Math.floor(next() * of.length)]!();
  const inner = (): string => randomRegex(next, depth - 1);
  const one = (): string =>
    pick(
      () => "a",
      () => "b",
      () => ".",
      () => "é",
      () => "\\d",
      () => "\\W",
      () => "\\s",
      () => "[a-c]",
      () => "[^a-c\\d]",
      () => "[é-€]",
      () => "[^\\s-]",
      () => "\\u{1F600}",
      () => "\\x41",
      () => "\\p{L}",
      () => "\\.",
      () => "[\\]\\\\]",
    );
  if (depth === 0) return one();
  return pick(
    one,
    () => inner() + inner(),
    () => `(?:${inner()}|${inner()})`,
    () => `(${inner()})*`,
    () => `(?<n${depth}>${inner()})+?`,
    () => `(?:${inner()}){1,2}`,
    () => `(?:${inner()}){2}`,
    () => `(?:${inner()})?`,
    () => `(?:${inner()}|)`,
  ).replace(/\(\?<n\d+>/g, "(?:"); // names may not be there twice
}

test("random expressions match what JavaScript's do", () => {
  const next = uniforms(11);
  let matched = 0;
  for (let n = 0; n < 60; n++) {
    const source = randomRegex(next, 3);
    const machine = ofRegex(source);
    const theirs = new RegExp(`^(?:${source})$`, "u");
    const texts = [
      ...Array.from({ length: 15 }, () => randomText(next)),
      walk(machine, next, 4),
      walk(machine, next, 9),
    ];
    const wrong = texts.filter((text) => theirs.test(text) !== accepts(machine, text));
    expect(wrong, source).toEqual([]);
    matched += texts.filter((text) => theirs.test(text)).length;
  }
  expect(matched).toBeGreaterThan(120);
});

test.each([
  ["^ab", "xab", "abx", "ab"],
  ["b$|^c", "ab", "ba", "cc"],
  ["a.c", "xxabcxx", "a\nc", "abc"],
  ["^\\d{2}(?:-\\d{2}){2}$", "12-34-56", "12-34-5", "x12-34-56"],
] as const)("a pattern of a schema may stand anywhere: %s", (source, ...texts) => {
  const machine = new Machine(automatonOf({ rules: [{ name: "root", body: searchExpr(source, "json_schema") }] }, "x"));
  for (const text of texts) expect(accepts(machine, text), text).toBe(new RegExp(source, "u").test(text));
});

test("halves of characters in a class are no characters, at the ends of ranges too", () => {
  const chars = ["a", "-", "é", "\uf000", "😀"];
  for (const source of ["[^\\ud800-\\udfff]", "[a-\\udfff]", "[\\ud800-\\uffff]", "[\\ud83d\\ude00-\\u{1f64f}]"]) {
    const [machine, theirs] = [ofRegex(source), new RegExp(`^${source}$`, "u")];
    for (const char of chars) expect(accepts(machine, char), `${source} ${char}`).toBe(theirs.test(char));
  }
  for (const source of ["[a-\\uDFFF]", "[\\uD800-\\uFFFF]"]) {
    const [machine, theirs] = [ofGrammar(`root ::= ${source}`), new RegExp(`^${source}$`, "u")];
    for (const char of chars) expect(accepts(machine, char), `GBNF ${source} ${char}`).toBe(theirs.test(char));
  }
  expect(() => ofGrammar("root ::= [z-a]")).toThrow(/ends before it begins/);
  expect(() => ofGrammar('root ::= "a"{3 5}')).toThrow(/expected \{m\}/);
});

test("what is no set of texts is refused, and what is too large", () => {
  const refused: readonly (readonly [string, RegExp])[] = [
    ["(?=a)b", /looking ahead/],
    ["(?<!a)b", /looking ahead or back/],
    ["(a)\\1", /references back/],
    ["\\bword", /word boundary/],
    ["a^b", /\^ can only be at the begin/],
    ["(a$)b", /\$ can only be at the end/],
    ["(", /group|parenthes/i],
    ["a{2,1}", /order/],
    ["a{20000}", /more than 10000 times/],
    ["((a{1000}){1000}){1000}", /states/],
    ["(".repeat(300) + ")".repeat(300), /groups inside each other/],
    ["a".repeat(30_000), /more than 20000 characters/],
  ];
  for (const [source, message] of refused) {
    expect(() => ofRegex(source), source.slice(0, 30)).toThrow(OptionError);
    expect(() => ofRegex(source), source.slice(0, 30)).toThrow(message);
  }
  // Expressions that explode elsewhere cost a state for each place.
  const machine = ofRegex("(a|a)*(a?){200}b|(?:[ab]*a[ab]{300})");
  expect(accepts(machine, `${"a".repeat(400)}b`)).toBe(true);
});
