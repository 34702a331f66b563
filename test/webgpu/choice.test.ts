// Devices by name: adapters by number, "auto" with its reason, and refusals that list the existing ones.

import { expect, test } from "vitest";
import { listAdapters } from "../../src/backends/webgpu/node.js";
import { DeviceError } from "../../src/core/errors.js";
import { chooseDevice, requestDevice, sharedDevice } from "../../src/load/device.js";
import { describeGPU } from "../support/webgpu.js";

describeGPU("devices by name", () => {
  test("adapters are listed with what they offer, and opened by number", async () => {
    const adapters = await listAdapters();
    expect(adapters.length).toBeGreaterThan(0);
    for (const { facts } of adapters) {
      expect(facts.title).not.toBe("");
      expect(facts.limits.maxStorageBufferBindingSize).toBeGreaterThanOrEqual(128 << 20);
      expect(facts.features.length).toBeGreaterThan(0);
    }
    await using device = await requestDevice("webgpu:0");
    expect(device.name).toBe("webgpu");
    expect(device.backend.description).toContain(adapters[0]!.facts.title);
  });

  test("a missing adapter is refused with a list of the existing ones", async () => {
    const outcome = await requestDevice("webgpu:99").catch((error: unknown) => error);
    expect(outcome).toBeInstanceOf(DeviceError);
    expect((outcome as Error).message).toMatch(/^device "webgpu:99": there are \d+ adapters\n {2}hint: webgpu:0 is ./);
    await expect(requestDevice("webgpu:x")).rejects.toThrow(/unknown device "webgpu:x"/);
  });

  test("auto takes no emulated GPU, and says why", async () => {
    const choice = await chooseDevice();
    const software = (await listAdapters()).every(({ facts }) => facts.software);
    if (software) {
      expect(choice.name).toMatch(/^(cpu|wasm)$/);
      expect(choice.reason).toMatch(/^no GPU.*: the only adapter, .*, is software/);
    } else expect(choice.name).toMatch(/^webgpu:/);
    const device = await sharedDevice("auto");
    expect(device.reason).toBe(choice.reason);
    await device.close();
  });
});
