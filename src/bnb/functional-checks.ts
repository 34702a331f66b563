// What the functions of bitsandbytes ask of their arguments, and the shapes in which they hand tensors to ops.

import type { Device } from "../core/device.js";
import { type DType, isFloat, parseDType } from "../core/dtype.js";
import { DTypeError, OptionError, ShapeError } from "../core/errors.js";
import { type Entry, such } from "../core/options.js";
import { shapeText, show } from "../core/show.js";
import { Tensor } from "../core/tensor.js";
import type { FloatDType } from "../nn/weight.js";
import { contiguous } from "../ops/copy.js";

export const FLOAT_DTYPES = ["f32", "f16", "bf16"] as const satisfies readonly DType[];

/** @throws OptionError for what is no tensor, DTypeError for one of another dtype, ShapeError for one in panels */
export function checkedTensor(place: string, name: string, value: unknown, dtypes: readonly DType[]): Tensor {
  if (!Tensor.is(value)) {
    throw new OptionError(`${place}: ${name} must be a Tensor, got ${show(value)}`, {
      hint: "Tensor.from(device, values, shape)",
    });
  }
  if (!dtypes.includes(value.dtype)) {
    throw new DTypeError(`${place}: ${name} must be ${dtypes.join(" or ")}, got ${value.dtype}`, {
      details: { operand: name, expected: dtypes.join("|"), got: value.dtype },
    });
  }
  if (value.panels) throw new ShapeError(`${place}: ${name} must be in rows, not in a device's panel layout`);
  return value;
}

/** @throws ShapeError unless the tensor has that many elements */
export function checkedSize(place: string, name: string, value: Tensor, size: number): void {
  if (value.size === size) return;
  throw new ShapeError(`${place}: ${name} must have ${size} elements, got ${shapeText(value.shape)}`, {
    details: { operand: name, expected: size, got: value.size },
  });
}

/** All elements in a row. Call it in a scope. */
export function flat(x: Tensor): Tensor {
  return contiguous(x).view(x.size);
}

/** Rows of the last dim; a scalar is a row of one. Call it in a scope. */
export function asMatrix(x: Tensor): Tensor {
  const columns = x.shape.at(-1) ?? 1;
  const rows = x.shape.slice(0, -1).reduce((n, size) => n * size, 1);
  return contiguous(x).view(rows, columns);
}

/** A float tensor in another dtype, rounded once. */
export function cast(x: Tensor, dtype: FloatDType): Tensor {
  return contiguous(x, dtype);
}

/** The float dtype of a tensor that was checked to have one. */
export function floatOf(x: Tensor): FloatDType {
  return isFloat(x.dtype) ? x.dtype : "f32";
}

/** An option that names a float dtype, as torch or Octavo spell it. */
export function floatDType(): Entry<string> {
  const check = (value: unknown): boolean => typeof value === "string" && parseDType(value) !== undefined;
  return such<string>(check, 'a float dtype, such as "float32" or "bf16"');
}

export function tensorOption(): Entry<Tensor> {
  return such<Tensor>(Tensor.is, "a Tensor");
}

/** Values of a map, at most 256 ascending numbers. */
export type MapValues = Float32Array | readonly number[] | Tensor;

/** Stands behind the last value of a map of fewer than 256: no midpoint before it is ever passed. */
const BEYOND = 1e38;

/**
 * A map as f32[256] on the device. Call it in a scope.
 * @throws OptionError, DTypeError, ShapeError for what is no map of at most 256 ascending numbers (a tensor's are not looked at)
 */
export function mapOn(place: string, device: Device, code: MapValues): Tensor {
  if (Tensor.is(code)) {
    const map = checkedTensor(place, "code", code, ["f32"]);
    checkedSize(place, "code", map, 256);
    return contiguous(map).view(256);
  }
  const values = numbersOf(code);
  if (!values || values.length < 1 || values.length > 256) {
    throw new OptionError(`${place}: code must be 1 to 256 numbers or a Tensor of 256, got ${show(code)}`, {
      hint: "create_dynamic_map() gives the default",
    });
  }
  if (values.some((value, i) => !(Math.abs(value) < BEYOND) || (i > 0 && value < values[i - 1]!))) {
    throw new OptionError(`${place}: the values of code must ascend`);
  }
  const full = new Float32Array(256).fill(BEYOND);
  full.set(values);
  return Tensor.from(device, full, [256], "f32", "8-bit map");
}

/** A copy of a list or a typed array of numbers, as f32 or in that kind of array; undefined for anything else. */
export function numbersOf(value: unknown): Float32Array | undefined;
export function numbersOf(value: unknown, kind: typeof Float64Array): Float64Array | undefined;
export function numbersOf(
  value: unknown,
  kind: typeof Float32Array | typeof Float64Array = Float32Array,
): Float32Array | Float64Array | undefined {
  try {
    if (!Array.isArray(value) && !(ArrayBuffer.isView(value) && !(value instanceof DataView))) return undefined;
    const numbers = value as ArrayLike<unknown>;
    // A list may claim any length.
    if (numbers.length > 2 ** 28 || (numbers.length > 0 && typeof numbers[0] !== "number")) return undefined;
    const copy = new kind(numbers.length);
    for (let i = 0; i < copy.length; i++) {
      const one = numbers[i];
      if (typeof one !== "number") return undefined;
      copy[i] = one;
    }
    return copy;
  } catch {
    return undefined; // a proxy or a getter
  }
}
