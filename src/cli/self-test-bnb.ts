// Calls of the ops of octavo/bnb for the self-test of `octavo doctor`.

import { stepAttributes } from "../ops/optimizer.js";
import type { CaseOperand, SelfTestCase } from "./self-test-case.js";

/** Makers of operands, as in self-test-cases.ts. */
export interface Makers {
  readonly floats: (shape: number[]) => CaseOperand;
  readonly positive: (shape: number[]) => CaseOperand;
  readonly codes8: (shape: number[]) => CaseOperand;
  readonly bytes: (shape: number[]) => CaseOperand;
  readonly withOutliers: (shape: number[]) => CaseOperand;
  /** The signed 8-bit map. */
  readonly map: CaseOperand;
}

const NUMBERS = { lr: 0.01, beta1: 0.9, beta2: 0.99, eps: 1e-3 };

/** @param float the error that floats may have */
export function bnbCases(
  { floats, positive, codes8, bytes, withOutliers, map }: Makers,
  float: number,
): SelfTestCase[] {
  const length = 133;
  const state = (): CaseOperand[] => [floats([length]), floats([length]), floats([length]), positive([length])];
  const numbers = stepAttributes("adam", NUMBERS);
  const zeros: CaseOperand = { shape: [3], dtype: "i32", values: Int32Array.of(-3, 0, 5) };
  const momentum = stepAttributes("momentum", NUMBERS);
  return [
    { op: "int8_quantize", what: "outlier columns", tolerance: 0, inputs: [withOutliers([3, 67])], attributes: [6] },
    { op: "int8_matmul", what: "i8", tolerance: 0, inputs: [codes8([3, 67]), codes8([5, 67])], attributes: [] },
    {
      ...{ op: "affine_quantize", what: "zero points", tolerance: 0 },
      ...{ inputs: [floats([length])], attributes: [64, 0, 0, 0, 0] },
    },
    {
      ...{ op: "affine_dequantize", what: "zero points", tolerance: float },
      ...{ inputs: [codes8([length]), positive([3]), zeros], attributes: [64] },
    },
    {
      ...{ op: "blockwise_quantize", what: "64 of 133", tolerance: 0 },
      ...{ inputs: [floats([length]), map], attributes: [64] },
    },
    {
      ...{ op: "blockwise_dequantize", what: "64 of 133", tolerance: float },
      ...{ inputs: [bytes([length]), positive([3]), map], attributes: [64] },
    },
    {
      ...{ op: "optimizer_step", what: "adam", tolerance: float },
      ...{ inputs: [...state(), undefined, undefined], attributes: numbers },
    },
    {
      // One state: the codes of two would be those of numbers that a last bit tips.
      ...{ op: "optimizer_step_8bit", what: "momentum", tolerance: float },
      inputs: [
        floats([length]),
        { ...floats([length]), values: new Float32Array(length) },
        { ...bytes([length]), values: new Uint8Array(length).fill(127) },
        positive([1]),
        undefined,
        undefined,
        { ...map, shape: [1, 256] },
      ],
      attributes: momentum,
    },
    {
      ...{ op: "optimizer_clip", what: "adam", tolerance: float },
      ...{ inputs: [...state(), undefined], attributes: [...numbers, 0.01] },
    },
  ];
}
