// Configuration files: what is refused and where, and that no key reaches a prototype.

import { truncateSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test, vi } from "vitest";
import { NotFoundError } from "../../src/core/errors.js";
import { isJsonObject } from "../../src/sources/json.js";
import { FIXTURES, failure, put, readJsonFile, refusal, scratch } from "../support/source-tools.js";

const folder = scratch();
const file = join(folder, "config.json");
const read = (text: string | Uint8Array) =>
  readJsonFile(put(folder, "config.json", text), { what: "model configuration" });

const refused: [string, string | Uint8Array, RegExp][] = [
  ["empty", "", /end of the text/],
  ["a list", "[]", /hold an object, got a list/],
  ["null", "null", /got null/],
  ["a number", "1", /got a number/],
  ["bad UTF-8", Buffer.from('{"a":"\xff"}', "latin1"), /UTF-8 text at byte 6/],
  [
    "bad UTF-8 after a genuine U+FFFD",
    Buffer.concat([Buffer.from('{"\ufffd":"'), Buffer.from([0xc3]), Buffer.from('"}')]),
    /byte 8/,
  ],
  ["BOM", '\ufeff{"a":1}', /byte order mark.*\n.*without BOM/],
  ["UTF-16", Buffer.from('{"a":1}', "utf16le"), /a key in quotes/],
  ["NaN", '{"a":NaN}', /got NaN\n.*Python/],
  ["Infinity", '{"a":[0.0, Infinity]}', /got Infinity/],
  ["-Infinity", '{"a":-Infinity}', /got -Infinity/],
  ["1e400", '{"a":1e400}', /double.*got 1e400/],
  ["-1e400", '{"a":-1e400}', /double/],
  ["nested 10,000", `{"a":${"[".repeat(10_000)}${"]".repeat(10_000)}}`, /128 levels/],
  ["objects nested 10,000", `${'{"a":'.repeat(10_000)}1${"}".repeat(10_000)}`, /128 levels/],
  ["unclosed 100,000", "[".repeat(100_000), /128 levels/],
  ["a key twice", '{"a":1,"b":2,"a":3}', /"a" again/],
  ["__proto__ twice", '{"__proto__":1,"__proto__":3}', /"__proto__" again/],
  ["a comment", '{"a":1} // x', /nothing more/],
  ["trailing comma", '{"a":1,}', /a key in quotes/],
  ["01", '{"a":01}', /a JSON value/],
  ["1.", '{"a":1.}', /a JSON value/],
  [".5", '{"a":.5}', /a JSON value/],
  ["+1", '{"a":+1}', /a JSON value/],
  ["0x1", '{"a":0x1}', /a JSON value/],
  ["True", '{"a":True}', /got True/],
  ["None", '{"a":None}', /got None/],
  ["single quotes", "{'a':1}", /a key in quotes/],
  ["lone surrogate", '{"a":"\\ud800"}', /surrogates/],
  ["tab in a string", '{"a":"\t"}', /control character/],
  ["git-lfs pointer", "version https://git-lfs.github.com/spec/v1\n", /git-lfs.*\n.*git lfs pull/],
  ["HTML", "<!DOCTYPE html>", /HTML/],
  ["gzip", Buffer.from([0x1f, 0x8b, 8, 0]), /gzip/],
];

describe("refused, with file and offset", () => {
  test.each(refused)("%s", async (_, text, message) => {
    const error = await refusal(() => read(text), file);
    expect(error.message).toMatch(message);
    expect(error.details.offset).toBeTypeOf("number");
    expect(error.message.length).toBeLessThan(700);
  });

  test("too large, before it is read", async () => {
    put(folder, "config.json", "{}");
    truncateSync(file, 2 ** 40); // sparse: reading it would not end
    expect((await refusal(() => readJsonFile(file), file)).details.got).toBe(2 ** 40);
    put(folder, "config.json", `{}${" ".repeat(99)}`);
    await refusal(() => readJsonFile(file, { maxBytes: 100 }), file);
    expect(await readJsonFile(file, { maxBytes: 101 })).toEqual({});
  });

  test("missing, and a folder", async () => {
    const error = await failure(() => readJsonFile(join(folder, "none.json"), { what: "model configuration" }));
    expect(error).toBeInstanceOf(NotFoundError);
    expect(String(error)).toContain("no such model configuration");
    await refusal(() => readJsonFile(folder), folder);
  });
});

describe("read", () => {
  test("a config of the reference library", async () => {
    const config = await readJsonFile(join(FIXTURES, "models/llama/config.json"));
    expect(config.model_type).toBe("llama");
    expect(config.rms_norm_eps).toBe(1e-5);
    expect(config.rope_scaling).toBe(null);
    expect(config.architectures).toEqual(["LlamaForCausalLM"]);
  });

  test("every kind of value, exactly", async () => {
    const text =
      ' {"a":[1,-0,0.1,1e-7,-2.5E+3,1000000000000000019884624838656],"b":{"c":{}},"d":[],"e":"\\u00e9\\ud83d\\ude00\\n","f":true,"g":false} ';
    expect(JSON.stringify(await read(text))).toBe(JSON.stringify(JSON.parse(text)));
    expect(Object.is((await read('{"a":-0}')).a as number, -0)).toBe(true);
  });

  test("nesting up to 128 levels", async () => {
    const value = await read(`{"a":${"[".repeat(127)}${"]".repeat(127)}}`);
    expect(Array.isArray(value.a)).toBe(true);
    await refusal(() => read(`{"a":${"[".repeat(128)}${"]".repeat(128)}}`));
  });

  test("__proto__ and its like at three depths are keys, and objects have no prototype", async () => {
    const evil = '{"__proto__":{"polluted":1},"constructor":{"prototype":{"polluted":1}},"toString":1}';
    const value = await read(`{"a":{"b":${evil}},"c":[${evil}],"__proto__":${evil},"hasOwnProperty":1}`);
    expect(({} as Record<string, unknown>).polluted).toBeUndefined();
    expect(Object.getPrototypeOf(value)).toBe(null);
    expect(Object.keys(value)).toEqual(["a", "c", "__proto__", "hasOwnProperty"]);
    const inner = new Map(Object.entries(value)).get("__proto__");
    expect(isJsonObject(inner) && Object.keys(inner)).toEqual(["__proto__", "constructor", "toString"]);
    expect(isJsonObject(inner) && inner.polluted).toBeUndefined();
    expect((await read("{}")).toString).toBeUndefined();
  });
});

describe("what Python's json module reads, where it is asked for", () => {
  const python = (text: string) => readJsonFile(put(folder, "config.json", text), { python: true });

  test("NaN, infinities, and the last of repeated keys", async () => {
    expect({ ...(await python('{"a":NaN,"b":[0.0, Infinity],"c":-Infinity,"d":1e400}')) }).toEqual({
      a: Number.NaN,
      b: [0, Number.POSITIVE_INFINITY],
      c: Number.NEGATIVE_INFINITY,
      d: Number.POSITIVE_INFINITY,
    });
    expect({ ...(await python('{"a":1,"b":2,"a":3}')) }).toEqual({ a: 3, b: 2 });
    const twice = await python('{"__proto__":1,"__proto__":3}');
    expect(Object.getPrototypeOf(twice)).toBeNull();
    expect(Object.entries(twice)).toEqual([["__proto__", 3]]);
  });

  test("and nothing more", async () => {
    for (const text of ['{"a":nan}', '{"a":+Infinity}', '{"a":True}', "{'a':1}", '{"a":1,}', '{"a":Infinity1}']) {
      await refusal(() => python(text), file);
    }
  });
});

test("the text of a file is decoded only where it is asked for", async () => {
  const decode = vi.spyOn(TextDecoder.prototype, "decode");
  try {
    expect(await read('{"short":"text"}')).toEqual({ short: "text" });
    expect(decode).not.toHaveBeenCalled();
  } finally {
    decode.mockRestore();
  }
});
