// Sizes of memory and files as options give them: accelerate's units, and some more.

import { isWhole } from "../core/checks.js";
import { OptionError } from "../core/errors.js";
import { show } from "../core/show.js";

/** Powers of ten; those without an i can be bits. */
const UNITS: Readonly<Record<string, number>> = { "": 1, K: 1e3, M: 1e6, G: 1e9, T: 1e12 };
const BINARY: Readonly<Record<string, number>> = { K: 2 ** 10, M: 2 ** 20, G: 2 ** 30, T: 2 ** 40 };

/**
 * Bytes of a size: a whole number, or a text such as "1.5GB" or "512MiB" in either case; undefined for anything else. As in accelerate,
 * a small b after a power of ten means bits: "1Gb" is 125 MB.
 */
function sizeOf(size: unknown): number | undefined {
  if (typeof size !== "string") return isWhole(size) ? size : undefined;
  const [, number, prefix = "", binary, letter] = /^\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)(B)\s*$/i.exec(size) ?? [];
  const unit = (binary ? BINARY : UNITS)[prefix.toUpperCase()];
  if (number === undefined || unit === undefined) return undefined;
  const whole = Math.trunc(Number(number) * unit);
  const bits = letter === "b" && !binary && prefix !== "";
  const bytes = bits ? Math.floor(whole / 8) : whole;
  return Number.isSafeInteger(bytes) ? bytes : undefined;
}

/** Bytes of a size above 0; undefined for anything else. */
export function bytesOf(size: unknown): number | undefined {
  const bytes = sizeOf(size);
  return bytes === 0 ? undefined : bytes;
}

/**
 * Bytes of a size: a whole number of bytes, or a text with a unit. GB, MB and KB are powers of 1000, GiB, MiB and KiB of 1024, and a
 * small b after the former means bits ("1Gb" is 125000000 bytes), as in accelerate.
 * @throws OptionError for anything else
 */
export function convert_file_size_to_int(size: number | string): number {
  const bytes = sizeOf(size);
  if (bytes !== undefined) return bytes;
  throw new OptionError(`size ${show(size)} is not in a valid format`, {
    hint: "use a whole number of bytes, or a text with a unit, such as '5.0GB'",
    details: { option: "size" },
  });
}
