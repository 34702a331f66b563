// Host values as callers give them, as bytes in a device's dtypes, and back.

import { type DType, type HostArray, isFloat, narrow, widen } from "./dtype.js";
import { DTypeError, ShapeError } from "./errors.js";
import { show } from "./show.js";

/** Values that a caller gives for a tensor. */
export type HostValues = Float32Array | Int32Array | Int8Array | Uint8Array | readonly number[];

/**
 * The values that a caller gave, a list as a copy.
 * @param wanted how many there must be
 * @throws DTypeError for what holds no numbers, ShapeError for another count
 */
export function checkedValues(values: unknown, wanted: number, what: string): HostValues {
  const count = countOf(values);
  if (count === undefined) {
    throw new DTypeError(`write: values must be a list of numbers or a typed array, got ${show(values)}`);
  }
  if (count !== wanted) throw new ShapeError(`write: ${what} wants ${wanted} values, got ${count}`);
  if (ArrayBuffer.isView(values)) return values as Float32Array;
  const copy = new Float64Array(count);
  for (let i = 0; i < count; i++) {
    let value: unknown;
    try {
      value = (values as readonly unknown[])[i];
    } catch (cause) {
      throw new DTypeError(`write: value ${i} cannot be read`, { cause });
    }
    if (typeof value !== "number") throw new DTypeError(`write: value ${i} is ${show(value)}, not a number`);
    copy[i] = value;
  }
  return copy as ArrayLike<number> as readonly number[];
}

/** How many numbers a list or a typed array holds; undefined for anything else. */
function countOf(values: unknown): number | undefined {
  try {
    if (Array.isArray(values)) return values.length;
  } catch {
    return undefined; // a proxy
  }
  if (!ArrayBuffer.isView(values) || values instanceof DataView) return undefined;
  if (values instanceof BigInt64Array || values instanceof BigUint64Array) return undefined;
  return (values as Uint8Array).length;
}

/** The dtype of a tensor that is made of values without a word about it. */
export function dtypeOf(values: unknown): DType {
  if (!ArrayBuffer.isView(values)) return "f32";
  if (values instanceof Int32Array) return "i32";
  if (values instanceof Int8Array) return "i8";
  return values instanceof Uint8Array ? "u8" : "f32";
}

/** The bytes of values in `dtype`; rounded half to even for f16 and bf16. */
export function encode(dtype: DType, values: HostValues): Uint8Array {
  if (isFloat(dtype)) return narrow(dtype, values instanceof Float32Array ? values : Float32Array.from(values));
  const typed =
    dtype === "i32"
      ? values instanceof Int32Array
        ? values
        : Int32Array.from(values)
      : dtype === "i8"
        ? values instanceof Int8Array
          ? values
          : Int8Array.from(values)
        : values instanceof Uint8Array
          ? values
          : Uint8Array.from(values);
  return new Uint8Array(typed.buffer, typed.byteOffset, typed.byteLength);
}

/** The values of bytes in `dtype`; f16 and bf16 are widened to f32, u4 stays packed. */
export function decode(dtype: DType, bytes: Uint8Array): HostArray {
  const aligned = bytes.byteOffset % 4 === 0 ? bytes : new Uint8Array(bytes);
  const { buffer, byteOffset, byteLength } = aligned;
  switch (dtype) {
    case "f32":
      return new Float32Array(buffer, byteOffset, byteLength / 4);
    case "i32":
      return new Int32Array(buffer, byteOffset, byteLength / 4);
    case "i8":
      return new Int8Array(buffer, byteOffset, byteLength);
    case "u8":
    case "u4":
      return aligned;
    case "f16":
    case "bf16":
      return widen(dtype, aligned);
  }
}
