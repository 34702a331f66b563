// Files that say how the camera was held, by the eight values of Exif: what PIL.ImageOps.exif_transpose makes of them.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { AutoImageProcessor } from "../../src/generate/auto.js";
import { NODE_MEDIA } from "../../src/media/node.js";
import { orientationOf, upright } from "../../src/media/orientation.js";
import { FIXTURES } from "../support/fixtures.js";

/** An Exif block with one other tag before the orientation. */
function exif(value: number, little: boolean): Buffer {
  const block = Buffer.alloc(38);
  block.write(little ? "II" : "MM");
  const short = (at: number, number: number) =>
    little ? block.writeUInt16LE(number, at) : block.writeUInt16BE(number, at);
  const long = (at: number, number: number) =>
    little ? block.writeUInt32LE(number, at) : block.writeUInt32BE(number, at);
  short(2, 42);
  long(4, 8);
  short(8, 2);
  for (const [at, tag, content] of [
    [10, 0x0100, 7],
    [22, 0x0112, value],
  ] as const) {
    short(at, tag);
    short(at + 2, 3);
    long(at + 4, 1);
    short(at + 8, content);
  }
  return block;
}

const segment = (marker: number, data: Buffer): Buffer => {
  const head = Buffer.from([0xff, marker, 0, 0]);
  head.writeUInt16BE(data.length + 2, 2);
  return Buffer.concat([head, data]);
};
const jpeg = (block: Buffer, rest = Buffer.alloc(0)): Buffer =>
  Buffer.concat([
    Buffer.from([0xff, 0xd8]),
    segment(0xe0, Buffer.from("JFIF\0")),
    segment(0xe1, Buffer.concat([Buffer.from("Exif\0\0"), block])),
    rest,
  ]);
const chunk = (name: string, data: Buffer, little: boolean): Buffer => {
  const size = Buffer.alloc(4);
  if (little) size.writeUInt32LE(data.length);
  else size.writeUInt32BE(data.length);
  const head = little ? [Buffer.from(name), size] : [size, Buffer.from(name)];
  const rest = little ? Buffer.alloc(data.length % 2) : Buffer.alloc(4); // a checksum
  return Buffer.concat([...head, data, rest]);
};
const png = (block: Buffer): Buffer =>
  Buffer.concat([
    Buffer.from("\x89PNG\r\n\x1a\n", "latin1"),
    chunk("IHDR", Buffer.alloc(13), false),
    chunk("eXIf", block, false),
  ]);
const webp = (block: Buffer): Buffer =>
  Buffer.concat([Buffer.from("RIFF\0\0\0\0WEBP"), chunk("VP8 ", Buffer.alloc(5), true), chunk("EXIF", block, true)]);

test.each([jpeg, png, webp])("the note is found in %o, in both orders of bytes", (file) => {
  for (const little of [true, false]) {
    for (let value = 1; value <= 8; value++) expect(orientationOf(file(exif(value, little)))).toBe(value);
    for (const value of [0, 9, 65535]) expect(orientationOf(file(exif(value, little)))).toBe(1);
  }
});

test("files that are cut anywhere, or lie, are as they are stored", () => {
  for (const file of [jpeg, png, webp]) {
    const whole = file(exif(6, true));
    for (let end = 0; end < whole.length; end++) expect([1, 6]).toContain(orientationOf(whole.subarray(0, end)));
    for (let at = 0; at < whole.length; at++) {
      const bytes = Buffer.from(whole);
      bytes[at] = 255;
      expect(orientationOf(bytes)).toBeLessThanOrEqual(8);
    }
  }
});

test.each([
  [1, 3, "abcdef"],
  [2, 3, "cbafed"],
  [3, 3, "fedcba"],
  [4, 3, "defabc"],
  [5, 2, "adbecf"],
  [6, 2, "daebfc"],
  [7, 2, "fcebda"],
  [8, 2, "cfbead"],
])("turned by %i", (orientation, width, letters) => {
  // Two bytes for each of 3 x 2 pixels.
  const data = Uint8Array.from("aAbBcCdDeEfF", (char) => char.charCodeAt(0));
  const image = upright({ width: 3, height: 2, data }, orientation);
  expect([image.width, image.height]).toEqual([width, 6 / width]);
  expect(String.fromCharCode(...image.data)).toBe([...letters].map((char) => char + char.toUpperCase()).join(""));
});

test("a processor takes the turned image", async () => {
  const processor = await AutoImageProcessor.from_pretrained(join(FIXTURES, "processors", "vit"));
  const stored = readFileSync(join(FIXTURES, "processors", "smooth.jpg"));
  const { pixel_values } = await processor(jpeg(exif(6, false), stored.subarray(2)));
  const turned = await processor(upright(await NODE_MEDIA.image(stored), 6));
  expect(pixel_values.data).toEqual(turned.pixel_values.data);
  expect(pixel_values.data).not.toEqual((await processor(stored)).pixel_values.data);
});
