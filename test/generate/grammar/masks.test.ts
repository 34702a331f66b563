// Masks: exactly the tokens after which a text can still be finished, whatever stands in the vocabulary.

import { expect, test } from "vitest";
import { Machine } from "../../../src/generate/grammar/machine.js";
import { Masks } from "../../../src/generate/grammar/masks.js";
import { uniforms } from "../../support/random.js";
import { bytesAfter, ofGrammar, ofRegex, ofSchema, shortestEnd, UTF8, vocabularyOf } from "./support.js";

const LONG = `"${"x".repeat(40)}`; // longer than those that are tried together
const TOKENS = [
  ...[
    '"',
    '",',
    '": ',
    '":"',
    '"}',
    '", "',
    '{"',
    "{",
    "}",
    "}]",
    "[",
    "]",
    ",",
    ":",
    " ",
    "  ",
    "\n",
    "\n  ",
    "[[",
    "]]]",
    "[{",
  ],
  ...[
    "a",
    "b",
    "ab",
    "abab",
    "name",
    '"name"',
    "tru",
    "true",
    "false",
    "null",
    "ll",
    "0",
    "1",
    "12",
    "-",
    ".5",
    "e",
    "E+",
    "00",
  ],
  ...[
    "\\",
    "\\n",
    '\\"',
    "\\u",
    "00e9",
    "d83d",
    "é",
    "日本",
    "😀",
    "x",
    "xxxxxxxx",
    LONG,
    "(",
    ")",
    "+",
    "1+",
    "))",
    "a\u0000",
    "\u0007",
  ],
];
/** The bytes of characters apart, and pairs of them that belong to two characters. */
const PARTS = [...UTF8.encode("é日😀")].flatMap((byte, n, all) => [
  Uint8Array.of(byte),
  ...(n > 0 ? [Uint8Array.of(all[n - 1]!, byte)] : []),
]);

const grammars = {
  words: ofRegex("(?:ab|é|日本){0,3}x+"),
  counted: ofRegex("x{3,70}é?"),
  nested: ofGrammar('root ::= sum\nsum ::= part ("+" part)*\npart ::= [0-9]+ | "(" sum ")"'),
  ambiguous: ofGrammar('root ::= "a" root "b" | "a" root "abab" | [a-b] s | ""\ns ::= "" | "a" s s "b"'),
  json: ofSchema({}),
  typed: ofSchema({
    type: "object",
    properties: {
      name: { type: "string", maxLength: 60 },
      n: { type: "integer", minimum: -5 },
      b: { enum: [null, "x"] },
    },
    required: ["name"],
    additionalProperties: { type: "array", items: { $ref: "#" }, maxItems: 2 },
  }),
} as const;

test.each(Object.entries(grammars))("%s: masks are those that trying each token gives", (_, machine) => {
  const next = uniforms(5);
  const vocabulary = vocabularyOf([...TOKENS, ...PARTS, "a", "ab"]); // some tokens have the same bytes
  const end = vocabulary.size - 1;
  const masks = new Masks(machine, vocabulary, [end]);
  let allowed = 0;
  let refused = 0;
  for (let n = 0; n < 40; n++) {
    let state = machine.start;
    for (let step = 0; step < 25; step++) {
      const bits = masks.of(state);
      const mask = Array.from({ length: vocabulary.size }, (_, id) => (bits[id >>> 5]! >>> (id & 31)) & 1);
      const tried = vocabulary.bytes.map((bytes) => (machine.run(state, bytes!) ? 1 : 0));
      expect(mask).toEqual([...tried, state.done ? 1 : 0]);
      const ids = vocabulary.bytes.map((_, id) => id).filter((id) => mask[id] === 1);
      allowed += ids.length;
      refused += vocabulary.size - ids.length;
      if (ids.length === 0) break;
      state = masks.next(state, ids[Math.floor(next() * ids.length)]!, false)!;
    }
    shortestEnd(machine, state); // fails for a text that cannot be finished
  }
  expect(allowed).toBeGreaterThan(100);
  expect(refused).toBeGreaterThan(100);
});

test("a state allows a byte exactly if some text goes on so", () => {
  // All texts of a small language, by hand.
  const texts = ["ab", "aé", "abab", "b"];
  const machine = ofRegex("ab|aé|abab|b");
  const prefixes = new Set(
    texts.map((text) => UTF8.encode(text)).flatMap((all) => [...all].map((_, n) => all.slice(0, n + 1).join())),
  );
  const visit = (path: readonly number[]): number => {
    const state = machine.run(machine.start, path)!;
    let found = 0;
    for (const byte of bytesAfter(machine, state)) found += 1 + visit([...path, byte]);
    return found;
  };
  expect(visit([])).toBe(prefixes.size);
  for (const path of prefixes) expect(machine.run(machine.start, path.split(",").map(Number))).toBeDefined();
});

test("the first space of a text", () => {
  const machine = ofRegex(" ?a b");
  const tokens = [" ", "  ", " a", "a", " b"];
  const first = (begin: "kept" | "dropped" | "needed"): string[] => {
    const masks = new Masks(machine, vocabularyOf(tokens, begin), []);
    const bits = masks.first();
    for (const id of tokens.keys()) {
      expect(masks.next(machine.start, id, true) !== undefined).toBe(((bits[0]! >>> id) & 1) === 1);
    }
    return tokens.filter((_, id) => (bits[0]! >>> id) & 1);
  };
  expect(first("kept")).toEqual([" ", " a", "a"]);
  expect(first("dropped")).toEqual([" ", "  ", " a", "a"]);
  expect(first("needed")).toEqual([" ", "  ", " a"]);
});

test("what is known is forgotten in time, and texts go on", () => {
  const machine = new Machine(ofSchema({}).automaton, 4000);
  const masks = new Masks(machine, vocabularyOf(TOKENS), []);
  const plain = new Masks(ofSchema({}), vocabularyOf(TOKENS), []);
  let [state, other] = [machine.start, plain.machine.start];
  for (const token of [...new Array<string>(100).fill("[["), ...new Array<string>(200).fill("]")]) {
    expect(masks.of(state)).toEqual(plain.of(other));
    const id = TOKENS.indexOf(token);
    [state, other] = [masks.next(state, id, false)!, plain.next(other, id, false)!];
  }
  expect(state.done).toBe(true);
  expect(machine.epoch).toBeGreaterThan(3);
});
