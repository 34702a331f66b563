// Binary floating-point formats as data, and exact rounding to each: from any double in one step, halves to even. Pure numbers; the
// dtypes of tensors are in dtype.ts.

/** A format of sign, exponent and fraction. */
export interface FloatFormat {
  readonly exponent: number;
  readonly mantissa: number;
  /** Bits that a stored value takes. */
  readonly bits: number;
  /** False where the largest exponent holds numbers too, and only the last code is NaN (E4M3). */
  readonly infinities: boolean;
}

export const FLOAT_FORMATS = {
  float64: { exponent: 11, mantissa: 52, bits: 64, infinities: true },
  float32: { exponent: 8, mantissa: 23, bits: 32, infinities: true },
  /** NVIDIA's TF32: stored like float32, with the fraction of float16. */
  tfloat32: { exponent: 8, mantissa: 10, bits: 32, infinities: true },
  float16: { exponent: 5, mantissa: 10, bits: 16, infinities: true },
  bfloat16: { exponent: 8, mantissa: 7, bits: 16, infinities: true },
  float8_e5m2: { exponent: 5, mantissa: 2, bits: 8, infinities: true },
  float8_e4m3fn: { exponent: 4, mantissa: 3, bits: 8, infinities: false },
} as const satisfies Readonly<Record<string, FloatFormat>>;

export type FloatFormatName = keyof typeof FLOAT_FORMATS;

const biasOf = ({ exponent }: FloatFormat): number => 2 ** (exponent - 1) - 1;

/** The exponent of the largest number, and of the smallest normal one. */
export function exponentsOf(format: FloatFormat): { readonly most: number; readonly least: number } {
  const bias = biasOf(format);
  return { most: format.infinities ? bias : bias + 1, least: 1 - bias };
}

/** The largest finite number. */
export function largestNumber(format: FloatFormat): number {
  const { most } = exponentsOf(format);
  // Without infinities the last code of the largest exponent is NaN.
  return (2 - (format.infinities ? 1 : 2) * 2 ** -format.mantissa) * 2 ** most;
}

const double = new Float64Array(1);
const words = new Uint32Array(double.buffer);

/** The exponent e of a finite number that is not zero, 2^e <= |x| < 2^(e + 1). */
function exponentOf(x: number): number {
  double[0] = x;
  const stored = (words[1]! >>> 20) & 0x7ff;
  if (stored !== 0) return stored - 1023;
  double[0] = x * 2 ** 64; // subnormal
  return ((words[1]! >>> 20) & 0x7ff) - 1023 - 64;
}

/** Rounds to a whole number, halves to even. */
function rounded(x: number): number {
  const down = Math.floor(x);
  const rest = x - down;
  return rest > 0.5 || (rest === 0.5 && down % 2 !== 0) ? down + 1 : down;
}

/**
 * The number of a format that is nearest to `x`, the even one of two. Beyond the largest it is infinity, or NaN where the format has
 * none; with `saturate` the largest.
 */
export function roundTo(format: FloatFormat, x: number, saturate = false): number {
  if (format.mantissa === 52 || x === 0 || Number.isNaN(x)) return x;
  const endless = format.infinities ? Math.sign(x) * Number.POSITIVE_INFINITY : Number.NaN;
  const largest = largestNumber(format);
  const over = saturate ? Math.sign(x) * largest : endless;
  if (!Number.isFinite(x)) return over;
  const unit = Math.max(exponentOf(x), exponentsOf(format).least) - format.mantissa;
  // Both factors are exact: the unit is a power of two within a double's range.
  const value = Math.sign(x) * rounded(Math.abs(x) * 2 ** -unit) * 2 ** unit;
  if (Math.abs(value) > largest) return over;
  return value === 0 ? Math.sign(x) * 0 : value;
}

/** The bits of a number of a format of at most 32 bits; NaN gets the quiet one without a sign. */
export function bitsOfNumber(format: FloatFormat, value: number): number {
  const { exponent, mantissa, infinities } = format;
  const shift = format.bits - 1 - exponent - mantissa; // TF32 leaves the low bits of a word empty
  const pack = (sign: number, e: number, fraction: number): number =>
    ((sign * 2 ** (exponent + mantissa) + e * 2 ** mantissa + fraction) * 2 ** shift) >>> 0;
  const top = 2 ** exponent - 1;
  if (Number.isNaN(value)) return pack(0, top, infinities ? 2 ** (mantissa - 1) : 2 ** mantissa - 1);
  const sign = value < 0 || Object.is(value, -0) ? 1 : 0;
  const size = Math.abs(value);
  if (size === Number.POSITIVE_INFINITY) return pack(sign, top, 0);
  const { least } = exponentsOf(format);
  if (size === 0) return pack(sign, 0, 0);
  const e = Math.max(exponentOf(size), least);
  const whole = size * 2 ** (mantissa - e);
  if (whole < 2 ** mantissa) return pack(sign, 0, whole);
  return pack(sign, e - least + 1, whole - 2 ** mantissa);
}

/** The number that bits of a format of at most 32 bits stand for. */
export function numberOfBits(format: FloatFormat, bits: number): number {
  const { exponent, mantissa, infinities } = format;
  const shift = format.bits - 1 - exponent - mantissa;
  const code = Math.floor((bits >>> 0) / 2 ** shift);
  const fraction = code % 2 ** mantissa;
  const e = Math.floor(code / 2 ** mantissa) % 2 ** exponent;
  const sign = Math.floor(code / 2 ** (mantissa + exponent)) % 2 === 1 ? -1 : 1;
  const { least } = exponentsOf(format);
  const top = 2 ** exponent - 1;
  if (e === top && infinities) return fraction === 0 ? sign * Number.POSITIVE_INFINITY : Number.NaN;
  if (e === top && fraction === 2 ** mantissa - 1) return Number.NaN;
  if (e === 0) return sign * fraction * 2 ** (least - mantissa);
  return sign * (2 ** mantissa + fraction) * 2 ** (e - 1 + least - mantissa);
}

/** The numbers of all codes of a format of 8 bits, or of 16. */
export function numbersOf(format: FloatFormat): Float32Array {
  return Float32Array.from({ length: 2 ** format.bits }, (_, code) => numberOfBits(format, code));
}
