// Converts raw bytes from the element types of files to those of devices. Exact or rejected: an integer that does not fit is
// an error, never wrapped. No quantized layouts here.

import { bytesOf, type DType, isFloat, narrow, widen } from "../core/dtype.js";
import { FormatError } from "../core/errors.js";
import { show } from "../core/show.js";
import { quote } from "../sources/files.js";
import type { StoredDType } from "./stored.js";

const SAME: ReadonlyMap<StoredDType, DType> = new Map([
  ["F32", "f32"],
  ["F16", "f16"],
  ["BF16", "bf16"],
  ["I32", "i32"],
  ["I8", "i8"],
  ["U8", "u8"],
  ["BOOL", "u8"],
]);

/** The device dtype whose bytes are the file's bytes, `undefined` if they must be converted or cannot be used. */
export function deviceDType(dtype: StoredDType): DType | undefined {
  return SAME.get(dtype);
}

type Numbers = Readonly<{ length: number; [index: number]: number | bigint }>;

const READERS: ReadonlyMap<StoredDType, (buffer: ArrayBuffer) => Numbers> = new Map<
  StoredDType,
  (buffer: ArrayBuffer) => Numbers
>([
  ["F64", (buffer) => new Float64Array(buffer)],
  ["F32", (buffer) => new Float32Array(buffer)],
  ["F16", (buffer) => widen("f16", new Uint8Array(buffer))],
  ["BF16", (buffer) => widen("bf16", new Uint8Array(buffer))],
  ["I64", (buffer) => new BigInt64Array(buffer)],
  ["U64", (buffer) => new BigUint64Array(buffer)],
  ["I32", (buffer) => new Int32Array(buffer)],
  ["U32", (buffer) => new Uint32Array(buffer)],
  ["I16", (buffer) => new Int16Array(buffer)],
  ["U16", (buffer) => new Uint16Array(buffer)],
  ["I8", (buffer) => new Int8Array(buffer)],
  ["U8", (buffer) => new Uint8Array(buffer)],
  ["BOOL", (buffer) => new Uint8Array(buffer).map((byte) => (byte === 0 ? 0 : 1))],
]);

const ELEMENT_BYTES: ReadonlyMap<StoredDType, number> = new Map([
  ["F64", 8],
  ["I64", 8],
  ["U64", 8],
  ["F32", 4],
  ["I32", 4],
  ["U32", 4],
  ["F16", 2],
  ["BF16", 2],
  ["I16", 2],
  ["U16", 2],
]);

const LIMITS: ReadonlyMap<DType, readonly [number, number]> = new Map([
  ["i32", [-(2 ** 31), 2 ** 31 - 1]],
  ["i8", [-128, 127]],
  ["u8", [0, 255]],
]);

/**
 * Converts the bytes of a tensor to a device dtype. `tensor` is its name, for messages. If the dtype is the same, the bytes
 * are returned without a copy. Floats become other floats by rounding half to even (f64 by way of f32, as torch does);
 * integers become integers, or floats within the range where all integers are exact, and are rejected beyond it.
 * @throws FormatError if the dtype cannot be read (F8, F6, F4, C64), floats would become integers, the bytes are not whole
 * elements, or a value does not fit; it names the tensor, the element and the value
 */
export function convertBytes(dtype: StoredDType, bytes: Uint8Array, to: DType, tensor = "?"): Uint8Array {
  if (SAME.get(dtype) === to && dtype !== "BOOL") return bytes;
  const read = READERS.get(dtype);
  const fromFloat = dtype === "F64" || dtype === "F32" || dtype === "F16" || dtype === "BF16";
  if (read === undefined || to === "u4" || (fromFloat && !isFloat(to))) {
    throw new FormatError(`tensor ${quote(tensor)}: ${dtype} cannot be read as ${to}`, {
      details: { key: tensor, expected: to, got: dtype },
      hint: read === undefined ? `${dtype} is not supported; use a checkpoint in F32, F16 or BF16` : undefined,
    });
  }
  if (bytes.byteLength % (ELEMENT_BYTES.get(dtype) ?? 1) !== 0) {
    throw new FormatError(`tensor ${quote(tensor)}: ${bytes.byteLength} bytes are not whole ${dtype} elements`, {
      details: { key: tensor, expected: dtype, got: bytes.byteLength },
    });
  }
  // A copy of its own: typed arrays need alignment, which bytes from a file do not have.
  const values = read(new Uint8Array(bytes).buffer);
  if (isFloat(to)) return narrow(to, toF32(values, fromFloat, to, tensor));
  const out = new Uint8Array(bytesOf(to, values.length));
  const target = to === "i32" ? new Int32Array(out.buffer) : to === "i8" ? new Int8Array(out.buffer) : out;
  const [low, high] = LIMITS.get(to)!;
  for (let i = 0; i < values.length; i++) {
    const value = values[i]!;
    if (value < low || value > high) unfit(tensor, i, value, to, `from ${low} to ${high}`);
    target[i] = Number(value);
  }
  return out;
}

function toF32(values: Numbers, fromFloat: boolean, to: DType, tensor: string): Float32Array {
  if (values instanceof Float32Array) return values;
  const out = new Float32Array(values.length);
  // Integers up to here are exact in the target's significand; larger ones may not be.
  const exact = to === "f32" ? 2 ** 24 : to === "f16" ? 2 ** 11 : 2 ** 8;
  for (let i = 0; i < values.length; i++) {
    const value = values[i]!;
    const rounded = Math.fround(Number(value));
    if (fromFloat) {
      const lost = !Number.isFinite(rounded) && Number.isFinite(value);
      if (lost) unfit(tensor, i, value, to, "in the range of f32");
    } else if (value > exact || value < -exact) {
      unfit(tensor, i, value, to, `from -${exact} to ${exact}`);
    }
    out[i] = rounded;
  }
  return out;
}

function unfit(tensor: string, index: number, value: number | bigint, to: DType, expected: string): never {
  throw new FormatError(
    `tensor ${quote(tensor)}: element ${index} does not fit ${to}: expected ${expected}, got ${value}`,
    {
      details: { key: tensor, index, expected, got: show(value) },
    },
  );
}
