// MXFP4 as gpt-oss stores it (checkpoints/packed/mxfp4.ts reads it): `NAME_blocks` and `NAME_scales` of a matrix, or of all matrices
// of a stack.

import { scope, type Tensor } from "../core/tensor.js";
import type { MatrixShape, WeightPart } from "../nn/weight.js";
import type { FourBitOperands } from "../ops/four-bit.js";
import { unpack } from "../ops/pack.js";

/** Inputs that share an exponent. */
export const MXFP4_BLOCK = 32;

/** The exponent in a file of an absmax, which is 8 times a power of two; 255, which is no number, of one beyond f32. */
const exponentOf = (absmax: number): number => (Number.isFinite(absmax) ? Math.round(Math.log2(absmax)) + 124 : 255);

/** @param shape of the matrix, or of all matrices of a stack one below the other */
export function mxfp4Parts(
  name: string,
  { codes, absmax }: FourBitOperands,
  [outputs, inputs]: MatrixShape,
  experts: number,
): WeightPart[] {
  const rows = outputs / experts;
  const shape = [...(experts > 1 ? [experts] : []), rows, inputs / MXFP4_BLOCK];
  const read = async (of: () => Tensor): Promise<Uint8Array> => {
    using tensor = scope(() => of().alias());
    return tensor.readBytes();
  };
  return [
    {
      name: `${name}_blocks`,
      dtype: "U8",
      shape: [...shape, MXFP4_BLOCK / 2],
      // Files have the first of two codes in the low half of a byte.
      bytes: async () => (await read(() => unpack(codes))).map((pair) => (pair << 4) | (pair >> 4)),
    },
    {
      name: `${name}_scales`,
      dtype: "U8",
      shape,
      bytes: async () => Uint8Array.from(await absmax.readFloats(), exponentOf),
    },
  ];
}
