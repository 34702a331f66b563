// Mutants of bytes that know nothing of a format.

import type { Chance } from "./chance.js";

/** Beginnings of other kinds of files, and what editors put before a text. */
const HEADS = [
  "\ufeff",
  " ",
  "\n",
  "\0",
  "PK\x03\x04",
  "GGUF",
  "\x1f\x8b",
  "\x80\x02",
  "<!doctype html>",
  "version https://git-lfs",
];
const BYTES = [
  0x00, 0x09, 0x20, 0x22, 0x2c, 0x2d, 0x2e, 0x30, 0x3a, 0x5b, 0x5c, 0x5d, 0x65, 0x7b, 0x7d, 0x7f, 0x80, 0xc0, 0xed,
  0xf4, 0xff,
];

function change(chance: Chance, bytes: Buffer): Buffer {
  const at = chance.below(bytes.length + 1);
  const some = 1 + chance.below(chance.one([1, 8, 64]));
  const [before, after] = [bytes.subarray(0, at), bytes.subarray(at)];
  switch (chance.below(9)) {
    case 0: {
      const flipped = Buffer.from(bytes);
      if (at < flipped.length) flipped[at]! ^= 1 << chance.below(8);
      return flipped;
    }
    case 1: {
      const written = Buffer.from(bytes);
      if (at < written.length) written[at] = chance.one(BYTES);
      return written;
    }
    case 2:
      return before;
    case 3:
      return Buffer.concat([before, after.subarray(some)]);
    case 4:
      return Buffer.concat([before, after.subarray(0, some), after]);
    case 5:
      return Buffer.concat([before, Buffer.from(Array.from({ length: some }, () => chance.below(256))), after]);
    case 6:
      return Buffer.concat([before, Buffer.alloc(some, chance.one(BYTES)), after.subarray(some)]);
    case 7:
      return Buffer.concat([Buffer.from(chance.one(HEADS), chance.is(0.5) ? "latin1" : "utf8"), bytes]);
    default:
      return Buffer.concat([bytes, Buffer.alloc(some, chance.one(BYTES))]);
  }
}

export function mutateBytes(chance: Chance, bytes: Uint8Array): Buffer {
  let mutant: Buffer = Buffer.from(bytes);
  for (let left = chance.few(); left > 0; left--) mutant = change(chance, mutant);
  return mutant;
}

/** Lines of a text file: taken out, twice, cut, joined, exchanged; or bytes of it. */
export function mutateLines(chance: Chance, text: string, odd: readonly string[]): Buffer {
  const lines = text.split("\n");
  for (let left = chance.few(); left > 0; left--) {
    const at = chance.below(lines.length);
    const line = lines[at] ?? "";
    switch (chance.below(6)) {
      case 0:
        lines.splice(at, 1);
        break;
      case 1:
        lines.splice(at, 0, chance.one(lines) ?? "");
        break;
      case 2:
        lines[at] = line.slice(0, chance.below(line.length + 1));
        break;
      case 3:
        lines[at] = line + chance.one([" ", "\r", "\t", "x", "\0", lines[0] ?? ""]);
        break;
      case 4:
        lines[at] = "y".repeat(chance.one([1, 100, 5000]));
        break;
      default:
        lines[at] = chance.one(odd);
    }
  }
  const bytes = Buffer.from(lines.join(chance.is(0.95) ? "\n" : "\r\n"));
  return chance.is(0.15) ? mutateBytes(chance, bytes) : bytes;
}
