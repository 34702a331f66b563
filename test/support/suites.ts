// Set-up of suites: a device or a model for all of their tests. At the end the device must be empty, and is closed.

import { join } from "node:path";
import { afterAll, beforeAll } from "vitest";
import { openWebGPU, type WebGPUBackend } from "../../src/backends/webgpu/index.js";
import { Device } from "../../src/core/device.js";
import { AutoModelForCausalLM } from "../../src/generate/auto.js";
import type { PreTrainedModel } from "../../src/generate/model.js";
import { expectNoLeaks, requestTestDevice } from "./devices.js";
import { FIXTURES } from "./fixtures.js";
import { sharedGPU } from "./shared-gpu.js";

async function close(device: Device | undefined): Promise<void> {
  if (device === undefined) return; // opening failed; that is the error to show
  try {
    expectNoLeaks(device);
  } finally {
    await device.close();
  }
}

/** A device of that name, passed to `take`. */
export function onDevice(name: string, take: (device: Device) => void): void {
  let device: Device | undefined;
  beforeAll(async () => {
    device = await requestTestDevice(name);
    take(device);
  });
  afterAll(() => close(device));
}

/** The GPU, and the backend behind it. */
export function onGPU(take: (device: Device, backend: WebGPUBackend) => void): void {
  let device: Device | undefined;
  beforeAll(async () => {
    const backend = await openWebGPU(sharedGPU!);
    device = new Device(backend);
    take(device, backend);
  });
  afterAll(() => close(device));
}

/** A model of test/fixtures/models on a device of that name. */
export function onModel(name: string, model: string, take: (device: Device, model: PreTrainedModel) => void): void {
  let device: Device | undefined;
  let loaded: PreTrainedModel | undefined;
  beforeAll(async () => {
    device = await requestTestDevice(name);
    loaded = await AutoModelForCausalLM.from_pretrained(join(FIXTURES, "models", model), { device });
    take(device, loaded);
  });
  afterAll(async () => {
    loaded?.dispose();
    await close(device);
  });
}
