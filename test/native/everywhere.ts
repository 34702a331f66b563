// One test body run at every instruction set level that this machine has, with one thread and with three.

import { afterAll, expect, test } from "vitest";
import { machineInfo } from "../../src/backends/native/addon.js";
import { type DType, fromBf16, fromF16, toBf16, toF16 } from "../../src/core/dtype.js";
import { distance, Machine, type Operand } from "./helpers.js";

const info = machineInfo();
const levels = info.isasCompiled.filter((isa) => info.isasSupported.includes(isa));
const machines = levels.flatMap((isa) => [1, 3].map((threads) => new Machine({ isa, threads })));

afterAll(() => Promise.all(machines.map((m) => m.backend.close())));

/** The value nearest to x that the dtype holds. */
export const round = (dtype: DType, x: number) =>
  dtype === "f16" ? fromF16(toF16(x)) : dtype === "bf16" ? fromBf16(toBf16(x)) : x;

/** Runs the body on every machine; results of equal levels must be equal bit for bit. */
export function everywhere(name: string, body: (m: Machine) => Promise<ArrayLike<number>[]>): void {
  test(name, async () => {
    for (const isa of levels) {
      const [one, three] = await Promise.all(machines.filter((m) => m.backend.isa === isa).map(body));
      expect(one!.length).toBe(three!.length);
      for (const [i, values] of one!.entries()) expect(distance(values, three![i]!), `${isa}: threads`).toBe(0);
    }
  });
}

export async function close(
  m: Machine,
  got: Operand,
  expected: ArrayLike<number>,
  tolerance: number,
): Promise<Float32Array> {
  const values = await m.floats(got);
  expect(distance(values, expected), m.backend.description).toBeLessThanOrEqual(tolerance);
  return values;
}
