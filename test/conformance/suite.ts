// Conformance: every op, on every backend and instruction set, in every float dtype, against its own reference loops.
// The table of each op covers its features; fuzzing looks for what nobody thought of. FUZZ_SEED=random FUZZ_RUNS=500
// looks longer, and FUZZ_SEED repeats a failing run.

import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { Device } from "../../src/core/device.js";
import { openDevice } from "../../src/load/device.js";
import { OPS } from "../../src/ops/index.js";
import { Checker, TABLES } from "../support/check.js";
import { floatsOf, withFloats } from "../support/conformance.js";
import { expectNoLeaks } from "../support/devices.js";
import type { Target } from "../support/targets.js";
import { FAMILIES } from "./cases/index.js";

/** Fuzzed cases per op and device; FUZZ_RUNS asks for more. */
const RUNS = Number(process.env.FUZZ_RUNS ?? 24);
// The same commit gives the same answer; FUZZ_SEED=random looks elsewhere, and a failure prints the seed that repeats it.
const SEED = process.env.FUZZ_SEED === "random" ? undefined : Number(process.env.FUZZ_SEED ?? 20_260);

/** Declares the tests of every op on these targets. */
export function conformance(targets: readonly Target[]): void {
  const reference: Device = openDevice("reference");
  const checker = new Checker(reference);

  afterAll(async () => {
    expectNoLeaks(reference);
    await reference.close();
  });

  for (const target of targets) {
    if (target.skip) {
      test.skip(`${target.name}: ${target.skip}`);
      continue;
    }
    describe(target.name, { timeout: target.timeout ?? 60_000 }, () => {
      let device: Device;
      beforeAll(async () => {
        device = await target.open();
      });
      afterAll(async () => {
        expectNoLeaks(device);
        await device.close();
      });

      if (target.complete) {
        test("has a kernel for every op", () => {
          expect(OPS.filter(({ name }) => !device.supports(name)).map(({ name }) => name)).toEqual([]);
        });
      }

      for (const family of FAMILIES) {
        const { op } = family;
        if (target.only && !target.only.includes(op.name)) continue;
        // Rows and panels differ only where an operand may be in panels.
        if (target.panels && !op.signature.inputs.some((spec) => spec.panels)) continue;
        for (const [floats, all] of TABLES.get(family)!) {
          const table = target.casesOf?.(op.name, floats, all) ?? all;
          test(`${op.name} ${floats}`, async () => {
            const { problems, refused } = await checker.checkTable(device, target, family, table);
            expect(refused, "cases that are too large for the target").toBeLessThan(table.length);
            expect(problems.slice(0, 12), `${problems.length} problems of ${table.length} cases`).toEqual([]);
          });
        }
        const runs = Math.min(RUNS, target.fuzz ?? RUNS);
        if (runs === 0) continue;
        test(`${op.name} fuzzed`, async () => {
          const floats = floatsOf(family);
          await fc.assert(
            fc.asyncProperty(family.fuzz, fc.constantFrom(...floats), async (one, dtype) => {
              expect(await checker.check(device, target, family, withFloats(op, one, dtype), false)).toEqual([]);
            }),
            { numRuns: runs, seed: SEED },
          );
        });
      }
    });
  }
}
