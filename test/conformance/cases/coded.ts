// Products in 8-bit codes: the operands as they are rounded, and what products in floats differ by.

import { inCodes } from "../../../src/ops/four-bit.js";
import { COMPUTE } from "../../../src/ops/linear.js";

/** Rows of x[..,K] in 127 steps of the largest magnitude of each block. */
export function codedRows(x: Float32Array, blocksize: number): Float32Array {
  const rounded = new Float32Array(x.length);
  for (let at = 0; at < x.length; at += blocksize) {
    const block = x.subarray(at, at + blocksize);
    const most = block.reduce((largest, value) => Math.max(largest, Math.abs(value)), 0);
    block.forEach((value, i) => {
      rounded[at + i] = most === 0 ? 0 : (Math.round((127 * value) / most) / 127) * most;
    });
  }
  return rounded;
}

/** The values of a table in 127 steps. */
export function inSteps(table: Float32Array): Float32Array {
  return table.map((value) => Math.round(127 * value) / 127);
}

/** Whether a case is multiplied in 8-bit codes where all is as it is defined. */
export function isCoded(compute: keyof typeof COMPUTE, K: number, blocksize: number): boolean {
  return inCodes(COMPUTE[compute], K, blocksize);
}

/**
 * What products in floats may differ from those in codes: half a step of each activation, whose step is the largest magnitude of
 * its block over 127, times the weight as it was rounded; and half a step of the table, 0.5/127 of the block's absmax, times the
 * activation.
 * @param dense weights of rows of K
 * @param largest absmax of each block of them
 */
export function codedRounding(
  x: Float32Array,
  { dense, largest }: { readonly dense: Float32Array; readonly largest: Float32Array },
  K: number,
  blocksize: number,
): (m: number, n: number) => number {
  return (m, n) => {
    let sum = 0;
    for (let at = 0; at < K; at += blocksize) {
      let most = 0;
      for (let k = at; k < at + blocksize; k++) most = Math.max(most, Math.abs(x[m * K + k]!));
      const halfStep = most / 254;
      const halfCode = Math.abs(largest[(n * K + at) / blocksize]! / 254);
      for (let k = at; k < at + blocksize; k++) {
        sum += halfStep * (Math.abs(dense[n * K + k]!) + halfCode) + Math.abs(x[m * K + k]!) * halfCode;
      }
    }
    return sum;
  };
}
