// What all formats of packed matrices share. A packed matrix is stored in several tensors, whose values are small integers or
// 8-bit floats with scales for groups of them; its rows are decoded to f32 as they are read.

import { widen } from "../../core/dtype.js";
import { FormatError } from "../../core/errors.js";
import { shapeText, show } from "../../core/show.js";
import type { CodeRows, PackedMatrix, StoredDType, StoredTensor } from "../stored.js";
import { convertBytes } from "../values.js";

/** How the matrices of a checkpoint are packed: made from its `quantization_config`. */
export interface PackedFormat {
  /** In words, for messages: "gptq, 4 bits". */
  readonly name: string;
  /**
   * The packed matrix that a stored tensor belongs to, if it is the main one of it.
   * @throws FormatError for tensors that do not fit each other
   */
  claim(main: StoredTensor, tensors: ReadonlyMap<string, StoredTensor>): Claim | undefined;
}

export interface Claim {
  /** The name of the matrix in the model. */
  readonly name: string;
  /** [outputs, inputs], or with experts before them. */
  readonly shape: readonly number[];
  readonly packed: PackedMatrix;
  /** Tensors that belong to it and are not read: scales of activations. */
  readonly unused?: readonly string[];
}

/** @throws FormatError unless a tensor has one of these dtypes, and a shape that fits */
export function expectTensor(
  tensor: StoredTensor,
  dtypes: readonly StoredDType[],
  ...shapes: readonly (readonly number[])[]
): StoredTensor {
  const { name, file, dtype, shape } = tensor;
  const fits = shapes.some((one) => one.length === shape.length && one.every((size, d) => size === shape[d]));
  if (dtypes.includes(dtype) && fits) return tensor;
  const expected = `${dtypes.join(" or ")} ${shapes.map(shapeText).join(" or ")}`;
  throw new FormatError(`tensor ${name}: expected ${expected}, got ${dtype} ${shapeText(shape)}`, {
    details: { file, key: name, expected, got: `${dtype} ${shapeText(shape)}` },
  });
}

/** @throws FormatError if a matrix lacks a tensor */
export function needed(tensors: ReadonlyMap<string, StoredTensor>, name: string, main: StoredTensor): StoredTensor {
  const found = tensors.get(name);
  if (found) return found;
  throw new FormatError(`tensor ${main.name}: its ${show(name)} is missing`, {
    details: { file: main.file, key: name },
    hint: "the download is not complete; download the folder again",
  });
}

export const FLOAT_DTYPES: readonly StoredDType[] = ["F16", "BF16", "F32"];

/** Dtypes of scales beside values of a byte: exponents alone (F8_E8M0, OCP Microscaling 1.0), too. */
export const SCALE_DTYPES: readonly StoredDType[] = [...FLOAT_DTYPES, "F8_E8M0"];

/** Elements of a float tensor, or of one of exponents. */
export function floatsFrom(tensor: StoredTensor, bytes: Uint8Array): Float32Array {
  if (tensor.dtype === "F8_E8M0") {
    return Float32Array.from(bytes, (exponent) => (exponent === 255 ? Number.NaN : 2 ** (exponent - 127)));
  }
  return widen("f32", convertBytes(tensor.dtype, bytes, "f32", tensor.name));
}

/** Elements of an int32 tensor. */
export function integersFrom(bytes: Uint8Array): Int32Array {
  return new Int32Array(bytes.slice().buffer);
}

/**
 * The group of each input.
 * @throws FormatError for a group that has no scales
 */
export function groupsFrom(values: Int32Array, groups: number, { name, file }: StoredTensor): Int32Array {
  const bad = values.findIndex((group) => group < 0 || group >= groups);
  if (bad < 0) return values;
  throw new FormatError(`tensor ${name}: input ${bad} is in group ${values[bad]}, of ${groups}`, {
    details: { file, key: name, expected: `0 to ${groups - 1}`, got: values[bad] },
  });
}

/** Groups of neighbours: input k is in group k / size. */
export function plainGroups(inputs: number, size: number): Int32Array {
  return Int32Array.from({ length: inputs }, (_, k) => Math.floor(k / size));
}

/**
 * Statistics of 4-bit codes that a file holds group by group, with all outputs of a group side by side.
 * @param factors scales [groups, outputs]
 * @param zeros 8 less the zero points, likewise; absent: none
 */
export function byGroup({
  factors,
  zeros,
  groups,
  outputs,
}: {
  readonly factors: Float32Array;
  readonly zeros: Int8Array | undefined;
  readonly groups: number;
  readonly outputs: number;
}): { readonly zero_points: boolean; rows(at: number, count: number): Omit<CodeRows, "codes"> } {
  const zero_points = zeros?.some((zero) => zero !== 0) ?? false;
  const turned = (at: number, count: number, value: (i: number) => number): Float32Array =>
    Float32Array.from({ length: count * groups }, (_, i) =>
      value((i % groups) * outputs + at + Math.floor(i / groups)),
    );
  return {
    zero_points,
    rows: (at, count) => ({
      absmax: turned(at, count, (i) => 8 * factors[i]!),
      ...(zero_points && { shifts: turned(at, count, (i) => factors[i]! * zeros![i]!) }),
    }),
  };
}
