// Suites of a process share the CPU's device for models without one of their own: what one leaves there, the next would find.

import { afterAll, expect } from "vitest";
import { nativeAvailable } from "../../src/backends/native/addon.js";
import { sharedDevice } from "../../src/load/device.js";

afterAll(async () => {
  if (!nativeAvailable()) return;
  const { memory } = await sharedDevice("cpu");
  expect(memory.live, "bytes that this suite left on the shared device").toBe(0);
});
