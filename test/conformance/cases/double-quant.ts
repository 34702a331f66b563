// Cases of double quantization: statistics in 8-bit codes.

import fc from "fast-check";
import { doubleQuantizeOp } from "../../../src/ops/double-quantize.js";
import { NESTED_BLOCK } from "../../../src/ops/four-bit.js";
import { dynamicMap } from "../../../src/quant/_dynamic-map.js";
import { type Case, type Family, operand } from "../../support/conformance.js";
import { bytes, normals } from "../../support/random.js";
import { seeds } from "./_tools.js";

const MAP = dynamicMap(true);

function doubleCase(count: number, flat: boolean, seed: number, broken?: number): Case {
  const nested = Math.ceil(count / NESTED_BLOCK);
  const absmax = flat ? new Float32Array(count).fill(0.5) : normals(seed, count).map(Math.abs);
  if (broken !== undefined) absmax[count >> 1] = broken;
  return {
    name: `${count}${flat ? " equal" : ""} seed ${seed} ${broken ?? ""}`,
    inputs: [
      operand([count], absmax),
      operand([256], MAP),
      operand([count], bytes(seed, count)),
      operand([nested], normals(seed, nested)),
      operand([1], Float32Array.of(9)),
    ],
    attrs: [],
  };
}

export const double: Family = {
  op: doubleQuantizeOp,
  table: [
    ...[1, 2, 255, 256, 257, 1000, 0].map((count) => doubleCase(count, false, count)),
    doubleCase(40, true, 3),
    ...[1, 40, 1000].map((count) => doubleCase(count, false, count, Number.NaN)),
    ...[1, 40, 1000].map((count) => doubleCase(count, false, count, Number.POSITIVE_INFINITY)),
  ],
  fuzz: fc.tuple(fc.integer({ min: 1, max: 1200 }), fc.boolean(), seeds).map((all) => doubleCase(...all)),
};
