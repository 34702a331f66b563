import { test, expect } from "vitest";
import { automatonOf } from "../../src/generate/grammar/automaton.js";
import { Machine } from "../../src/generate/grammar/machine.js";
import { regexExpr } from "../../src/generate/grammar/regex.js";
import { gbnfGrammar } from "../../src/generate/grammar/gbnf.js";
import { schemaGrammar } from "../../src/generate/grammar/json-schema.js";
import * as z from "zod";
const enc = new TextEncoder();
const accepts = (m: Machine, text: string) => m.run(m.start, enc.encode(text))?.done === true;
const re = (s: string) => new Machine(automatonOf({ rules: [{ name: "root", body: regexExpr(s, "regex") }] }, "regex"));
test("regex", () => {
  const m = re("(a|b)*c{2,3}[^x]\\d+é?");
  expect(accepts(m, "abccz12é")).toBe(true);
  expect(accepts(m, "abcz12é")).toBe(false);
  expect(accepts(m, "ccc€1")).toBe(true);
  expect(accepts(m, "cccx1")).toBe(false);
});
test("gbnf", () => {
  const m = new Machine(automatonOf(gbnfGrammar(`root ::= expr # c
expr ::= term (("+" | "-") term)*
term ::= num | "(" expr ")"
num ::= [0-9]+`), "grammar"));
  expect(accepts(m, "1+(2-(3+4))")).toBe(true);
  expect(accepts(m, "1+(2-(3+4)")).toBe(false);
  expect(() => automatonOf(gbnfGrammar(`root ::= root "a" | "b"`), "grammar")).toThrow(/begins with itself/);
  const amb = new Machine(automatonOf(gbnfGrammar(`root ::= "a" root "b" | "a" root "c" | "" | [a] s
s ::= "a" s "b" | "a" s s "c" | "x"`), "grammar"));
  const t = performance.now();
  expect(accepts(amb, "a".repeat(200) + "bc".repeat(100))).toBe(true);
  console.log("ambiguous", performance.now() - t, (amb as any).states.length);
});
test("json", () => {
  const schema = z.object({ a: z.string(), b: z.number().int().min(3).max(250).optional(), c: z.array(z.boolean()).min(1).max(3), d: z.email().optional(), x: z.number().min(-2.5).max(0.75).optional() });
  const js = (schema as any)["~standard"].jsonSchema.input({ target: "draft-2020-12" });
  const t = performance.now();
  const m = new Machine(automatonOf(schemaGrammar(js), "json_schema"));
  console.log("compile", performance.now() - t, m.automaton.bytes.length, m.classes);
  expect(accepts(m, '{"a": "x\\n\\ud83d\\ude00", "c": [true]}')).toBe(true);
  expect(accepts(m, '{"a":"x","b":250,"c":[true,false]}')).toBe(true);
  expect(accepts(m, '{"a":"x","b":251,"c":[true,false]}')).toBe(false);
  expect(accepts(m, '{"a":"x","c":[true,false],"d":"a.b@c.de","x":-2.5}')).toBe(true);
  expect(accepts(m, '{"a":"x","c":[true,false],"d":"a.b@c.de","x":0.751}')).toBe(false);
  expect(accepts(m, '{"a":"x","c":[]}')).toBe(false);
  expect(accepts(m, '{"a":"\\ud83d","c":[true]}')).toBe(false);
  const v = new Machine(automatonOf(schemaGrammar({}), "json_schema"));
  expect(accepts(v, ' {"a":[1,{"b":null}],"c":-1.5e10}')).toBe(true);
  const r = new Machine(automatonOf(schemaGrammar({ $ref: "#/$defs/n", $defs: { n: { type: "object", properties: { v: { type: "integer" }, next: { anyOf: [{ $ref: "#/$defs/n" }, { type: "null" }] } }, required: ["v", "next"], additionalProperties: false } } }), "json_schema"));
  expect(accepts(r, '{"v":1,"next":{"v":2,"next":null}}')).toBe(true);
  expect(accepts(r, '{"v":1,"next":{"v":2}}')).toBe(false);
});
