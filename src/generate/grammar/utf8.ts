// Sets of characters as the bytes of their UTF-8: sequences of byte ranges.

import type { CharSet } from "./chars.js";

/** One to four ranges of bytes, one after the other. */
type ByteRanges = readonly (readonly [first: number, last: number])[];

/** Last code points that take one, two, three and four bytes. */
const ENDS = [0x7f, 0x7ff, 0xffff, 0x10ffff] as const;

function encode(code: number, length: number): number[] {
  if (length === 1) return [code];
  const bytes: number[] = [];
  let rest = code;
  for (let n = 1; n < length; n++) {
    bytes.unshift(0x80 | (rest & 0x3f));
    rest >>= 6;
  }
  return [((0xf00 >> length) & 0xff) | rest, ...bytes];
}

/** Code points `first` to `last`, all of `length` bytes. */
function split(first: number, last: number, length: number, out: ByteRanges[]): void {
  for (let n = 1; n < length; n++) {
    const mask = 2 ** (6 * n) - 1;
    if ((first & ~mask) === (last & ~mask)) continue;
    // The last n bytes must run through all values, except at the two ends of the range.
    if ((first & mask) !== 0) {
      split(first, first | mask, length, out);
      split((first | mask) + 1, last, length, out);
      return;
    }
    if ((last & mask) !== mask) {
      split(first, (last & ~mask) - 1, length, out);
      split(last & ~mask, last, length, out);
      return;
    }
  }
  const [from, to] = [encode(first, length), encode(last, length)];
  out.push(from.map((byte, n) => [byte, to[n]!] as const));
}

export function utf8Ranges(set: CharSet): ByteRanges[] {
  const out: ByteRanges[] = [];
  for (const [first, last] of set) {
    let from = first;
    for (const [n, end] of ENDS.entries()) {
      if (from > last) break;
      if (from > end) continue;
      split(from, Math.min(last, end), n + 1, out);
      from = end + 1;
    }
  }
  return out;
}
