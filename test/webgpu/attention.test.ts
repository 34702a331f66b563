// Attention with so many keys that several workgroups share them and their results are combined.

import { afterAll, beforeAll, expect, test } from "vitest";
import type { Device } from "../../src/core/device.js";
import { scope, Tensor } from "../../src/core/tensor.js";
import { openDevice } from "../../src/load/device.js";
import { type AttentionOptions, attention } from "../../src/ops/attention.js";
import { expectNoLeaks, requestTestDevice } from "../support/devices.js";
import { difference } from "../support/fixtures.js";
import { describeGPU } from "../support/webgpu.js";

const S = 700;
const [H, G, D] = [4, 2, 16];

function wave(n: number, seed: number): Float32Array {
  return Float32Array.from({ length: n }, (_, i) => Math.sin(i * 0.37 + seed) * 2);
}

describeGPU("attention over many keys", () => {
  const reference = openDevice("reference");
  let device: Device;
  beforeAll(async () => {
    device = await requestTestDevice("webgpu");
  });
  afterAll(async () => {
    expectNoLeaks(device);
    await device.close();
    await reference.close();
  });

  /** Two rows in pages of `size` tokens from one pool, with `steps` queries after `past` keys in each row. */
  const run = async (on: Device, steps: number, past: number, size: number, more: Partial<AttentionOptions>) => {
    const y = scope(() => {
      const each = Math.ceil(S / size);
      const q = Tensor.from(on, wave(2 * steps * H * D, 1), [2, steps, H, D]);
      const k = Tensor.from(on, wave(2 * each * G * size * D, 2), [2 * each, G, size, D], "bf16");
      const v = Tensor.from(on, wave(2 * each * G * size * D, 3), [2 * each, G, size, D], "bf16");
      const lanes = [0, 1].flatMap((row) => new Array<number>(steps).fill(row));
      const positions = lanes.map((_, at) => past + (at % steps));
      const table = [0, 1].flatMap((row) => [past + steps, ...Array.from({ length: each }, (_, c) => 2 * c + row)]);
      return attention(q, k, v, {
        scale: 0.25,
        lanes: Tensor.from(on, Int32Array.from([...lanes, ...positions]), [2, 2, steps]),
        table: Tensor.from(on, Int32Array.from(table), [2, 1 + each]),
        ...more,
      });
    });
    const values = await y.readFloats();
    y.dispose();
    return values;
  };

  test.each([
    [1, 0, S, {}],
    [1, 255, 32, {}],
    [1, 256, S, {}],
    [1, 699, 32, { window: 300 }],
    [5, 600, S, { softcap: 3 }],
    [7, 510, 96, { causal: false }],
    [7, 510, 96, { window: 40 }],
  ] as const)("%i steps after %i in pages of %i", async (steps, past, size, more) => {
    const got = await run(device, steps, past, size, more);
    const want = await run(reference, steps, past, size, more);
    expect(difference(got, want).max).toBeLessThan(3e-6);
  });
});
