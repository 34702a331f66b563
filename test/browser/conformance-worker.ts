// The conformance suite as the Worker of a page: opens a device of the browser and checks cases on it. The test drives
// it through `globalThis.suite` (conformance.test.ts); nothing of Node's is in here.

import fc from "fast-check";
import { requestDevice } from "../../src/browser/platform.js";
import type { Device } from "../../src/core/device.js";
import { OPS } from "../../src/ops/index.js";
import { FAMILIES } from "../conformance/cases/index.js";
import { Checker, TABLES, type Tolerance, WGSL } from "../support/check.js";
import { type Family, type Floats, floatsOf, withFloats } from "../support/conformance.js";

export interface Suite {
  /** Opens a device; gives its description, and the ops that it has no kernel for. */
  open(target: "webgpu" | "wasm"): Promise<{ description: string; lacks: string[] }>;
  /** Problems of every `step`-th case in the table of an op; other dtypes begin with another case. */
  table(op: string, floats: Floats, step: number): Promise<string[]>;
  /** What went wrong in fuzzed cases of an op, if anything did. */
  fuzz(op: string, runs: number, seed: number): Promise<string | undefined>;
  /** Closes the device; gives the owners of memory that is left. */
  close(): Promise<string[]>;
}

const checker = requestDevice("reference").then((reference) => new Checker(reference));
let device: Device;
let tolerance: Tolerance;

function familyOf(op: string): Family {
  return FAMILIES.find((family) => family.op.name === op)!;
}

export const suite: Suite = {
  async open(target) {
    device = await requestDevice(target);
    tolerance =
      target === "webgpu" ? { name: target, panels: false, ...WGSL } : { name: target, panels: true, scale: 1 };
    return {
      description: device.backend.description,
      lacks: OPS.filter(({ name }) => !device.supports(name)).map(({ name }) => name),
    };
  },
  async table(op, floats, step) {
    const family = familyOf(op);
    const [, table] = TABLES.get(family)!.find(([name]) => name === floats)!;
    const first = floatsOf(family).indexOf(floats) % step;
    const cases = table.filter((_, i) => i % step === first);
    return (await (await checker).checkTable(device, tolerance, family, cases)).problems;
  },
  async fuzz(op, runs, seed) {
    const family = familyOf(op);
    const outcome = await fc.check(
      fc.asyncProperty(family.fuzz, fc.constantFrom(...floatsOf(family)), async (one, dtype) => {
        const problems = await (await checker).check(
          device,
          tolerance,
          family,
          withFloats(family.op, one, dtype),
          false,
        );
        if (problems.length > 0) throw new Error(problems.join("\n"));
      }),
      { numRuns: runs, seed },
    );
    return outcome.failed ? fc.defaultReportMessage(outcome) : undefined;
  },
  async close() {
    const left = device.arena.owners().map(({ label, bytes, count }) => `${label}: ${bytes} bytes in ${count}`);
    await device.close();
    return left;
  },
};

Object.assign(globalThis, { suite });
