// The text of an index, read name by name: what is the same as in other JSON files, and where it is refused.

import { expect, test } from "vitest";
import { parseIndex } from "../../src/checkpoints/index-file.js";
import { FormatError } from "../../src/core/errors.js";
import { brokenUtf8 } from "../../src/sources/json-text.js";

const parse = (text: string) => parseIndex(new TextEncoder().encode(text), "index.json", ".safetensors");

test("names are read whatever their spelling", () => {
  const { shards, names, totalSize } = parse(
    ` { "other": [1, {"a": null}], "weight_map" : {"a":"x.safetensors", "b" : "x\\u002esafetensors","\\u0063":"x.safetensors",
      "d":"é/y.safetensors","e":"é/y.safetensors","f":"x.safetensors","__proto__":"x.safetensors"},"metadata":{"total_size":8.5}} `,
  );
  expect([...shards]).toEqual([
    ["x.safetensors", ["a", "b", "c", "f", "__proto__"]],
    ["é/y.safetensors", ["d", "e"]],
  ]);
  expect([...names]).toEqual(["a", "b", "c", "d", "e", "f", "__proto__"]);
  expect(totalSize).toBe(8.5);
  // A name that the one before begins, and one that it ends with.
  expect([...parse('{"weight_map":{"a":"x.safetensors","b":"x.safetensors.safetensors"}}').shards.keys()]).toHaveLength(
    2,
  );
});

test.each([
  [
    '{"weight_map":{"a":"x.safetensors","b":"x.safetensors","a":"y.safetensors"}}',
    /each key once at byte 55, got "a" again/,
  ],
  ['{"weight_map":{"a":"x.safetensors"},"weight_map":{}}', /each key once at byte 36, got "weight_map" again/],
  ['{"weight_map":{"a":1,"b":tru}}', /a JSON value at byte 25, got tru/],
  ['{"weight_map":{"a":["x"],"b":"x.safetensors"}}', /a file name for "a", got a list/],
  ['{"weight_map":{"a":"../x.safetensors"}}', /below the folder for "a", got a path with the part "\.\."/],
  ['{"weight_map":{"a":"x.safetensors"}} x', /nothing more/],
  ['{"weight_map":{"a":"x.safetensors"', /"," or "}"/],
  ['{"weight_map":{}}', /at least one tensor/],
  ['{"weight_map":[]}', /an object from tensor to file for "weight_map", got a list/],
  ["{}", /got nothing/],
  ['["a"]', /a checkpoint index to hold an object, got a list/],
  ['{"weight_map":{"a":"x.safetensors"},"metadata":{"total_size":-1}}', /a number of bytes/],
])("%s", (text, message) => {
  expect(() => parse(text)).toThrow(FormatError);
  expect(() => parse(text)).toThrow(message);
});

test("bytes that are no text are found at every place, however the bytes lie in memory", () => {
  for (let offset = 0; offset < 5; offset++) {
    for (let length = 0; length < 14; length++) {
      const bytes = new Uint8Array(new ArrayBuffer(32), offset, length).fill(0x61);
      expect(brokenUtf8(bytes)).toBe(-1);
      for (let at = 0; at < length; at++) {
        for (const byte of [0x80, 0xff]) {
          bytes[at] = byte;
          expect(brokenUtf8(bytes)).toBe(at);
        }
        // Two bytes that are one character, where there is room.
        bytes[at] = 0xc3;
        if (at + 1 < length) bytes[at + 1] = 0xa9;
        expect(brokenUtf8(bytes)).toBe(at + 1 < length ? -1 : at);
        bytes.fill(0x61);
      }
    }
  }
});
