// Errors of WebGPU devices. Vitest runs this before each file (vitest.config.ts): a file fails at its end if any device had
// an uncaptured error or a validation error, whether or not a read reported it.

import { afterAll, expect } from "vitest";
// @ts-expect-error a script without types
import { selectAdapter } from "../../scripts/webgpu-env.mjs";
import { processWide } from "./process.js";

// Dawn keeps the adapters that it finds first, for as long as the process lives: a file that asks for any GPU ("auto") must
// find those that the suites of WebGPU want.
selectAdapter();

/** Errors of any device so far; a test that provokes errors removes its own. */
export const deviceErrors: string[] = processWide("device-errors", () => []);

/** Milliseconds in which a device reports errors of finished work. */
const SETTLE_MS = 20;
const devices = processWide("devices", () => ({ opened: 0 }));

/** Records the errors of every device of the adapter's runtime in `deviceErrors`. */
export function recordErrors(adapter: GPUAdapter): void {
  const adapters = Object.getPrototypeOf(adapter) as GPUAdapter;
  const { requestDevice } = adapters;
  adapters.requestDevice = async function (this: GPUAdapter, wanted) {
    const device = await requestDevice.call(this, wanted);
    devices.opened++;
    device.addEventListener("uncapturederror", ({ error }) => void deviceErrors.push(error.message));
    const pop = device.popErrorScope.bind(device);
    device.popErrorScope = async () => {
      const error = await pop();
      if (error?.constructor.name === "GPUValidationError") deviceErrors.push(error.message);
      return error;
    };
    return device;
  };
}

afterAll(async () => {
  if (devices.opened > 0) await new Promise((resolve) => setTimeout(resolve, SETTLE_MS));
  // Taken out, so that the next file of the process does not fail as well.
  expect(deviceErrors.splice(0), "errors of WebGPU devices").toEqual([]);
});
