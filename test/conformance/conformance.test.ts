// Conformance: every op, on every backend and instruction set, in every float dtype, against its own reference loops.
// The table of each op covers its features; fuzzing looks for what nobody thought of. FUZZ_SEED=random FUZZ_RUNS=500
// looks longer, and FUZZ_SEED repeats a failing run.

import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { Device } from "../../src/core/device.js";
import { KernelError } from "../../src/core/errors.js";
import { openDevice } from "../../src/load/device.js";
import { OPS } from "../../src/ops/index.js";
import {
  type Case,
  compare,
  type Family,
  floatsOf,
  type Results,
  runCase,
  withFloats,
} from "../support/conformance.js";
import { expectNoLeaks } from "../support/devices.js";
import { TARGETS, type Target } from "../support/targets.js";
import { FAMILIES } from "./cases/index.js";

/** Fuzzed cases per op and device; FUZZ_RUNS asks for more. */
const RUNS = Number(process.env.FUZZ_RUNS ?? 24);
// The same commit gives the same answer; FUZZ_SEED=random looks elsewhere, and a failure prints the seed that repeats it.
const SEED = process.env.FUZZ_SEED === "random" ? undefined : Number(process.env.FUZZ_SEED ?? 20_260);

const reference: Device = openDevice("reference");
const expectations = new Map<Case, Promise<Results>>();

/** What the reference makes of a case; table cases are computed once for all devices. */
function expectation(family: Family, one: Case, keep: boolean): Promise<Results> {
  const known = expectations.get(one);
  if (known) return known;
  const results = runCase(reference, family.op, one, false);
  if (keep) expectations.set(one, results);
  return results;
}

/** Problems of one case on one device. */
async function check(device: Device, target: Target, family: Family, one: Case, keep: boolean): Promise<string[]> {
  const { op } = family;
  if (one.fails) {
    for (const [where, on] of [
      ["reference", reference],
      [target.name, device],
    ] as const) {
      const outcome = await runCase(on, op, one, target.panels && on === device).then(
        () => "it was computed",
        (error: unknown) => (error instanceof KernelError && error.details.op === op.name ? undefined : String(error)),
      );
      if (outcome) return [`${one.name}: ${where} must reject with a KernelError of ${op.name}; ${outcome}`];
    }
    return [];
  }
  const want = await expectation(family, one, keep);
  const scaled: Case = target.scale === 1 ? one : { ...one, bound: widened(one.bound, target) };
  return compare(scaled, want, await runCase(device, op, one, target.panels));
}

function widened(bound: Case["bound"], { scale, floor = 0 }: Target): Case["bound"] {
  return (want) => {
    const exact = bound?.(want) ?? 0;
    return typeof exact === "number" ? Math.max(exact * scale, floor) : (i) => Math.max(exact(i) * scale, floor);
  };
}

/** Table cases by family and float dtype, so that each is one object for all devices. */
const TABLES = new Map(
  FAMILIES.map((family) => [
    family,
    floatsOf(family).map((floats) => [floats, family.table.map((one) => withFloats(family.op, one, floats))] as const),
  ]),
);

test("every op has cases, and no case is of an unknown op", () => {
  expect(FAMILIES.map(({ op }) => op.name).sort()).toEqual(OPS.map(({ name }) => name).sort());
  for (const { op, table } of FAMILIES) {
    expect(table.length, op.name).toBeGreaterThan(1);
    expect(new Set(table.map(({ name }) => name)).size, `${op.name}: names of cases`).toBe(table.length);
  }
});

afterAll(async () => {
  expectNoLeaks(reference);
  await reference.close();
});

for (const target of TARGETS) {
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
      for (const [floats, table] of TABLES.get(family)!) {
        test(`${op.name} ${floats}`, async () => {
          const problems: string[] = [];
          let refused = 0;
          for (const one of table) {
            try {
              problems.push(...(await check(device, target, family, one, true)));
            } catch (error) {
              const { message } = error as Error;
              if (target.refuses?.test(message)) refused++;
              else problems.push(`${one.name}: ${message}`);
            }
          }
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
            expect(await check(device, target, family, withFloats(op, one, dtype), false)).toEqual([]);
          }),
          { numRuns: runs, seed: SEED },
        );
      });
    }
  });
}
