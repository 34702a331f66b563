// Conversions between f32, f16 and bf16: every 16-bit pattern both ways, and rounding against an independent search for
// the nearest neighbour.

import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  bytesOf,
  DTYPE_SPELLINGS,
  fromBf16,
  fromF16,
  narrow,
  parseDType,
  toBf16,
  toF16,
  torchName,
  widen,
} from "../../src/core/dtype.js";

interface Format {
  readonly name: "f16" | "bf16";
  readonly mantissa: number;
  readonly bias: number;
  readonly to: (x: number) => number;
  readonly from: (bits: number) => number;
}

const FORMATS: readonly Format[] = [
  { name: "f16", mantissa: 10, bias: 15, to: toF16, from: fromF16 },
  { name: "bf16", mantissa: 7, bias: 127, to: toBf16, from: fromBf16 },
];

/** The value of bits by the definition of the format; an independent twin of `from`. */
function meaning({ mantissa, bias }: Format, bits: number): number {
  const sign = bits >>> 15 ? -1 : 1;
  const exponent = (bits & 0x7fff) >>> mantissa;
  const fraction = (bits & ((1 << mantissa) - 1)) / 2 ** mantissa;
  const top = 2 ** (15 - mantissa) - 1;
  if (exponent === top) return fraction === 0 ? sign * Number.POSITIVE_INFINITY : Number.NaN;
  return exponent === 0 ? sign * fraction * 2 ** (1 - bias) : sign * (1 + fraction) * 2 ** (exponent - bias);
}

/** Bits nearest to a finite f32, halves to even, by binary search over the ordered patterns. */
function nearest(format: Format, x: number): number {
  const infinite = ((2 ** (15 - format.mantissa) - 1) << format.mantissa) >>> 0;
  const size = Math.abs(x);
  let low = 0;
  let high = infinite;
  while (high - low > 1) {
    const middle = (low + high) >>> 1;
    if (meaning(format, middle) <= size) low = middle;
    else high = middle;
  }
  const below = meaning(format, low);
  // What lies above the largest number rounds as if the next power of two were there.
  const above = high === infinite ? 2 * below - meaning(format, low - 1) : meaning(format, high);
  const down = size - below;
  const up = above - size;
  const bits = down < up || (down === up && low % 2 === 0) ? low : high;
  return bits | (Object.is(x, -0) || x < 0 ? 0x8000 : 0);
}

for (const format of FORMATS) {
  describe(format.name, () => {
    test("all 65536 patterns mean what the format says, and come back", () => {
      let wrong = 0;
      for (let bits = 0; bits < 65536; bits++) {
        const value = format.from(bits);
        if (!Object.is(value, meaning(format, bits))) wrong++;
        else if (Number.isNaN(value) ? !Number.isNaN(format.from(format.to(value))) : format.to(value) !== bits)
          wrong++;
      }
      expect(wrong).toBe(0);
    });

    test("all halfway points and their neighbours round half to even", () => {
      const step = new Float32Array(1);
      const word = new Uint32Array(step.buffer);
      let wrong = 0;
      const last = ((2 ** (15 - format.mantissa) - 1) << format.mantissa) - 1;
      for (let bits = 0; bits < last; bits++) {
        const half = (meaning(format, bits) + meaning(format, bits + 1)) / 2;
        step[0] = half;
        if (step[0] !== half) continue; // not an f32 (bf16's smallest)
        const centre = word[0]!;
        for (const next of [centre - 1, centre, centre + 1]) {
          if (next < 0) continue;
          word[0] = next;
          for (const x of [step[0]!, -step[0]!]) if (format.to(x) !== nearest(format, x)) wrong++;
        }
      }
      expect(wrong).toBe(0);
    });

    test("any f32 rounds to its nearest neighbour", () => {
      fc.assert(
        fc.property(fc.float({ noNaN: true, noDefaultInfinity: true }), (x) => {
          expect(format.to(x)).toBe(nearest(format, x));
        }),
        { numRuns: 2000 },
      );
    });

    test("infinities stay, too large becomes infinite, NaN stays NaN", () => {
      const { to, from } = format;
      expect(from(to(Number.POSITIVE_INFINITY))).toBe(Number.POSITIVE_INFINITY);
      expect(from(to(Number.NEGATIVE_INFINITY))).toBe(Number.NEGATIVE_INFINITY);
      expect(from(to(3.4e38))).toBe(Number.POSITIVE_INFINITY);
      expect(from(to(Number.NaN))).toBeNaN();
      // A NaN whose payload lies in the bits that are cut off must not turn into an infinity.
      const word = new Uint32Array([0x7f800001]);
      expect(from(to(new Float32Array(word.buffer)[0]!))).toBeNaN();
      expect(Object.is(from(to(-0)), -0)).toBe(true);
    });

    test("narrow and widen agree with the scalar conversions, at any byte offset", () => {
      const values = Float32Array.from({ length: 99 }, (_, i) => (i - 50) * 1.2345 ** (i % 40));
      const raw = narrow(format.name, values);
      const shifted = new Uint8Array(raw.length + 1);
      shifted.set(raw, 1);
      const want = Array.from(values, (x) => format.from(format.to(x)));
      expect([...widen(format.name, raw)]).toEqual(want);
      expect([...widen(format.name, shifted.subarray(1))]).toEqual(want);
    });
  });
}

test("sizes, and names in the spellings of the field", () => {
  expect(bytesOf("u4", 7)).toBe(4);
  expect(bytesOf("bf16", 7)).toBe(14);
  expect(parseDType("torch.bfloat16")).toBe("bf16");
  expect(parseDType("half")).toBe("f16");
  expect(parseDType("int8")).toBeUndefined();
  expect(parseDType("toString")).toBeUndefined();
  for (const spelling of DTYPE_SPELLINGS)
    expect(parseDType(torchName(parseDType(spelling)!))).toBe(parseDType(spelling));
});
