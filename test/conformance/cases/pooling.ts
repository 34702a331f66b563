// Cases of max_rows and its gradient: masked and not, equal values, NaN, sequences that are masked completely. All exact.

import fc from "fast-check";
import { maxRowsBackOp, maxRowsOp } from "../../../src/ops/max-rows.js";
import { type Case, type Family, operand } from "../../support/conformance.js";
import { integers, normals, product } from "../../support/random.js";
import { seeds } from "./_tools.js";

type Sizes = readonly [B: number, T: number, K: number];
type Mask = "none" | "some" | "all";

function poolCase(sizes: Sizes, mask: Mask, values: "any" | "few" | "nan", seed: number, back: boolean): Case {
  const [B, T, K] = sizes;
  const x = values === "few" ? Float32Array.from(integers(seed, product(sizes), 0, 2)) : normals(seed, product(sizes));
  if (values === "nan") for (let i = 5; i < x.length; i += 11) x[i] = Number.NaN;
  const hidden = integers(seed + 1, B * T, 0, 1);
  const shown = Uint8Array.from(hidden, (one, i) => (mask === "all" && i < T ? 0 : one));
  return {
    name: `[${sizes}] mask ${mask} ${values} seed ${seed}`,
    inputs: [
      operand(sizes, x),
      mask === "none" ? undefined : operand([B, T], shown, "u8"),
      ...(back ? [operand([B, K], normals(seed + 2, B * K))] : []),
    ],
    attrs: [],
  };
}

const TABLE: readonly Parameters<typeof poolCase>[] = [false, true].flatMap((back) => [
  [[1, 1, 1], "none", "any", 1, back],
  [[2, 5, 16], "none", "any", 2, back],
  [[3, 7, 37], "some", "any", 3, back],
  [[3, 7, 37], "some", "few", 4, back],
  [[2, 9, 20], "all", "any", 5, back],
  [[2, 9, 33], "some", "nan", 6, back],
  [[1, 130, 5], "none", "few", 7, back],
]);

function family(op: Family["op"], back: boolean): Family {
  return {
    op,
    table: TABLE.filter((one) => one[4] === back).map((one) => poolCase(...one)),
    fuzz: fc
      .record({
        sizes: fc.tuple(
          fc.integer({ min: 1, max: 4 }),
          fc.integer({ min: 1, max: 20 }),
          fc.integer({ min: 1, max: 70 }),
        ),
        mask: fc.constantFrom("none" as const, "some" as const, "all" as const),
        values: fc.constantFrom("any" as const, "few" as const),
        seed: seeds,
      })
      .map(({ sizes, mask, values, seed }) => poolCase(sizes, mask, values, seed, back)),
  };
}

export const POOLING: readonly Family[] = [family(maxRowsOp, false), family(maxRowsBackOp, true)];
