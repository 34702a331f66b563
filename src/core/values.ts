// Host values as bytes in a device's dtypes, and back.

import { type DType, type HostArray, isFloat, narrow, widen } from "./dtype.js";

/** The bytes of values in `dtype`; rounded half to even for f16 and bf16. */
export function encode(
  dtype: DType,
  values: Float32Array | Int32Array | Int8Array | Uint8Array | readonly number[],
): Uint8Array {
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
