// Attention with more keys than one workgroup takes: the keys are shared out, and the parts put together.

import { afterAll, beforeAll, expect, test } from "vitest";
import type { Device } from "../../src/core/device.js";
import { scope, Tensor } from "../../src/core/tensor.js";
import { openDevice, requestDevice } from "../../src/load/device.js";
import { type AttentionOptions, attention } from "../../src/ops/attention.js";
import { expectNoLeaks } from "../support/devices.js";
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
    device = await requestDevice("webgpu");
  });
  afterAll(async () => {
    expectNoLeaks(device);
    await device.close();
    await reference.close();
  });

  const run = async (on: Device, steps: number, cursor: number, more: Partial<AttentionOptions>, mask: boolean) => {
    const y = scope(() => {
      const q = Tensor.from(on, wave(2 * steps * H * D, 1), [2, steps, H, D]);
      const k = Tensor.from(on, wave(2 * G * S * D, 2), [2, G, S, D], "bf16");
      const v = Tensor.from(on, wave(2 * G * S * D, 3), [2, G, S, D], "bf16");
      const hidden = Uint8Array.from({ length: 2 * S }, (_, i) => (i % 3 === 0 || i < 300 ? 0 : 1));
      return attention(q, k, v, {
        scale: 0.25,
        cursor: Tensor.from(on, Int32Array.of(cursor), [1]),
        mask: mask ? Tensor.from(on, hidden, [2, S]) : undefined,
        ...more,
      });
    });
    const values = await y.readFloats();
    y.dispose();
    return values;
  };

  test.each([
    [1, 0, {}, false],
    [1, 255, {}, false],
    [1, 256, {}, true],
    [1, 699, {}, true],
    [1, 699, { window: 300 }, false],
    [5, 600, { softcap: 3 }, false],
    [7, 510, { causal: false, window: 40 }, true],
  ] as const)("%i steps after %i", async (steps, cursor, more, mask) => {
    const got = await run(device, steps, cursor, more, mask);
    const want = await run(reference, steps, cursor, more, mask);
    expect(difference(got, want).max).toBeLessThan(3e-6);
  });
});
