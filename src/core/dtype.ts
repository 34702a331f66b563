// Element types and exact conversions between f32, f16 and bf16. Pure functions on typed arrays; no tensors here.

/** Element types of tensors on a device. `u4` is two codes in a byte, high nibble first. */
export type DType = "f32" | "f16" | "bf16" | "i32" | "i8" | "u8" | "u4";

export const DTYPES: readonly DType[] = ["f32", "f16", "bf16", "i32", "i8", "u8", "u4"];

const BITS: Readonly<Record<DType, number>> = { f32: 32, f16: 16, bf16: 16, i32: 32, i8: 8, u8: 8, u4: 4 };

/** Code of a dtype in command streams; the native add-on uses the same numbers (native/call.h). */
export const DTYPE_CODE: Readonly<Record<DType, number>> = { f32: 0, f16: 1, bf16: 2, i32: 3, i8: 4, u8: 5, u4: 6 };

/** True for the name of an element type. */
export function isDType(value: unknown): value is DType {
  return typeof value === "string" && Object.hasOwn(BITS, value);
}

/** Bits per element. */
export function bitsOf(dtype: DType): number {
  return BITS[dtype];
}

/** Bytes that `count` elements of `dtype` take (u4 rounds up to whole bytes). */
export function bytesOf(dtype: DType, count: number): number {
  return dtype === "u4" ? Math.ceil(count / 2) : (count * BITS[dtype]) / 8;
}

export function isFloat(dtype: DType): dtype is "f32" | "f16" | "bf16" {
  return dtype === "f32" || dtype === "f16" || dtype === "bf16";
}

/** Typed array that `read()` returns for a dtype: f16 and bf16 are widened to f32, u4 stays packed. */
export type HostArray = Float32Array | Int32Array | Int8Array | Uint8Array;

const f32 = new Float32Array(1);
const u32 = new Uint32Array(f32.buffer);

/** bf16 bits of a number: rounded half to even from f32; NaN stays NaN (quiet). */
export function toBf16(value: number): number {
  f32[0] = value;
  const bits = u32[0]!;
  if ((bits & 0x7fffffff) > 0x7f800000) return (bits >>> 16) | 0x40;
  return ((bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16) & 0xffff;
}

/** The number encoded by bf16 bits. */
export function fromBf16(bits: number): number {
  u32[0] = bits << 16;
  return f32[0]!;
}

/** f16 bits of a number: rounded half to even from f32; overflow gives infinity, subnormals are exact. */
export function toF16(value: number): number {
  f32[0] = value;
  const bits = u32[0]!;
  const sign = (bits >>> 16) & 0x8000;
  const magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00;
  if (magnitude >= 0x47800000) return sign | 0x7c00;
  if (magnitude < 0x38800000) {
    // Below the smallest normal f16: the value in units of 2^-24, rounded half to even.
    const scaled = Math.abs(f32[0]!) * 16777216;
    const down = Math.floor(scaled);
    const rest = scaled - down;
    return sign | (rest > 0.5 || (rest === 0.5 && (down & 1) === 1) ? down + 1 : down);
  }
  const rounded = magnitude - 0x38000000 + 0xfff + ((magnitude >>> 13) & 1);
  return sign | (rounded >>> 13);
}

/** The number encoded by f16 bits. */
export function fromF16(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >>> 10) & 0x1f;
  const mantissa = bits & 0x3ff;
  if (exponent === 0) return sign * mantissa * 2 ** -24;
  if (exponent === 31) return mantissa ? Number.NaN : sign * Number.POSITIVE_INFINITY;
  return sign * (1 + mantissa / 1024) * 2 ** (exponent - 15);
}

/** Widens raw bytes of a float dtype to f32. */
export function widen(dtype: "f32" | "f16" | "bf16", bytes: Uint8Array): Float32Array {
  // A Node Buffer's own slice() would be a view at the same odd offset.
  const aligned = bytes.byteOffset % 4 === 0 ? bytes : new Uint8Array(bytes);
  if (dtype === "f32") return new Float32Array(aligned.buffer, aligned.byteOffset, aligned.byteLength >>> 2);
  const half = new Uint16Array(aligned.buffer, aligned.byteOffset, aligned.byteLength >>> 1);
  // Loops: `from` with a function goes by the iterator protocol, which takes ten times as long.
  if (dtype === "bf16") {
    const bits = new Uint32Array(half.length);
    for (let i = 0; i < half.length; i++) bits[i] = half[i]! << 16;
    return new Float32Array(bits.buffer);
  }
  const values = new Float32Array(half.length);
  for (let i = 0; i < half.length; i++) values[i] = fromF16(half[i]!);
  return values;
}

/** Narrows f32 values to raw bytes of a float dtype (round half to even). */
export function narrow(dtype: "f32" | "f16" | "bf16", values: Float32Array): Uint8Array {
  if (dtype === "f32") return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
  const half = new Uint16Array(values.length);
  const encode = dtype === "bf16" ? toBf16 : toF16;
  for (let i = 0; i < values.length; i++) half[i] = encode(values[i]!);
  return new Uint8Array(half.buffer);
}

/** Names of float dtypes that users write: torch's, transformers.js' and ours. */
export type FloatName =
  | "float32"
  | "float16"
  | "bfloat16"
  | "fp32"
  | "fp16"
  | "bf16"
  | "f32"
  | "f16"
  | "float"
  | "half";

const SPELLINGS: ReadonlyMap<FloatName, DType> = new Map<FloatName, DType>([
  ["float32", "f32"],
  ["fp32", "f32"],
  ["float", "f32"],
  ["f32", "f32"],
  ["float16", "f16"],
  ["fp16", "f16"],
  ["half", "f16"],
  ["f16", "f16"],
  ["bfloat16", "bf16"],
  ["bf16", "bf16"],
]);

/** Spellings of float dtypes that users and config files use (torch's, transformers.js' and ours). */
export const DTYPE_SPELLINGS: readonly string[] = [...SPELLINGS.keys()];

/** The dtype for a spelling, or `undefined`; "torch.bfloat16" works too. */
export function parseDType(spelling: string): "f32" | "f16" | "bf16" | undefined {
  return SPELLINGS.get(spelling.replace(/^torch\./, "") as FloatName) as "f32" | "f16" | "bf16" | undefined;
}

/** The name that config.json uses for a float dtype. */
export function torchName(dtype: "f32" | "f16" | "bf16"): "float32" | "float16" | "bfloat16" {
  return dtype === "f32" ? "float32" : dtype === "f16" ? "float16" : "bfloat16";
}
