// Data types as an introduction to 8-bit models shows them: what a type can hold, and what becomes of numbers that are stored in it.

import { type FloatName, parseDType, torchName } from "../core/dtype.js";
import { OptionError, suggestion } from "../core/errors.js";
import {
  bitsOfNumber,
  exponentsOf,
  FLOAT_FORMATS,
  type FloatFormat,
  type FloatFormatName,
  largestNumber,
  numberOfBits,
  roundTo,
} from "../core/float-formats.js";
import { flag, readOptions } from "../core/options.js";
import { listed, show } from "../core/show.js";
import { numbersOf } from "./functional-checks.js";

/** Short names, and torch's other names, of types that tensors do not have. */
const OTHER_NAMES = {
  f64: "float64",
  fp64: "float64",
  double: "float64",
  tf32: "tfloat32",
  e4m3: "float8_e4m3fn",
  fp8_e4m3: "float8_e4m3fn",
  float8_e4m3: "float8_e4m3fn",
  e5m2: "float8_e5m2",
  fp8_e5m2: "float8_e5m2",
} as const satisfies Readonly<Record<string, FloatFormatName>>;

/** Name of a float type: torch's, with or without "torch.", or a short one such as "bf16", "tf32", "e4m3". */
export type FloatTypeName = Short | `torch.${Short}`;
type Short = FloatFormatName | FloatName | keyof typeof OTHER_NAMES;

function formatOf(place: string, name: unknown): { name: FloatFormatName; format: FloatFormat } {
  const names = Object.keys(FLOAT_FORMATS);
  if (typeof name === "string") {
    const bare = name.replace(/^torch\./, "");
    const dtype = parseDType(bare);
    const other = Object.hasOwn(OTHER_NAMES, bare) ? OTHER_NAMES[bare as keyof typeof OTHER_NAMES] : undefined;
    const known = dtype ? torchName(dtype) : (other ?? (bare as FloatFormatName));
    if (Object.hasOwn(FLOAT_FORMATS, known)) return { name: known, format: FLOAT_FORMATS[known] };
  }
  const near = typeof name === "string" ? suggestion(name, names) : undefined;
  throw new OptionError(`${place}: a float type is one of ${listed(names, names.length)}, got ${show(name)}`, {
    hint: near && `did you mean "${near}"?`,
  });
}

/** What a float type can hold. */
export interface FloatInfo {
  readonly dtype: FloatFormatName;
  readonly bits: number;
  readonly max: number;
  readonly min: number;
  /** Distance from 1 to the next larger number. */
  readonly eps: number;
  readonly smallest_normal: number;
  /** The same, by its older name. */
  readonly tiny: number;
  /** The smallest number above zero. */
  readonly smallest_subnormal: number;
  /** Power of ten of the decimal digits that it holds. */
  readonly resolution: number;
}

/** What a float type can hold, as torch.finfo says it. @throws OptionError for an unknown name */
export function finfo(dtype: FloatTypeName): FloatInfo {
  const { name, format } = formatOf("finfo", dtype);
  const max = largestNumber(format);
  const eps = 2 ** -format.mantissa;
  const smallest_normal = 2 ** exponentsOf(format).least;
  const digits = Math.floor(format.mantissa * Math.log10(2));
  return Object.freeze({
    dtype: name,
    bits: format.bits,
    max,
    min: -max,
    eps,
    smallest_normal,
    tiny: smallest_normal,
    smallest_subnormal: smallest_normal * eps,
    resolution: Number(`1e-${digits}`),
  });
}

const INTEGERS = {
  int8: [8, -128, 127],
  uint8: [8, 0, 255],
  int16: [16, -32768, 32767],
  uint16: [16, 0, 65535],
  int32: [32, -2147483648, 2147483647],
  uint32: [32, 0, 4294967295],
  int64: [64, -(2n ** 63n), 2n ** 63n - 1n],
  uint64: [64, 0n, 2n ** 64n - 1n],
} as const;

export type IntegerTypeName = keyof typeof INTEGERS;

/** What an integer type can hold. */
export interface IntegerInfo {
  readonly dtype: IntegerTypeName;
  readonly bits: number;
  readonly min: number | bigint;
  readonly max: number | bigint;
}

/** What an integer type can hold, as torch.iinfo says it; bigint for 64 bits. @throws OptionError for an unknown name */
export function iinfo(dtype: IntegerTypeName): IntegerInfo {
  const bare = typeof dtype === "string" ? dtype.replace(/^torch\./, "") : "";
  if (!Object.hasOwn(INTEGERS, bare)) {
    throw new OptionError(`iinfo: an integer type is one of ${listed(Object.keys(INTEGERS), 9)}, got ${show(dtype)}`);
  }
  const name = bare as IntegerTypeName;
  const [bits, min, max] = INTEGERS[name];
  return Object.freeze({ dtype: name, bits, min, max });
}

/** Options of `round_to` and `to_bits`. */
export interface RoundOptions {
  /** What lies beyond the largest number becomes the largest, instead of infinity or NaN. */
  readonly saturate?: boolean;
}

function each<T>(place: string, values: unknown, map: (value: number) => T): T[] {
  const numbers = numbersOf(values, Float64Array);
  if (numbers) return Array.from(numbers, map);
  throw new OptionError(`${place}: values must be a number or a list of numbers, got ${show(values)}`);
}

/**
 * Numbers as a float type stores them: each is the nearest that the type has, halves to even, in one rounding from the double.
 * Beyond the largest they are infinite, in "float8_e4m3fn", which has no infinity, NaN.
 * @throws OptionError
 */
export function round_to(values: number, dtype: FloatTypeName, options?: RoundOptions): number;
export function round_to(values: ArrayLike<number>, dtype: FloatTypeName, options?: RoundOptions): number[];
export function round_to(values: number | ArrayLike<number>, dtype: FloatTypeName, options: RoundOptions = {}) {
  const { format } = formatOf("round_to", dtype);
  const { saturate = false } = readOptions("round_to", { saturate: flag() }, options);
  if (typeof values === "number") return roundTo(format, values, saturate);
  return each("round_to", values, (value) => roundTo(format, value, saturate));
}

/**
 * The bits of numbers in a float type of at most 32 bits, after rounding as `round_to`.
 * @throws OptionError
 */
export function to_bits(values: number, dtype: FloatTypeName, options?: RoundOptions): number;
export function to_bits(values: ArrayLike<number>, dtype: FloatTypeName, options?: RoundOptions): number[];
export function to_bits(values: number | ArrayLike<number>, dtype: FloatTypeName, options: RoundOptions = {}) {
  const format = narrow("to_bits", dtype);
  const { saturate = false } = readOptions("to_bits", { saturate: flag() }, options);
  const bits = (value: number): number => bitsOfNumber(format, roundTo(format, value, saturate));
  return typeof values === "number" ? bits(values) : each("to_bits", values, bits);
}

/** The numbers that bits of a float type of at most 32 bits stand for. @throws OptionError */
export function from_bits(bits: number, dtype: FloatTypeName): number;
export function from_bits(bits: ArrayLike<number>, dtype: FloatTypeName): number[];
export function from_bits(bits: number | ArrayLike<number>, dtype: FloatTypeName) {
  const format = narrow("from_bits", dtype);
  const number = (one: number): number => {
    if (Number.isInteger(one) && one >= 0 && one < 2 ** format.bits) return numberOfBits(format, one);
    throw new OptionError(`from_bits: bits of ${show(dtype)} are a whole number below 2^${format.bits}, got ${one}`);
  };
  return typeof bits === "number" ? number(bits) : each("from_bits", bits, number);
}

function narrow(place: string, dtype: unknown): FloatFormat {
  const { name, format } = formatOf(place, dtype);
  if (format.bits <= 32) return format;
  throw new OptionError(`${place}: the bits of ${name} are more than a number holds; a BigUint64Array shows them`);
}
