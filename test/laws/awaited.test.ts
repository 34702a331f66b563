// The check of test/support/awaited.ts can see: a read that a test does not await is found, one that it awaits is not.

import { expect, test } from "vitest";
import type { Device } from "../../src/core/device.js";
import { forgottenReads } from "../support/awaited.js";
import { flat } from "../support/devices.js";
import { onDevice } from "../support/suites.js";

let device: Device;
onDevice("reference", (opened) => (device = opened));

test("a read that nobody waits for is found, with its place", async () => {
  using x = flat(device, Float32Array.of(1, 2));
  const pending = x.read();
  void x.readFloats();
  const found = forgottenReads();
  expect(found).toHaveLength(2);
  expect(found[0]).toMatch(/^read\(\) at .*awaited\.test\.ts:\d+/);
  expect(await pending).toEqual(Float32Array.of(1, 2));
});

test("reads that are awaited, in whatever way, are not", async () => {
  using x = flat(device, Float32Array.of(1, 2));
  const want = Float32Array.of(1, 2);
  expect(await x.read()).toEqual(want);
  await expect(x.readFloats()).resolves.toEqual(want);
  expect(await Promise.all([x.read(), x.readBytes()])).toHaveLength(2);
  expect(await x.read().then((values) => values.length)).toBe(2);
  expect(await x.ready().finally(() => {})).toBeUndefined();
  const later = x.read();
  expect(await later).toEqual(want);
  expect(forgottenReads()).toEqual([]);
});
