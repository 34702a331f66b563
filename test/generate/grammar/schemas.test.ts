// JSON Schemas: every text of one is JSON that is valid by it, as a validator of its own says; what is not supported is refused.

import { expect, test } from "vitest";
import * as z from "zod";
import { OptionError } from "../../../src/core/errors.js";
import type { JsonSchema } from "../../../src/generate/grammar/json-schema.js";
import { jsonSchemaOf, parseOutput } from "../../../src/generate/grammar/standard-schema.js";
import { uniforms } from "../../support/random.js";
import { accepts, ofSchema, walk } from "./support.js";
import { valid } from "./validator.js";

type Schema = Readonly<Record<string, unknown>>;

/** A random schema, which has a value. */
function randomSchema(next: () => number, depth: number): Schema {
  const whole = (most: number): number => Math.floor(next() * (most + 1));
  const pick = <T>(of: readonly T[]): T => of[whole(of.length - 1)]!;
  const some = (): boolean => next() < 0.5;
  const inner = (): Schema => randomSchema(next, depth - 1);
  const bound = (): number => Number((next() * 400 - 200).toFixed(whole(3)));
  const leaves: readonly (() => Schema)[] = [
    () => ({
      type: "string",
      ...(some() ? { minLength: whole(3) } : {}),
      ...(some() ? { maxLength: 3 + whole(5) } : {}),
    }),
    () => ({
      type: "string",
      pattern: pick(["^a+b?$", "\\d{3}", "x|^y", '^["\\\\\\n]{1,4}$', "[^é]$"]),
      maxLength: 12,
    }),
    () => ({
      type: "string",
      format: pick(["date", "time", "date-time", "email", "ipv4", "ipv6", "uuid", "hostname", "duration", "uri"]),
    }),
    () => {
      const low = bound();
      return {
        type: pick(["number", "integer"]),
        [pick(["minimum", "exclusiveMinimum"])]: low,
        maximum: low + 2 + whole(90),
      };
    },
    () => ({ type: "integer", multipleOf: 1 + whole(20), ...(some() ? { minimum: -50 } : {}) }),
    () => ({ type: "number", exclusiveMaximum: bound() }),
    () => ({ type: pick(["number", "integer", "boolean", "null"]) }),
    () => ({ enum: [null, "a\n", 3, { k: [1] }, -0.5, "é😀"].slice(whole(4)) }),
    () => ({ const: pick<unknown>(["x", 0, false, [1, "2"]]) }),
    () => ({ type: ["string", "null", "integer"], maxLength: 4, minimum: 3 }),
  ];
  if (depth === 0) return pick(leaves)();
  const composed: readonly (() => Schema)[] = [
    () => {
      const names = ["a", "b", 'q"', "é", "long name"].slice(0, whole(5));
      return {
        type: "object",
        properties: Object.fromEntries(names.map((name) => [name, inner()])),
        required: names.filter(some),
        ...(some() ? { additionalProperties: pick<unknown>([false, true, inner()]) } : {}),
      };
    },
    () => ({
      type: "array",
      items: inner(),
      ...(some() ? { minItems: whole(2) } : {}),
      ...(some() ? { maxItems: 2 + whole(2) } : {}),
    }),
    () => ({
      type: "array",
      prefixItems: [inner(), inner()],
      items: pick<unknown>([false, inner()]),
      minItems: whole(3) < 3 ? 2 : 1,
    }),
    () => ({ anyOf: [inner(), inner(), { type: "null" }] }),
    () => ({ type: "object", additionalProperties: inner(), propertyNames: { pattern: "^[a-c]{1,3}$" } }),
  ];
  return pick(composed)();
}

test("texts of random schemas are valid", () => {
  const next = uniforms(2);
  for (let n = 0; n < 30; n++) {
    const schema = randomSchema(next, n % 3);
    const machine = ofSchema(schema);
    for (let m = 0; m < 3; m++) {
      const text = walk(machine, next, 8 + m * 16);
      expect(valid(schema, JSON.parse(text)), `${JSON.stringify(schema)}\n${text}`).toBe(true);
    }
  }
});

test("valid texts are in the grammar, others are not", () => {
  const person = {
    type: "object",
    properties: {
      name: { type: "string" },
      age: { type: "integer", minimum: 0, maximum: 150 },
      friends: { type: "array", items: { $ref: "#" }, maxItems: 2 },
    },
    required: ["name"],
    additionalProperties: false,
  };
  const cases: readonly (readonly [JsonSchema, readonly string[], readonly string[]])[] = [
    [
      person,
      [
        '{"name":"é\\u00e9\\ud83d\\ude00\\n"}',
        '{"name": "a", "friends": [{"name":"b","age":150}]}',
        '{\n  "name": "a"\n}',
      ],
      [
        "{}",
        '{"age":1,"name":"a"}',
        '{"name":"a","age":151}',
        '{"name":"a",}',
        '{"name":"\n"}',
        '{"name":"\\ud83d"}',
        '{"name":"a"} ',
      ],
    ],
    [{ type: "number" }, ["0", "-1.5e10", "-0", "1E-9"], ["01", "1.", ".5", "1e", "+1", "1e400", "NaN"]],
    [
      { type: "number", minimum: -1.5, exclusiveMaximum: 20.25 },
      ["-1.5", "20.2499", "0.0", "9", "-0.7"],
      ["-1.51", "20.25", "21", "1e1"],
    ],
    [
      { type: "integer", exclusiveMinimum: -10, maximum: 105 },
      ["-9", "105", "0", "99"],
      ["-10", "106", "1.0", "-0", "1e1"],
    ],
    [{ type: "integer", multipleOf: 7, minimum: 1 }, ["7", "700"], ["0", "8", "-7"]],
    [{ minimum: 1e-7, maximum: 1e21, type: "number" }, ["0.0000001", "1", "999999999999999"], ["0.00000001", "0"]],
    [
      { type: "string", minLength: 2, maxLength: 3 },
      ['"éé"', '"😀😀😀"', '"\\ud83d\\ude00a"', '"\\n\\\\"'],
      ['"a"', '"aaaa"'],
    ],
    [{ const: { b: [1, "x"], a: null } }, ['{"b":[1,"x"],"a":null}'], ['{"a":null,"b":[1,"x"]}']],
    [{ enum: ["a", 1, "b"], type: "string" }, ['"a"', '"b"'], ["1"]],
    [{ type: "array", prefixItems: [{ const: 1 }, { const: 2 }] }, ["[1,2]", "[1, 2]"], ["[1]", "[1,2,3]"]],
    [
      { type: "object", properties: { a: { const: 1 } }, additionalProperties: { const: 2 } },
      ['{"a":1,"b":2}', '{"aa":2}'],
      ['{"a":2}', '{"b":1}', '{"b":2,"a":1}'],
    ],
    [
      { oneOf: [{ type: "string" }, { type: "object", properties: {}, additionalProperties: false }] },
      ['"a"', "{}"],
      ['{"a":1}', "1"],
    ],
    [
      {
        type: "object",
        propertyNames: { $ref: "#/$defs/any" },
        $defs: { any: { type: ["string", "null", "integer"] } },
      },
      ['{"a":1}'],
      ["{null:1}", "{2:1}"],
    ],
    [
      { type: "array", items: { type: "null", anyOf: [{ $ref: "#/$defs/any" }] }, $defs: { any: {} } },
      ["[null]"],
      ['["a"]', "[[]]"],
    ],
    [true, ['{"a":[null,{"b":""}]}', '""'], ['{"a"}', "tru"]],
    [{ type: "string", format: "date" }, ['"2024-02-28"'], ['"2023-02-29"', '"2023-13-01"', '"2023-04-31"']],
  ];
  for (const [schema, good, bad] of cases) {
    const machine = ofSchema(schema);
    expect(
      good.filter((text) => !accepts(machine, text)),
      JSON.stringify(schema),
    ).toEqual([]);
    expect(
      bad.filter((text) => accepts(machine, text)),
      JSON.stringify(schema),
    ).toEqual([]);
  }
});

test.each([
  [{ type: "object", properties: { a: { type: "string", contains: 1 } } }, "contains", "#/properties/a/contains"],
  [{ type: "array", items: { uniqueItems: true } }, "uniqueItems", "#/items/uniqueItems"],
  [{ not: { type: "null" } }, "not", "#/not"],
  [{ if: true }, "if", "#/if"],
  [{ type: "object", patternProperties: {} }, "patternProperties", "#/patternProperties"],
  [{ anyOf: [{ type: "string" }], minLength: 2 }, "minLength", "#/minLength"],
  [{ allOf: [true, true] }, "allOf", "#/allOf"],
  [{ oneOf: [{ type: "number" }, { type: "integer" }] }, "oneOf", "#/oneOf"],
  [{ $ref: "http://x/y" }, "$ref", "#/$ref"],
  [{ $ref: "#/$defs/none" }, "$ref", "#/$ref"],
  [{ type: "string", format: "isbn" }, "format", "#/format"],
  [{ type: "string", pattern: "(?=a)" }, "pattern", "#/pattern"],
  [{ type: "number", multipleOf: 0.1 }, "multipleOf", "#/multipleOf"],
  [{ type: "text" }, "type", "#/type"],
  [{ type: "integer", minimum: 1.6e15 }, "minimum", "#/minimum"],
  [{ type: "number", exclusiveMaximum: -1e15 }, "exclusiveMaximum", "#/exclusiveMaximum"],
  [{ type: "string", maxLength: -1 }, "maxLength", "#/maxLength"],
  [{ type: "object", minProperties: 1 }, "minProperties", "#/minProperties"],
  [{ type: "object", properties: { "a/b": { nullable: true } } }, "nullable", "#/properties/a~1b/nullable"],
] as const)("%j is refused by its keyword", (schema, keyword, path) => {
  let error: unknown;
  try {
    ofSchema(schema as JsonSchema);
  } catch (caught) {
    error = caught;
  }
  expect(error).toBeInstanceOf(OptionError);
  expect((error as OptionError).details).toMatchObject({ option: "json_schema", keyword, path });
});

test("schemas without a value, in a circle, or too deep", () => {
  const node = { type: "object", properties: { next: { $ref: "#" } }, required: ["next"] };
  for (const schema of [
    false,
    node,
    { enum: [] },
    { type: "string", minLength: 3, maxLength: 2 },
    { const: 1, type: "string" },
  ]) {
    expect(ofSchema(schema as JsonSchema).automaton.possible, JSON.stringify(schema)).toBe(false);
  }
  let deep: JsonSchema = { type: "string" };
  for (let n = 0; n < 90; n++) deep = { type: "array", items: deep };
  expect(accepts(ofSchema(deep), `${"[".repeat(90)}"x"${"]".repeat(90)}`)).toBe(true);
  for (let n = 0; n < 90; n++) deep = { type: "array", items: deep };
  expect(() => ofSchema(deep)).toThrow(/schemas inside each other/);
});

test("a validator's schema, and the value with its type", async () => {
  const schema = z.object({
    mail: z.email(),
    when: z.iso.datetime(),
    kind: z.discriminatedUnion("t", [
      z.object({ t: z.literal("a") }),
      z.object({ t: z.literal("b"), n: z.int().min(3) }),
    ]),
    pair: z.tuple([z.string(), z.number()]),
    extra: z.record(z.string(), z.boolean()).optional(),
    size: z
      .string()
      .max(3)
      .transform((text) => text.length)
      .nullable(),
  });
  const machine = ofSchema(jsonSchemaOf(schema));
  const next = uniforms(4);
  for (let n = 0; n < 15; n++) {
    const value = await parseOutput(schema, walk(machine, next, 30 + 10 * n));
    expect(value).not.toBeNull();
    const size: number | null = value!.size; // the validator's own type, after its transform
    expect(size === null || size <= 3).toBe(true);
  }
  expect(await parseOutput(schema, '{"mail":"a')).toBeNull();
  expect(
    await parseOutput(
      z.string().refine((text) => text === "x"),
      '"y"',
    ),
  ).toBeNull();
  expect(await parseOutput({ type: "string" }, '"y"')).toBe("y");
  const bare = { "~standard": { version: 1, vendor: "v", validate: (value: unknown) => ({ value }) } } as const;
  expect(() => jsonSchemaOf(bare)).toThrow(/v does not give its JSON Schema/);
  const circle: Record<string, unknown> = {};
  circle.self = circle;
  for (const odd of [circle, () => {}, 5, null, undefined]) expect(() => jsonSchemaOf(odd)).toThrow(OptionError);
});
