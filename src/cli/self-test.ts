// Runs every case of self-test-cases.ts on a device and on the reference, and compares. No printing here.

import type { Device } from "../core/device.js";
import type { HostArray } from "../core/dtype.js";
import { OctavoError } from "../core/errors.js";
import { Tensor } from "../core/tensor.js";
import { OPS } from "../ops/index.js";
import type { Op } from "../ops/op.js";
import { pack, unpack } from "../ops/pack.js";
import { type CaseOperand, type SelfTestCase, selfTestCases } from "./self-test-cases.js";

export interface CaseResult {
  readonly op: string;
  readonly what: string;
  /** Largest error over all outputs, relative to the largest magnitude of the reference; NaN if there is none. */
  readonly error: number;
  readonly tolerance: number;
  readonly passed: boolean;
  /** Why it did not run, or where the results differ. */
  readonly problem?: string;
}

/** Largest |got - want| over max(1, largest |want|); infinite where lengths differ or one is NaN and the other is not. */
export function relativeError(got: ArrayLike<number>, want: ArrayLike<number>): number {
  if (got.length !== want.length) return Number.POSITIVE_INFINITY;
  let largest = 0;
  let scale = 1;
  for (let i = 0; i < want.length; i++) {
    if (Object.is(got[i], want[i])) continue;
    const error = Math.abs(got[i]! - want[i]!);
    if (!(error <= Number.MAX_VALUE)) return Number.POSITIVE_INFINITY;
    if (error > largest) largest = error;
  }
  for (let i = 0; i < want.length; i++) if (Math.abs(want[i]!) > scale) scale = Math.abs(want[i]!);
  return largest / scale;
}

/** The outputs and the operands written in place, after the call. */
async function run(device: Device, op: Op, test: SelfTestCase): Promise<HostArray[]> {
  const inputs = test.inputs.map((operand) => operand && upload(device, operand));
  const written: Tensor[] = [];
  try {
    written.push(...op.runAll(inputs, test.attributes));
    op.signature.inputs.forEach((spec, i) => {
      if (spec.mutated && inputs[i]) written.push(inputs[i]);
    });
    const values: HostArray[] = [];
    for (const tensor of written) {
      const rows = unpack(tensor);
      values.push(await rows.read());
      if (rows !== tensor) rows.dispose();
    }
    return values;
  } finally {
    for (const tensor of new Set([...inputs, ...written])) tensor?.dispose();
  }
}

function upload(device: Device, { shape, dtype, values, panels }: CaseOperand): Tensor {
  const rows = Tensor.from(device, values, shape, dtype, "self-test");
  if (!panels) return rows;
  const target = Tensor.panels(device, shape[0]!, shape[1]!, dtype, "self-test");
  pack(rows, target);
  rows.dispose();
  return target;
}

/** Runs one case on both devices and compares. */
export async function compareCase(device: Device, reference: Device, test: SelfTestCase): Promise<CaseResult> {
  const { op: name, what, tolerance } = test;
  const failed = (problem: string): CaseResult => ({
    op: name,
    what,
    error: Number.NaN,
    tolerance,
    passed: false,
    problem,
  });
  const op = OPS.find((candidate) => candidate.name === name);
  if (!op) return failed("there is no such op");
  if (!device.supports(name)) return failed(`device ${device.name} has no kernel for it`);
  try {
    const want = await run(reference, op, test);
    const got = await run(device, op, test);
    const error = Math.max(0, ...want.map((values, i) => relativeError(got[i]!, values)));
    const passed = error <= tolerance;
    return { op: name, what, error, tolerance, passed, ...(passed ? {} : { problem: "differs from the reference" }) };
  } catch (error) {
    return failed(error instanceof OctavoError ? error.message.split("\n")[0]! : String(error));
  }
}

/** All cases, in the order of their list; ops without a case count as failures and come last. */
export async function selfTest(device: Device, reference: Device): Promise<CaseResult[]> {
  const cases = selfTestCases();
  const results: CaseResult[] = [];
  for (const test of cases) results.push(await compareCase(device, reference, test));
  for (const { name } of OPS) {
    if (cases.some((test) => test.op === name)) continue;
    results.push({ op: name, what: "", error: Number.NaN, tolerance: 0, passed: false, problem: "has no self-test" });
  }
  return results;
}
