// Calls that wait until one of their outputs is used, and what a tape can compute again.

import { afterEach, beforeEach, describe, expect, test } from "vitest";
import type { Device } from "../../src/core/device.js";
import { scope, Tensor } from "../../src/core/tensor.js";
import { activation } from "../../src/ops/activation.js";
import { add } from "../../src/ops/add.js";
import { copyInto } from "../../src/ops/copy.js";
import { crossEntropy } from "../../src/ops/cross-entropy.js";
import { multiply } from "../../src/ops/gated.js";
import { valueAndGradients } from "../../src/ops/gradient.js";
import { rmsNorm } from "../../src/ops/rms-norm.js";
import { scale } from "../../src/ops/scale.js";
import { sumRows } from "../../src/ops/sum-rows.js";
import { Tape, taping } from "../../src/ops/tape.js";
import { expectNoLeaks, requestTestDevice } from "../support/devices.js";

describe.each(["reference", "cpu", "wasm"] as const)("%s", (name) => {
  let device: Device;
  beforeEach(async () => {
    device = await requestTestDevice(name);
  });
  afterEach(async () => {
    expectNoLeaks(device);
    await device.close();
  });
  const vector = (...values: number[]): Tensor => Tensor.from(device, values, [values.length]);
  const later = <T>(body: () => T): T => taping(new Tape([], true), () => scope(body as () => never) as T);

  test("only what is read is computed, once, and its memory is taken then", async () => {
    using x = vector(1, 2, 3).keep();
    const before = [device.recorded, device.memory.live];
    const [twice, sum] = later(() => {
      const one = scale(x, 2);
      scale(x, 5);
      return [one, add(one.view(3), x)] as const;
    });
    expect([device.recorded, device.memory.live]).toEqual(before);
    expect(twice.resident).toBe(true);
    expect(await sum.read()).toEqual(Float32Array.of(3, 6, 9));
    expect(device.recorded).toBe(before[0]! + 2);
    expect(await twice.read()).toEqual(Float32Array.of(2, 4, 6));
    expect(device.recorded).toBe(before[0]! + 2);
    twice.dispose();
    sum.dispose();
  });

  test("what is about to be written is read before", async () => {
    using x = vector(1, 2).keep();
    const y = later(() => {
      const before = scale(x, 10);
      copyInto(scale(x, 3), x);
      return [before, scale(x, 10)] as const;
    });
    expect(await y[1].read()).toEqual(Float32Array.of(30, 60));
    expect(await y[0].read()).toEqual(Float32Array.of(10, 20));
    const z = later(() => scale(x, 2));
    later(() => x.write([7, 8]));
    expect(await z.read()).toEqual(Float32Array.of(6, 12));
    for (const one of [...y, z]) one.dispose();
  });

  test("of two outputs one is enough, and inputs may be gone by then", async () => {
    const { loss, lse } = later(() =>
      scope(() => crossEntropy(Tensor.from(device, [0, 0, 0, 0], [1, 4]), Tensor.from(device, new Int32Array(1), [1]))),
    );
    lse.dispose();
    expect((await loss.readFloats())[0]).toBeCloseTo(Math.log(4), 6);
    loss.dispose();
    expect(() => later(() => scale(loss, 2))).toThrow("used after dispose");
  });

  test("the results of cheap ops are computed again, with the same gradients", async () => {
    using x = Tensor.from(device, [1, -2, 3, 4, 5, -6], [2, 3]).keep();
    using ones = vector(1, 1, 1).keep();
    const held: number[] = [];
    const found = scope(() =>
      valueAndGradients([x], () => {
        const before = device.memory.live;
        // silu(norm(x)) squared: only x is kept, whatever is read.
        const y = scope(() => {
          const act = activation(rmsNorm(x, ones, 1e-5), "silu");
          return multiply(act, act);
        });
        held.push(device.memory.live - before - y.nbytes);
        return sumRows(sumRows(y).view(3, 1)).view(1);
      }),
    );
    expect(held).toEqual([0]);
    const at = (values: readonly number[]): number =>
      [values.slice(0, 3), values.slice(3)].reduce((sum, row) => {
        const root = Math.sqrt(row.reduce((total, one) => total + one * one, 0) / 3 + 1e-5);
        return sum + row.reduce((total, one) => total + (one / root / (1 + Math.exp(-one / root))) ** 2, 0);
      }, 0);
    const point = [1, -2, 3, 4, 5, -6];
    const slopes = point.map(
      (one, i) => (at(point.with(i, one + 1e-5)) - at(point.with(i, one - 1e-5))) / 2e-5, // f64: exact to 1e-9
    );
    const gradient = await found.gradients[0]!.readFloats();
    for (const [i, slope] of slopes.entries()) expect(gradient[i]).toBeCloseTo(slope, 5);
    found.value.dispose();
    found.gradients[0]!.dispose();
  });

  test("a long chain of cheap ops is not computed again link by link", async () => {
    using x = vector(1.1, -0.9).keep();
    const before = device.recorded;
    const { value, gradients } = scope(() =>
      valueAndGradients([x], () => {
        let y = x;
        for (let i = 0; i < 12; i++) y = scale(multiply(y, y), 0.9);
        return sumRows(y.view(2, 1)).view(1);
      }),
    );
    expect(device.recorded - before).toBeLessThan(12 * 15);
    for (const one of [value, ...gradients]) one.dispose();
  });

  test("a value that was written since it was made is kept as it is", async () => {
    using x = vector(1, 2).keep();
    const { value, gradients } = scope(() =>
      valueAndGradients([x], () => {
        const y = activation(x, "relu");
        copyInto(vector(5, 6), y);
        return sumRows(multiply(y, x).view(2, 1)).view(1);
      }),
    );
    expect(await gradients[0]!.readFloats()).toEqual(Float32Array.of(5, 6));
    value.dispose();
    gradients[0]!.dispose();
  });
});
