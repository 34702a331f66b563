// Every verdict on a malformed or odd safetensors file: refused with a typed error that names the place, or loaded.

import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { describe, expect, test } from "vitest";
import { MAX_TENSORS, parseSafetensorsHeader } from "../../src/checkpoints/safetensors.js";
import { NotFoundError } from "../../src/core/errors.js";
import {
  entry,
  FIXTURES,
  failure,
  fileOf,
  put,
  readSafetensorsHeader,
  refusal,
  scratch,
} from "../support/source-tools.js";

const folder = scratch();
const F32 = entry('"F32"', "[1]", "[0,4]");
const LLAMA = join(FIXTURES, "models/llama/model.safetensors");

/** Reads bytes as a file named x. */
function read(bytes: Uint8Array) {
  return readSafetensorsHeader(put(folder, "x", bytes));
}

const refused: [what: string, bytes: Uint8Array, message?: RegExp][] = [
  ["0 bytes", Buffer.alloc(0), /empty file/],
  ["7 bytes", Buffer.alloc(7), /at least 8 bytes/],
  ["8 zero bytes: a header of 0 bytes", Buffer.alloc(8)],
  ["n = 0 with data", fileOf("", 4)],
  ["n > file", fileOf("{}", 0, 3n), /at most 2 bytes/],
  ["n = 1e8+1", fileOf("{}", 0, 100_000_001n)],
  ["n = 2^63", fileOf("{}", 0, 2n ** 63n), /9223372036854775808/],
  ["n = 2^64-1", fileOf("{}", 0, 2n ** 64n - 1n), /18446744073709551615/],
  ["n = 2^64-8 (wraps with 8 added)", fileOf("{}", 0, 2n ** 64n - 8n)],
  ["n = 2^53+1", fileOf("{}", 0, 2n ** 53n + 1n), /9007199254740993/],
  ["zip", Buffer.concat([Buffer.from("PK\x03\x04"), Buffer.alloc(100)]), /zip archive.*torch/],
  ["pickle", Buffer.from("80028a0a6cfc9c46f920", "hex"), /pickle/],
  ["GGUF", Buffer.from("GGUF\x03\0\0\0\0\0\0\0\0\0\0\0"), /GGUF/],
  ["HTML", Buffer.from("<!DOCTYPE html><html><body>404</body></html>"), /HTML/],
  ["git-lfs pointer", Buffer.from("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"), /git-lfs/],
  ["gzip", gzipSync(Buffer.alloc(600_000, "octavo")), /gzip/],
  ["gzip whose length would fit", Buffer.concat([gzipSync("x"), Buffer.alloc(600_000)]), /gzip/],
  ["numpy", Buffer.from("\x93NUMPY\x01\0v\0{'descr': '<f4'}", "latin1"), /numpy/],
  ["bad UTF-8", fileOf(Buffer.from('{"a\xff":1}', "latin1")), /UTF-8.*byte 11/],
  ["overlong UTF-8", fileOf(Buffer.from('{"\xc0\xaf":1}', "latin1")), /UTF-8/],
  ["raw surrogate bytes", fileOf(Buffer.from('{"\xed\xa0\x80":1}', "latin1")), /UTF-8/],
  ["cut UTF-8 at the end", fileOf(Buffer.from('{}"\xe2\x82', "latin1")), /UTF-8/],
  ["BOM", fileOf("\ufeff{}"), /byte order mark/],
  ["[]", fileOf("[]")],
  ["null", fileOf("null")],
  ["1", fileOf("1")],
  ["NaN", fileOf("NaN")],
  ["spaces only", fileOf("        ")],
  ["trailing NUL", fileOf("{}\0")],
  ["trailing garbage", fileOf("{}x")],
  ["two objects", fileOf("{}{}")],
  ["trailing comma", fileOf(`{"a":${F32},}`, 4)],
  ["leading comma", fileOf(`{,"a":${F32}}`, 4)],
  ["no comma", fileOf(`{"a":${F32}"b":${entry('"F32"', "[1]", "[4,8]")}}`, 8)],
  ["comment", fileOf(`{/**/"a":${F32}}`, 4)],
  ["single quotes", fileOf(`{'a':${F32}}`, 4)],
  ["control character in a name", fileOf(`{"a\n":${F32}}`, 4), /control character/],
  ["control character after an escape", fileOf(`{"\\n\x01":${F32}}`, 4), /control character/],
  ["unknown escape", fileOf(`{"\\x41":${F32}}`, 4), /escape/],
  ["short \\u escape", fileOf(`{"\\u00g0":${F32}}`, 4), /hex digits/],
  ["lone high surrogate", fileOf(`{"\\ud800":${F32}}`, 4), /surrogates/],
  ["lone low surrogate", fileOf(`{"\\udc00":${F32}}`, 4), /surrogates/],
  ["high surrogate and a letter", fileOf(`{"\\ud800\\u0041":${F32}}`, 4), /surrogates/],
  ["unclosed name", fileOf('{"abc'), /closing/],
  ["nesting 200", fileOf(`{"a":${"[".repeat(200)}${"]".repeat(200)}}`)],
  ["a million open brackets", fileOf("[".repeat(1_000_000))],
  ["metadata nested 200", fileOf(`{"__metadata__":{"a":${'{"a":'.repeat(200)}1${"}".repeat(200)}}}`)],
  ["shape null", fileOf(`{"a":${entry('"F32"', "null", "[0,4]")}}`, 4)],
  ["shape string", fileOf(`{"a":${entry('"F32"', '"2"', "[0,8]")}}`, 8)],
  ["shape number", fileOf(`{"a":${entry('"F32"', "1", "[0,4]")}}`, 4)],
  ["shape with a trailing comma", fileOf(`{"a":${entry('"F32"', "[1,]", "[0,4]")}}`, 4)],
  ["shape with a string", fileOf(`{"a":${entry('"F32"', '["1"]', "[0,4]")}}`, 4)],
  ["nested shape", fileOf(`{"a":${entry('"F32"', "[[1]]", "[0,4]")}}`, 4)],
  ["rank 65", fileOf(`{"a":${entry('"F32"', `[${Array(65).fill(1)}]`, "[0,4]")}}`, 4), /64 dimensions/],
  ["product overflow", fileOf(`{"a":${entry('"F32"', "[4294967296,4294967296,2]", "[0,4]")}}`, 4), /2\^64/],
  ["overflow hidden by a zero", fileOf(`{"a":${entry('"F32"', "[9007199254740991,9007199254740991,0]", "[0,0]")}}`)],
  ["product that wraps to 4 bytes", fileOf(`{"a":${entry('"F32"', "[4294967297,4294967297]", "[0,4]")}}`, 4)],
  ["offsets reversed", fileOf(`{"a":${entry('"F32"', "[1]", "[4,0]")}}`, 4), /ascending/],
  ["offsets empty", fileOf(`{"a":${entry('"F32"', "[1]", "[]")}}`, 4)],
  ["one offset", fileOf(`{"a":${entry('"F32"', "[1]", "[4]")}}`, 4)],
  ["three offsets", fileOf(`{"a":${entry('"F32"', "[1]", "[0,4,8]")}}`, 4), /exactly two/],
  ["offsets object", fileOf(`{"a":${entry('"F32"', "[1]", '{"0":0}')}}`, 4)],
  ["overlap", fileOf(`{"a":${F32},"b":${entry('"F32"', "[1]", "[2,6]")}}`, 6), /overlap/],
  ["the same bytes twice", fileOf(`{"a":${F32},"b":${F32}}`, 4), /overlap/],
  ["hole", fileOf(`{"a":${F32},"b":${entry('"F32"', "[1]", "[8,12]")}}`, 12), /hole/],
  ["hole at the start", fileOf(`{"a":${entry('"F32"', "[1]", "[4,8]")}}`, 8), /hole/],
  ["past the end", fileOf(`{"a":${entry('"F32"', "[2]", "[0,8]")}}`, 4), /cut short/],
  ["one data byte too many", fileOf(`{"a":${F32}}`, 5), /follow the last tensor/],
  ["one data byte too few", fileOf(`{"a":${F32}}`, 3), /cut short/],
  ["data without tensors", fileOf("{}", 1)],
  ["size not of the shape", fileOf(`{"a":${entry('"F32"', "[2]", "[0,4]")}}`, 4), /F32 \[2\] takes 8 bytes/],
  ["dtype I33", fileOf(`{"a":${entry('"I33"', "[1]", "[0,4]")}}`, 4), /dtype.*I33/],
  ["dtype i32", fileOf(`{"a":${entry('"i32"', "[1]", "[0,4]")}}`, 4)],
  ["dtype toString", fileOf(`{"a":${entry('"toString"', "[1]", "[0,4]")}}`, 4)],
  ["dtype null", fileOf(`{"a":${entry("null", "[1]", "[0,4]")}}`, 4)],
  ["F4 with an odd count", fileOf(`{"a":${entry('"F4"', "[3]", "[0,2]")}}`, 2), /whole number of bytes/],
  ["F6 with 3 elements", fileOf(`{"a":${entry('"F6_E2M3"', "[3]", "[0,3]")}}`, 3), /whole number of bytes/],
  ["no dtype", fileOf('{"a":{"shape":[1],"data_offsets":[0,4]}}', 4), /no dtype/],
  ["no shape", fileOf('{"a":{"dtype":"F32","data_offsets":[0,4]}}', 4), /no shape/],
  ["no offsets", fileOf('{"a":{"dtype":"F32","shape":[1]}}', 4), /no data_offsets/],
  ["empty entry", fileOf('{"a":{}}'), /no dtype/],
  ["entry null", fileOf('{"a":null}')],
  ["entry as a list", fileOf('{"a":["F32",[1],[0,4]]}', 4)],
  ["dtype twice", fileOf(`{"a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}}`, 4), /once/],
  ["shape twice", fileOf(`{"a":{"shape":[1],"dtype":"F32","shape":[1],"data_offsets":[0,4]}}`, 4), /once/],
  ["offsets twice", fileOf(`{"a":{"data_offsets":[0,4],"data_offsets":[0,4],"dtype":"F32","shape":[1]}}`, 4), /once/],
  ["tensor twice", fileOf(`{"a":${F32},"a":${entry('"F32"', "[1]", "[4,8]")}}`, 8), /"a" again/],
  ["tensor twice, once escaped", fileOf(`{"a":${F32},"\\u0061":${entry('"F32"', "[1]", "[4,8]")}}`, 8), /"a" again/],
  ["metadata nil", fileOf('{"__metadata__":nil}')],
  ["metadata null, and again", fileOf('{"__metadata__":null,"__metadata__":{}}'), /again/],
  ["further field nested 200", fileOf(`{"a":{"x":${"[".repeat(200)}${"]".repeat(200)}}}`), /128 levels/],
  ["further field broken", fileOf(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"x":}}`, 4)],
  ["more than a million escapes", fileOf(`{"${"\\n".repeat(1_000_001)}":${F32}}`, 4), /fewer escapes/],
  ["metadata list", fileOf('{"__metadata__":[]}')],
  ["metadata number", fileOf('{"__metadata__":{"a":1}}'), /__metadata__/],
  ["metadata nested", fileOf('{"__metadata__":{"a":{}}}')],
  ["metadata value null", fileOf('{"__metadata__":{"a":null}}')],
  ["metadata twice", fileOf('{"__metadata__":{},"__metadata__":{}}'), /again/],
  ["metadata key twice", fileOf('{"__metadata__":{"a":"1","a":"1"}}'), /again/],
];

describe("refused, with the file and the place", () => {
  test.each(refused)("%s", async (_, bytes, message) => {
    const error = await refusal(() => read(bytes), join(folder, "x"));
    expect(error.details.offset ?? error.details.key).toBeDefined();
    expect(error.details).toHaveProperty("expected");
    expect(error.details).toHaveProperty("got");
    if (message) expect(error.message).toMatch(message);
    expect(error.message.length).toBeLessThan(700);
  });

  test("the offset is that of the culprit in the file", async () => {
    const header = `{"a":${entry('"F32"', "[-2]", "[0,4]")}}`;
    const error = await refusal(() => read(fileOf(header, 4)));
    expect(error.details).toMatchObject({ offset: 8 + header.indexOf("-2"), key: "a", got: "-2" });
  });

  test("a missing file and a folder", async () => {
    expect(await failure(() => readSafetensorsHeader(join(folder, "none")))).toBeInstanceOf(NotFoundError);
    expect(await failure(() => readSafetensorsHeader(join(folder, "x", "y")))).toBeInstanceOf(NotFoundError);
    await refusal(() => readSafetensorsHeader(folder), folder);
  });

  test.skipIf(process.platform === "win32")("a device (Windows has no such paths)", async () => {
    await refusal(() => readSafetensorsHeader("/dev/zero"), "/dev/zero");
  });
});

describe("loaded", () => {
  const ok: [what: string, header: string, data: number, tensors: Record<string, number[]>][] = [
    ["no tensors", "{}", 0, {}],
    ["white space before", ` \t\r\n{"a":${F32}}`, 4, { a: [1] }],
    [
      "white space everywhere",
      ' { "a" : { "dtype" : "F32" , "shape" : [ 1 ] , "data_offsets" : [ 0 , 4 ] } } ',
      4,
      { a: [1] },
    ],
    ["spaces after", `{"a":${F32}}   `, 4, { a: [1] }],
    ["fields in another order", '{"a":{"data_offsets":[0,4],"shape":[1],"dtype":"F32"}}', 4, { a: [1] }],
    ["rank 0", `{"a":${entry('"F32"', "[]", "[0,4]")}}`, 4, { a: [] }],
    ["rank 64", `{"a":${entry('"F32"', `[${Array(64).fill(1)}]`, "[0,4]")}}`, 4, { a: Array(64).fill(1) }],
    ["a zero dimension", `{"a":${entry('"F32"', "[3,0]", "[0,0]")}}`, 0, { a: [3, 0] }],
    [
      "a zero before huge ones",
      `{"a":${entry('"F32"', "[0,9007199254740991,9007199254740991]", "[0,0]")}}`,
      0,
      {
        a: [0, Number.MAX_SAFE_INTEGER, Number.MAX_SAFE_INTEGER],
      },
    ],
    [
      "empty tensors between",
      `{"b":${entry('"U8"', "[0]", "[4,4]")},"a":${F32},"c":${entry('"U8"', "[1]", "[4,5]")}}`,
      5,
      {
        a: [1],
        b: [0],
        c: [1],
      },
    ],
    ["not in the order of the data", `{"b":${entry('"F32"', "[1]", "[4,8]")},"a":${F32}}`, 8, { a: [1], b: [1] }],
    ["C64", `{"a":${entry('"C64"', "[2]", "[0,16]")}}`, 16, { a: [2] }],
    ["F4", `{"a":${entry('"F4"', "[2,3]", "[0,3]")}}`, 3, { a: [2, 3] }],
    ["F6", `{"a":${entry('"F6_E3M2"', "[4]", "[0,3]")}}`, 3, { a: [4] }],
    ["F8", `{"a":${entry('"F8_E4M3FNUZ"', "[4]", "[0,4]")}}`, 4, { a: [4] }],
    [
      "unaligned",
      `{"a":${entry('"U8"', "[1]", "[0,1]")},"b":${entry('"F32"', "[1]", "[1,5]")}}`,
      5,
      { a: [1], b: [1] },
    ],
    ["an empty name", `{"":${F32}}`, 4, { "": [1] }],
    ["a path as name", `{"../../x":${F32}}`, 4, { "../../x": [1] }],
    ["NUL in a name", `{"a\\u0000b":${F32}}`, 4, { "a\0b": [1] }],
    [
      "a name with all escapes",
      `{"\\"\\\\\\/\\b\\f\\n\\r\\t\\u00e9\\ud83d\\ude00ü😀":${F32}}`,
      4,
      {
        '"\\/\b\f\n\r\té😀ü😀': [1],
      },
    ],
    ["empty metadata", '{"__metadata__":{}}', 0, {}],
    ["metadata null", `{"__metadata__":null,"a":${F32}}`, 4, { a: [1] }],
    [
      "further fields",
      '{"a":{"device":"cpu","dtype":"F32","x":[{"y":[null,1.5]}],"shape":[1],"data_offsets":[0,4],"__proto__":1}}',
      4,
      { a: [1] },
    ],
  ];
  test.each(ok)("%s", async (_, header, data, expected) => {
    const { tensors } = await read(fileOf(header, data));
    expect(Object.fromEntries([...tensors].map(([name, info]) => [name, info.shape]))).toEqual(expected);
    const infos = [...tensors.values()];
    expect(infos.map((info) => info.offset)).toEqual(infos.map((info) => info.offset).sort((a, b) => a - b));
    expect(infos.reduce((sum, info) => sum + info.bytes, 0)).toBe(data);
  });

  test("names of prototype members are names like others and change no prototype", async () => {
    const before = Object.getOwnPropertyNames(Object.prototype).sort();
    const names = ["__proto__", "constructor", "prototype", "toString", "hasOwnProperty", "__defineGetter__"];
    const header = names.map((name, i) => `"${name}":${entry('"U8"', "[1]", `[${i},${i + 1}]`)}`).join(",");
    const text = `{"__metadata__":{${names.map((name) => `"${name}":"v"`).join(",")}},${header}}`;
    const { tensors, metadata } = await read(fileOf(text, names.length));
    expect([...tensors.keys()]).toEqual(names);
    expect([...metadata]).toEqual(names.map((name) => [name, "v"]));
    expect(Object.getOwnPropertyNames(Object.prototype).sort()).toEqual(before);
    expect(Object.getPrototypeOf({})).toBe(Object.prototype);
  });

  test("a file of the reference library", async () => {
    const { tensors, metadata } = await readSafetensorsHeader(LLAMA);
    const bytes = readFileSync(LLAMA);
    const length = Number(bytes.readBigUInt64LE());
    const json = JSON.parse(bytes.toString("utf8", 8, 8 + length));
    expect(Object.fromEntries(metadata)).toEqual(json.__metadata__);
    expect(tensors.size).toBe(21);
    for (const [name, info] of tensors) {
      const { dtype, shape, data_offsets } = json[name];
      const [begin, end] = data_offsets;
      expect(info).toEqual({ name, dtype, shape, file: LLAMA, offset: 8 + length + begin, bytes: end - begin });
    }
  });
});

describe("numbers at the borders, in every numeric field", () => {
  // Written as text: what JSON.parse would make of them is the trap.
  const never = [
    "-0",
    "-1",
    "1.0",
    "4e0",
    "1E2",
    "01",
    "00",
    "+1",
    "0x1",
    "1e400",
    ".5",
    "1_0",
    "NaN",
    "Infinity",
    '"1"',
    "null",
    "true",
    "",
  ];
  const tooLarge = [
    "9007199254740992",
    "9007199254740993",
    "9223372036854775807",
    "9223372036854775808",
    "9223372036854775809",
    "18446744073709551615",
    "18446744073709551616",
    "1" + "0".repeat(400),
  ];
  const legal = ["2147483647", "2147483648", "2147483649", "4294967295", "4294967296", "9007199254740991"];
  const fields: [string, (number: string) => string][] = [
    ["shape", (n) => entry('"F32"', `[0,${n}]`, "[0,0]")],
    ["begin", (n) => entry('"F32"', "[1]", `[${n},4]`)],
    ["end", (n) => entry('"F32"', "[1]", `[0,${n}]`)],
  ];
  for (const [field, text] of fields) {
    test.each([...never, ...tooLarge])(`${field} %s is not a whole number in range`, async (number) => {
      const error = await refusal(() => read(fileOf(`{"a":${text(number)}}`, 4)));
      expect(error.message).toContain("expected a whole number from 0 to 2^53-1");
    });
  }
  test.each(["0", "1", ...legal])("dimension %s is read exactly", async (number) => {
    const { tensors } = await read(fileOf(`{"a":${fields[0]![1](number)}}`));
    expect(tensors.get("a")!.shape).toEqual([0, Number(number)]);
  });
  test.each(legal)("offset %s is refused for what it says, not for how it is written", async (number) => {
    const late = await refusal(() => read(fileOf(`{"a":${fields[2]![1](number)}}`, 4)));
    expect(late.message).toContain(`got ${number} bytes`);
    const early = await refusal(() => read(fileOf(`{"a":${fields[1]![1](number)}}`, 4)));
    expect(early.message).toContain(`got [${number}, 4]`);
  });
});

describe("sizes", () => {
  test("a header past the cap is refused before it is read", async () => {
    const { open, truncate } = await import("node:fs/promises");
    const file = put(folder, "large", fileOf("{}", 0, 100_000_001n));
    await truncate(file, 200_000_000); // sparse
    const before = process.memoryUsage().arrayBuffers;
    const error = await refusal(() => readSafetensorsHeader(file), file);
    expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(1e6);
    expect(error.message).toContain("100000000");
    await (await open(file, "w")).close();
  });

  // It takes 0.2 s; with work that grows with the square, hours.
  test("a header of 100,000 tensors is read", () => {
    const parts = Array.from({ length: 100_000 }, (_, i) => {
      return `"model.layers.${i}.mlp.down_proj.weight":${entry('"F32"', "[1,1]", `[${i * 4},${i * 4 + 4}]`)}`;
    });
    const header = Buffer.from(`{${parts.join(",")}}`);
    const { tensors } = parseSafetensorsHeader(header, header.length + 8 + 400_000, "x");
    expect(tensors.size).toBe(100_000);
  });

  test("one tensor more than the cap is refused", async () => {
    const one = `":${entry('"U8"', "[0]", "[0,0]")}`;
    const parts = Array.from({ length: MAX_TENSORS + 1 }, (_, i) => `"${i}${one}`);
    const header = Buffer.from(`{${parts.join(",")}}`);
    const error = await refusal(() => parseSafetensorsHeader(header, header.length + 8, "x"), "x");
    expect(error.message).toContain("at most 1000000 tensors");
  });
});

describe("cut files", () => {
  test("cut at every byte, a file is refused", async () => {
    const bytes = readFileSync(
      join(FIXTURES, "checkpoints/llama/safetensors-sharded/model-00003-of-00003.safetensors"),
    );
    const file = join(folder, "cut");
    for (let cut = 0; cut < bytes.length; cut++) {
      writeFileSync(file, bytes.subarray(0, cut));
      await refusal(() => readSafetensorsHeader(file), file);
    }
    writeFileSync(file, bytes);
    expect((await readSafetensorsHeader(file)).tensors.size).toBe(1);
  });

  test("cut in its data, a file is refused with the size that it should have", async () => {
    const bytes = readFileSync(LLAMA);
    const data = 8 + Number(bytes.readBigUInt64LE());
    const file = join(folder, "cut");
    for (let i = 0; i < 50; i++) {
      const cut = i === 49 ? bytes.length - 1 : data + Math.floor(((bytes.length - data) * i) / 50);
      writeFileSync(file, bytes.subarray(0, cut));
      const { details } = await refusal(() => readSafetensorsHeader(file), file);
      expect(details).toMatchObject({ expected: bytes.length, got: cut });
    }
  });

  test("a header cut at every byte is refused although its length says so", async () => {
    const bytes = readFileSync(LLAMA);
    const data = 8 + Number(bytes.readBigUInt64LE());
    // Padding may be cut without harm to the text, but then the data no longer ends where the file does.
    for (let cut = 8; cut < data; cut++) {
      await refusal(() => parseSafetensorsHeader(bytes.subarray(8, cut), bytes.length, "x"), "x");
    }
  });
});
