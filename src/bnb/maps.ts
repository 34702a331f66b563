// Maps of 256 ascending values for 8-bit blockwise quantization. Pure numbers; the maps are data, the same on every machine.

import { OptionError } from "../core/errors.js";
import { flag, number, type Options, readOptions, type Table, whole } from "../core/options.js";
import { show } from "../core/show.js";
import { erf } from "../ops/activation.js";
import { type BnbKind, FOUR_BIT, FOUR_BIT_TABLES } from "../ops/four-bit.js";
import { dynamicMap, linspace } from "../quant/_dynamic-map.js";

const LINEAR = { signed: flag(), total_bits: whole(1), add_zero: flag() } satisfies Table;
const DYNAMIC = { signed: flag(), max_exponent_bits: whole(0), total_bits: whole(1) } satisfies Table;
const FP8 = { signed: flag(), exponent_bits: whole(0), precision_bits: whole(0), total_bits: whole(1) } satisfies Table;
const NORMAL = {
  offset: number((n) => n > 0.5 && n < 1, "a probability above 0.5 and below 1"),
  use_extra_value: flag(),
} satisfies Table;

/** Arguments by their place, as in Python, as an options object. */
function named<T extends Table>(place: string, table: T, args: readonly unknown[]): Options<T> {
  const names = Object.keys(table);
  return readOptions(place, table, Object.fromEntries(args.map((value, i) => [names[i]!, value])));
}

function checkBits(place: string, bits: number): void {
  if (bits >= 2 && bits <= 8) return;
  throw new OptionError(`${place}: total_bits must be from 2 to 8, got ${show(bits)}`);
}

/** Ascending, with zeros until there are 256. */
function filledUp(values: readonly number[]): Float32Array {
  const zeros = new Array<number>(256 - values.length).fill(0);
  return Float32Array.from([...values, ...zeros]).sort();
}

/**
 * The dynamic map: exponents in unary, evenly spaced fractions. Signed maps end in 1 and begin with -0.99296874; 0 is an exact
 * value.
 * @throws OptionError unless 1 <= max_exponent_bits < total_bits <= 8
 */
export function create_dynamic_map(signed = true, max_exponent_bits = 7, total_bits = 8): Float32Array {
  named("create_dynamic_map", DYNAMIC, [signed, max_exponent_bits, total_bits]);
  checkBits("create_dynamic_map", total_bits);
  if (max_exponent_bits < 1 || max_exponent_bits >= total_bits) {
    throw new OptionError(
      `create_dynamic_map: max_exponent_bits must be from 1 to ${total_bits - 1} of ${total_bits} bits, got ${max_exponent_bits}`,
    );
  }
  return dynamicMap(signed, max_exponent_bits, total_bits);
}

/**
 * Evenly spaced values from -1 or 0 to 1. A signed map gives one of its values up for an exact zero. Maps of fewer bits are filled
 * up with zeros, which ascend here even where the map is unsigned (Python puts them in the middle, where no search finds them).
 * @throws OptionError
 */
export function create_linear_map(signed = true, total_bits = 8, add_zero = true): Float32Array {
  named("create_linear_map", LINEAR, [signed, total_bits, add_zero]);
  checkBits("create_linear_map", total_bits);
  const centred = signed && (add_zero || total_bits < 8);
  return filledUp([...linspace(signed ? -1 : 0, 1, 2 ** total_bits - (centred ? 1 : 0))]);
}

/**
 * Values of a float with `exponent_bits` and `precision_bits`, without infinities and NaN, over the largest; the exponent
 * is stored as its distance from the largest.
 * @throws OptionError unless sign, exponent and fraction are `total_bits` together
 */
export function create_fp8_map(signed = true, exponent_bits = 5, precision_bits = 2, total_bits = 8): Float32Array {
  named("create_fp8_map", FP8, [signed, exponent_bits, precision_bits, total_bits]);
  checkBits("create_fp8_map", total_bits);
  if (exponent_bits < 1 || exponent_bits + precision_bits + Number(signed) !== total_bits) {
    throw new OptionError(
      `create_fp8_map: ${signed ? "a sign, " : ""}${exponent_bits} exponent bits and ${precision_bits} bits of the fraction are not ${total_bits} bits`,
    );
  }
  const bias = 2 ** (exponent_bits - 1);
  const values: number[] = [];
  for (let e = 0; e < 2 ** exponent_bits; e++) {
    for (let m = 0; m < 2 ** precision_bits; m++) {
      const fraction = m / 2 ** precision_bits;
      const value = e === 0 ? fraction * 2 ** -bias : (1 + fraction) * 2 ** -(e - bias - 1);
      values.push(value, ...(signed ? [value === 0 ? 0 : -value] : []));
    }
  }
  const largest = values.reduce((a, b) => Math.max(a, b), 0);
  return filledUp(values.map((value) => value / largest));
}

/** The number below which a standard normal variable lies with probability p > 0.5: Newton's steps from 0. */
function normalQuantile(p: number): number {
  let x = 0;
  for (let i = 0; i < 60; i++) {
    const density = Math.exp((-x * x) / 2) / Math.sqrt(2 * Math.PI);
    const step = (0.5 * (1 + erf(x / Math.SQRT2)) - p) / density;
    x -= step;
    if (Math.abs(step) < 1e-16) break;
  }
  return x;
}

/**
 * Quantiles of the normal distribution, over the largest: NF4's values are those of `create_normal_map()`, without the zeros
 * that fill it up.
 * @param offset probability of the largest quantile
 * @param use_extra_value one more value on the positive side
 * @throws OptionError
 */
export function create_normal_map(offset = 0.9677083, use_extra_value = true): Float32Array {
  named("create_normal_map", NORMAL, [offset, use_extra_value]);
  const side = (count: number): number[] =>
    [...linspace(Math.fround(offset), 0.5, count + 1)].slice(0, -1).map(normalQuantile);
  const values = [...side(use_extra_value ? 8 : 7), ...side(7).map((value) => -value)];
  const largest = values.reduce((a, b) => Math.max(a, b), 0);
  return filledUp(values.map((value) => Math.fround(value) / Math.fround(largest)));
}

/** The 16 values of a 4-bit type, by code. @throws OptionError */
export function get_4bit_type(quant_type: BnbKind): Float32Array {
  if (quant_type !== "nf4" && quant_type !== "fp4") {
    throw new OptionError(`get_4bit_type: the type must be "nf4" or "fp4", got ${show(quant_type)}`);
  }
  return FOUR_BIT_TABLES[FOUR_BIT[quant_type]]!.slice();
}
