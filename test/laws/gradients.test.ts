// Laws of gradients: their bits depend neither on the number of threads nor, where an op mixes no rows, on batch mates.

import { describe, expect, test } from "vitest";
import { nativeAvailable } from "../../src/backends/native/addon.js";
import type { Device } from "../../src/core/device.js";
import { scope, Tensor } from "../../src/core/tensor.js";
import { openDevice } from "../../src/load/device.js";
import { ACT, activationBack } from "../../src/ops/activation.js";
import { attentionBack } from "../../src/ops/attention-back.js";
import { expertLinearBackOp } from "../../src/ops/experts-back.js";
import { valueAndGradients } from "../../src/ops/gradient.js";
import { COMPUTE, linearBack } from "../../src/ops/linear.js";
import { rmsNormBack } from "../../src/ops/rms-norm.js";
import { DEVICES, expectNoLeaks, requestTestDevice } from "../support/devices.js";
import { lossOf, trainableOf } from "../support/losses.js";
import { randomModel } from "../support/models.js";
import { normals, product } from "../support/random.js";
import { gpu } from "../support/webgpu.js";

const CONFIG = {
  vocab_size: 300,
  hidden_size: 96,
  intermediate_size: 130,
  num_hidden_layers: 1,
  num_attention_heads: 6,
  num_key_value_heads: 2,
};

test.skipIf(!nativeAvailable())("the number of threads changes no bit of any gradient", async () => {
  const batch = [0, 1, 2].map((row) => Array.from({ length: 70 }, (_, t) => (t * t * 7 + row * 31) % 300));
  const found: Map<string, Float32Array>[] = [];
  for (const threads of [1, 2, 3, 8]) {
    const device = openDevice("cpu", { threads });
    const model = await randomModel(device, CONFIG, "f32");
    const by = trainableOf(model);
    const { value, gradients } = valueAndGradients([...by.values()], () => lossOf(device, model, batch));
    const values = new Map([["loss", await value.readFloats()]]);
    for (const [i, name] of [...by.keys()].entries()) values.set(name, await gradients[i]!.readFloats());
    for (const tensor of [value, ...gradients]) tensor.dispose();
    model.dispose();
    expectNoLeaks(device);
    await device.close();
    found.push(values);
  }
  for (const other of found.slice(1)) {
    for (const [name, values] of found[0]!) expect(other.get(name), name).toEqual(values);
  }
});

describe.each([...DEVICES, ...(gpu ? ["webgpu"] : [])])("%s", { timeout: 120_000 }, (name) => {
  const B = 3;
  const random = (device: Device, seed: number, ...shape: number[]): Tensor =>
    Tensor.from(device, normals(seed, product(shape)), shape);
  /** What is batched, made of a batch of `B` rows or of one of them. */
  const rules: Readonly<Record<string, (device: Device, cut: (x: Tensor) => Tensor) => readonly Tensor[]>> = {
    linear_back: (device, cut) => [linearBack(cut(random(device, 1, B, 5, 40)), random(device, 2, 40, 72))],
    "products with stacks": (device, cut) => {
      const dy = cut(random(device, 1, B, 5, 2, 40));
      const chosen = Int32Array.from({ length: B * 10 }, (_, i) => (i * i + (i >> 2)) % 4);
      const experts = cut(Tensor.from(device, chosen, [B, 5, 2]));
      const flat = [dy.view(-1, 2, 40), random(device, 2, 4, 40, 72), experts.view(-1, 2)];
      return [expertLinearBackOp.run(flat, [COMPUTE.f32])];
    },
    rms_norm_back: (device, cut) => [
      rmsNormBack(cut(random(device, 1, B, 5, 40)), random(device, 2, 40), cut(random(device, 3, B, 5, 40)), 1e-5),
    ],
    activation_back: (device, cut) => [
      activationBack(cut(random(device, 1, B, 5, 40)), cut(random(device, 2, B, 5, 40)), ACT.silu),
    ],
    attention_back: (device, cut) => {
      const [q, dy] = [cut(random(device, 1, B, 40, 4, 24)), cut(random(device, 2, B, 40, 4, 24))];
      const [k, v] = [cut(random(device, 3, B, 2, 70, 24)), cut(random(device, 4, B, 2, 70, 24))];
      return attentionBack(q, k, v, dy, { scale: 0.2, causal: true, window: 0, softcap: 0 });
    },
  };

  test.each(Object.keys(rules))("%s: a row is the same alone and among others", async (rule) => {
    const device = await requestTestDevice(name);
    const run = (cut: (x: Tensor) => Tensor): Promise<Float32Array[]> => {
      const tensors = scope(() => [...rules[rule]!(device, cut)]);
      return Promise.all(
        tensors.map(async (tensor) => {
          const values = await tensor.readFloats();
          tensor.dispose();
          return values;
        }),
      );
    };
    const all = await run((x) => x);
    for (let b = 0; b < B; b++) {
      const alone = await run((x) => x.narrow(0, b, 1));
      for (const [i, values] of alone.entries()) {
        expect(values).toEqual(all[i]!.subarray(b * values.length, (b + 1) * values.length));
      }
    }
    expectNoLeaks(device);
    await device.close();
  });
});
