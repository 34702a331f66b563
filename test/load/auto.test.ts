// "auto" on a machine whose GPU is too small for the model: the load goes on where it fits, says so, and closes what it
// does not use.

import { expect, test } from "vitest";
import { openReference } from "../../src/backends/reference/index.js";
import { Device } from "../../src/core/device.js";
import { OutOfMemoryError } from "../../src/core/errors.js";
import { autoModel } from "../../src/generate/pretrained.js";
import { NODE } from "../../src/load/node.js";
import { onOwnDevice, type Platform, sharing } from "../../src/load/platform.js";
import { OPS } from "../../src/ops/index.js";
import { expectNoLeaks } from "../support/devices.js";
import { STORYTELLER } from "../support/models.js";

/** A GPU of `memory` bytes beside a reference device that holds anything, and what was opened. */
function machine(memory: number): { platform: Platform; opened: [name: string, options: object, device: Device][] } {
  const opened: [string, object, Device][] = [];
  const choice = { name: "webgpu:0", reason: "Toy is a GPU", instead: "reference" } as const;
  const platform: Platform = {
    source: NODE.source,
    async requestDevice(name = "reference", options = {}) {
      const device = new Device(name === "webgpu:0" ? openReference(OPS, memory) : openReference(OPS));
      opened.push([name, options, device]);
      return device;
    },
    sharedDevice: sharing(
      (name) => platform.requestDevice(name),
      () => "reference",
      async () => choice,
    ),
    chooseDevice: async () => choice,
  };
  return { platform, opened };
}

const closed = (device: Device): boolean => {
  try {
    device.release(device.allocate(8, "probe"));
    return false;
  } catch {
    return true;
  }
};

test("a model that does not fit the GPU is loaded on the next best device", async () => {
  const { platform, opened } = machine(1e6);
  const load = autoModel(platform, "causal-lm").from_pretrained;
  const model = await onOwnDevice(platform, "auto", { threads: 3 }, (device) => load(STORYTELLER, { device }));
  expect(opened.map(([name, options]) => [name, options])).toEqual([
    ["webgpu:0", {}],
    ["reference", { threads: 3 }],
  ]);
  expect(model.device).toBe(opened[1]![2]);
  expect(model.device.reason).toBe("the model does not fit webgpu:0 (Toy is a GPU)");
  expect(opened.map(([, , device]) => closed(device))).toEqual([true, false]);
  model.dispose();
  expectNoLeaks(model.device);
  await model.device.close();
});

test("so it is where from_pretrained itself is told auto, and one that fits stays on the GPU", async () => {
  for (const [memory, reason] of [
    [1e6, "the model does not fit webgpu:0 (Toy is a GPU)"],
    [1e9, "Toy is a GPU"],
  ] as const) {
    const { platform, opened } = machine(memory);
    await using model = await autoModel(platform, "causal-lm").from_pretrained(STORYTELLER, { device: "auto" });
    expect(model.device.reason).toBe(reason);
    expect(model.device).toBe(opened.at(-1)![2]);
  }
});

test("a device that was asked for by name has no other instead of it", async () => {
  const { platform, opened } = machine(1e6);
  const load = autoModel(platform, "causal-lm").from_pretrained;
  const loading = onOwnDevice(platform, "webgpu:0", {}, (device) => load(STORYTELLER, { device }));
  await expect(loading).rejects.toThrow(OutOfMemoryError);
  expect(opened).toHaveLength(1);
  expect(closed(opened[0]![2])).toBe(true);
});
