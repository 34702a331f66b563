// Schemas read and refuse as zod does, in its words: the part of it that Octavo uses, without its bytes.

import * as fc from "fast-check";
import { expect, test } from "vitest";
import * as zod from "zod";
import * as own from "../../src/core/schema.js";

/** The same schemas of both. */
const PAIRS: readonly (readonly [name: string, own: own.Schema<unknown>, zod: zod.ZodType])[] = [
  ["number", own.number().positive().max(100), zod.number().positive().max(100)],
  ["number, a check", own.number().refine((n) => n < 3), zod.number().refine((n) => n < 3)],
  ["int", own.int().min(1).max(40), zod.int().min(1).max(40)],
  ["int, even", own.int().min(-4).multipleOf(2), zod.int().min(-4).multipleOf(2)],
  ["int, by default", own.int().min(1).max(9).default(4), zod.int().min(1).max(9).default(4)],
  ["without its default", own.int().default(4).unwrap(), zod.int().default(4).unwrap()],
  ["boolean", own.boolean().nullish(), zod.boolean().nullish()],
  ["string", own.string().nullable().default("a"), zod.string().nullable().default("a")],
  ["unknown", own.unknown().optional(), zod.unknown().optional()],
  ["custom", own.custom((value) => value === 1), zod.custom((value) => value === 1)],
  ["literal", own.literal(true).default(true), zod.literal(true).default(true)],
  ["literal, a message", own.literal(2, "only 2"), zod.literal(2, "only 2")],
  ["literals", own.literal(["a", 0, null, "b"]), zod.literal(["a", 0, null, "b"])],
  ["array", own.array(own.int().min(0)).min(1).max(3), zod.array(zod.int().min(0)).min(1).max(3)],
  ["array, its length", own.array(own.number()).length(2), zod.array(zod.number()).length(2)],
  ["tuple", own.tuple([own.int(), own.boolean()]), zod.tuple([zod.int(), zod.boolean()])],
  [
    "union",
    own.union([own.int().min(2), own.tuple([own.int(), own.int()]), own.literal("a")]),
    zod.union([zod.int().min(2), zod.tuple([zod.int(), zod.int()]), zod.literal("a")]),
  ],
  ["transform", own.string().transform((text) => text.length), zod.string().transform((text) => text.length)],
  [
    "object",
    own.object({
      a: own.int().min(1),
      b: own.boolean().default(false),
      c: own.object({ a: own.literal("a") }).nullish(),
    }),
    zod.object({
      a: zod.int().min(1),
      b: zod.boolean().default(false),
      c: zod.object({ a: zod.literal("a") }).nullish(),
    }),
  ],
  [
    "strict object",
    own.strictObject({ a: own.int(), b: own.number().nullish() }),
    zod.strictObject({ a: zod.int(), b: zod.number().nullish() }),
  ],
  [
    "partial record",
    own.partialRecord(["a", "b"], own.object({ a: own.int().optional() })),
    zod.partialRecord(zod.enum(["a", "b"]), zod.object({ a: zod.int().optional() })),
  ],
];

const leaf = fc.oneof(
  fc.integer({ min: -6, max: 50 }),
  fc.constantFrom(
    0.5,
    Number.NaN,
    Number.POSITIVE_INFINITY,
    2 ** 60,
    -(2 ** 60),
    true,
    false,
    null,
    undefined,
    "a",
    "b",
  ),
);
/** What JSON and callers give, often near what the schemas want. */
const value = fc.letrec((tie) => ({
  any: fc.oneof({ maxDepth: 3, depthSize: "medium" }, leaf, tie("list"), tie("object")),
  list: fc.array(tie("any"), { maxLength: 4 }),
  object: fc.dictionary(fc.constantFrom("a", "b", "c", "d"), tie("any"), { maxKeys: 4, noNullPrototype: true }),
})).any;

/** zod also measures a text that is given for a list. */
const OF_TEXTS = /expected string to have/;

test.each(PAIRS)("%s: values, defaults and messages are zod's", (name, mine, theirs) => {
  const seen = { good: 0, bad: 0 };
  const same = (given: unknown): void => {
    const [read, expected] = [mine.safeParse(given), theirs.safeParse(given)];
    if (read.success) {
      seen.good++;
      expect({ data: read.data }).toStrictEqual({ data: expected.data });
      return;
    }
    seen.bad++;
    const issues = expected.error?.issues.filter(({ message }) => !OF_TEXTS.test(message));
    expect(read.issues.map(({ path, message }) => ({ path, message }))).toStrictEqual(
      issues?.map(({ path, message }) => ({ path, message })),
    );
  };
  for (const given of [undefined, null, 1, 2, 4, 0, -1, 3.5, 2 ** 60, "a", true, [], [1, 2], [1, true], {}, { a: 1 }])
    same(given);
  for (const given of [{ a: "x", b: 3, c: { a: "b" } }, { a: 1, d: 2, e: 3 }, [-1, "x"], { a: {}, b: { a: "x" } }])
    same(given);
  fc.assert(fc.property(value, same), { numRuns: 400 });
  expect(seen.good).toBeGreaterThan(0);
  if (name !== "unknown") expect(seen.bad).toBeGreaterThan(0);
});

test("a list that is too long is refused before its items are read", () => {
  const items = Array.from({ length: 1000 }, () => "x");
  const result = own.array(own.int()).max(4).safeParse(items);
  expect(result).toMatchObject({ success: false, issues: [{ message: "Too big: expected array to have <=4 items" }] });
});

test("values that a program gives are read or throw", () => {
  expect(own.object({ a: own.int().default(3) }).parse({})).toEqual({ a: 3 });
  expect(() => own.int().parse("x")).toThrow(TypeError);
});
