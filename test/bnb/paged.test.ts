// Optimizers whose states are in the host's memory: the bits of those whose states are not.

import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { AdamW, AdamW8bit, PagedAdamW, PagedAdamW8bit, PagedAdEMAMix32bit } from "../../src/bnb/optim/index.js";
import { States } from "../../src/bnb/optim/states.js";
import type { Device } from "../../src/core/device.js";
import { Tensor } from "../../src/core/tensor.js";
import type { Rule, StepNumbers } from "../../src/ops/optimizer.js";
import { expectNoLeaks, requestTestDevice } from "../support/devices.js";
import { normals } from "../support/random.js";
import { gpu } from "../support/webgpu.js";

let devices: Device[] = [];
beforeEach(async () => {
  devices = [await requestTestDevice("cpu"), await requestTestDevice("reference")];
});
afterEach(async () => {
  for (const device of devices) {
    expectNoLeaks(device);
    await device.close();
  }
});

const SIZE = 1300;
const NUMBERS: StepNumbers = {
  lr: 0.01,
  shrink: 0.999,
  beta1: 0.9,
  beta2: 0.99,
  beta3: 0.999,
  eps: 1e-8,
  alpha: 2,
  limit: 30,
};
const CASES: readonly (readonly [Rule, boolean, number])[] = [
  ["adam", false, 0],
  ["adam", true, 0],
  ["lion", true, 0],
  ["ademamix", false, 0],
  ["adam", true, 0.5],
];
test.each(CASES)("%s, in codes: %s, max_unorm %s: states on another device, in pieces", async (rule, coded, unorm) => {
  const [device, host] = devices as [Device, Device];
  const given = [0, 1, 2, 3].map((seed) => Float32Array.from(normals(11 + seed, SIZE)));
  const made = async (states: States, home: Device): Promise<Float32Array> => {
    const p = Tensor.from(device, given[0]!, [SIZE]);
    const like = Tensor.from(home, given[0]!, [SIZE]);
    const state = states.make(like, { optim_bits: coded ? 8 : 32, min_8bit_size: 0 });
    for (const gradient of given.slice(1)) {
      using g = Tensor.from(device, gradient, [SIZE]);
      states.step(state, p, g, NUMBERS, { max_unorm: unorm });
    }
    expect(state.step).toBe(3);
    const values = (await p.readFloats()).slice();
    states.free(state);
    states.dispose();
    for (const one of [p, like]) one.dispose();
    return values;
  };
  const plain = await made(new States(rule), device);
  expect(await made(new States(rule, true, 512), host)).toEqual(plain);
});

test("on a CPU they are where they are in any case; the option is the class", () => {
  const [device] = devices as [Device, Device];
  using p = Tensor.from(device, normals(1, 8), [8]);
  using g = Tensor.from(device, normals(2, 8), [8]);
  for (const optimizer of [new PagedAdamW([p]), new AdamW([p], { is_paged: true }), new PagedAdEMAMix32bit([p])]) {
    optimizer.step([g]);
    expect(optimizer.state.get(p)!.state1.device).toBe(device);
    expect(optimizer.param_groups[0]).not.toHaveProperty("is_paged");
    optimizer.dispose();
  }
  expect(() => new PagedAdamW([p], { is_paged: false } as never)).toThrow(/unknown option `is_paged`/);
  expect(() => new AdamW([{ params: [p], is_paged: true } as never])).toThrow(/is_paged is for all groups/);
});

describe.skipIf(!gpu)("on a GPU (skipped where there is none)", () => {
  test("the GPU has none of the states between steps, and saved ones come back", async () => {
    const device = await requestTestDevice("webgpu");
    const p = Tensor.from(device, normals(1, 4096), [4096]);
    const twin = Tensor.from(device, normals(1, 4096), [4096]);
    const g = Tensor.from(device, normals(2, 4096), [4096]);
    const [paged, plain] = [new PagedAdamW8bit([p]), new AdamW8bit([twin])];
    const before = device.memory.live;
    paged.step([g]);
    const { state1 } = paged.state.get(p)!;
    expect(state1.device.name).toBe("reference");
    expect(device.memory.live - before).toBeLessThanOrEqual(4096); // the maps
    plain.step([g]);
    const dict = paged.state_dict();
    plain.load_state_dict({ ...dict });
    for (const optimizer of [paged, plain]) optimizer.step([g]);
    expect(await p.readFloats()).toEqual(await twin.readFloats());
    for (const held of Object.values(dict.state)) {
      const tensors = Object.values(held.__bnb_optimizer_quant_state__ as Record<string, Tensor>);
      for (const tensor of tensors) tensor.dispose();
    }
    for (const one of [paged, plain, p, twin, g]) one.dispose();
    expectNoLeaks(device);
    await device.close();
  });
});
