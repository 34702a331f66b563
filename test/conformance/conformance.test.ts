// Conformance of the CPU and of WebAssembly, in every instruction set and form (suite.ts).

import { expect, test } from "vitest";
import { OPS } from "../../src/ops/index.js";
import { CPU_TARGETS } from "../support/targets.js";
import { FAMILIES } from "./cases/index.js";
import { conformance } from "./suite.js";

test("every op has cases, and no case is of an unknown op", () => {
  expect(FAMILIES.map(({ op }) => op.name).sort()).toEqual(OPS.map(({ name }) => name).sort());
  for (const { op, table } of FAMILIES) {
    expect(table.length, op.name).toBeGreaterThan(1);
    expect(new Set(table.map(({ name }) => name)).size, `${op.name}: names of cases`).toBe(table.length);
  }
});

conformance(CPU_TARGETS);
