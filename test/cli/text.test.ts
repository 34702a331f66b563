// Text as Windows and older programs write it.

import { mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { readText } from "../../src/cli/text.js";
import { NotFoundError, OptionError } from "../../src/core/errors.js";
import { decodeText, encodingOf } from "../../src/sources/text.js";

const TEXT = "Once upon a time in Köln\r\n王 😀\n";
const swapped = (bytes: Buffer): Buffer => Buffer.from(bytes).swap16();

describe("read without their mark", () => {
  test.each([
    ["UTF-8", Buffer.from(TEXT)],
    ["UTF-8 with a mark", Buffer.from(`\ufeff${TEXT}`)],
    ["UTF-16, low bytes first", Buffer.from(`\ufeff${TEXT}`, "utf16le")],
    ["UTF-16, high bytes first", swapped(Buffer.from(`\ufeff${TEXT}`, "utf16le"))],
  ])("%s", (_, bytes) => expect(decodeText(bytes, "x")).toBe(TEXT));

  test("a mark inside of a text is text, and so are zeros", () => {
    expect(decodeText(Buffer.from("a\ufeffb"), "x")).toBe("a\ufeffb");
    expect(decodeText(Buffer.from("a\0b\0\0cdefgh"), "x")).toBe("a\0b\0\0cdefgh");
    expect(decodeText(Buffer.of(), "x")).toBe("");
  });
});

describe("refused, and what they are", () => {
  test.each([
    ["Latin-1", Buffer.from("Once upon a time in K\u00f6ln", "latin1"), /^x: byte 21 is not UTF-8/],
    ["UTF-8 that ends within a letter", Buffer.from("Kö").subarray(0, 2), /byte 1 is not UTF-8/],
    ["UTF-16 without a mark", Buffer.from("Once upon", "utf16le"), /UTF-16 text without a byte order mark/],
    ["the same with other letters", Buffer.from("Once upon a time in Köln", "utf16le"), /without a byte order mark/],
    ["the same, high bytes first", swapped(Buffer.from("Once upon", "utf16le")), /without a byte order mark/],
    ["half of UTF-16", Buffer.from("\ufeffab", "utf16le").subarray(0, 5), /begins like UTF-16LE text but is not/],
    ["UTF-16 with half a pair", Buffer.from("\ufeff\ud83dab", "utf16le"), /begins like UTF-16LE text but is not/],
  ])("%s", (_, bytes, message) => {
    const refused = (): string => decodeText(bytes, "x");
    expect(refused).toThrow(OptionError);
    expect(refused).toThrow(message);
  });

  test("what bytes are that should be UTF-8", () => {
    expect(encodingOf(Buffer.from("\ufeff{}", "utf16le"))).toBe("UTF-16 text");
    expect(encodingOf(Buffer.from('{"a": "Köln"}', "utf16le"))).toBe("UTF-16 text");
    expect(encodingOf(Buffer.from("Köln", "latin1"))).toBe("other text from byte 1 on");
  });

  test("a file that is not there, and a folder", async () => {
    const folder = mkdtempSync(join(tmpdir(), "octavo-text-"));
    await expect(readText(join(folder, "none"))).rejects.toThrow(NotFoundError);
    await expect(readText(folder)).rejects.toThrow(/EISDIR/);
    writeFileSync(join(folder, "latin1.txt"), Buffer.of(0x4b, 0xf6));
    await expect(readText(join(folder, "latin1.txt"))).rejects.toThrow(/latin1\.txt: byte 1 is not UTF-8/);
  });
});
