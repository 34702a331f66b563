// The devices that suites run on. A suite opens its own and checks at the end that nothing is left on it.

import { expect } from "vitest";
import type { Device } from "../../src/core/device.js";
import { openDevice } from "../../src/load/device.js";

/** Names of the backends that conformance and model suites run on. */
export const DEVICES: readonly string[] = ["reference", "cpu"];

export function openTestDevice(name: string): Device {
  return openDevice(name, name === "cpu" ? { threads: 2 } : {});
}

/** Law: no test leaves memory behind. */
export function expectNoLeaks(device: Device): void {
  expect(
    device.arena.owners().map(({ label, bytes, count }) => `${label}: ${bytes} bytes in ${count}`),
    `leaks on ${device.name}`,
  ).toEqual([]);
  expect(device.memory.live).toBe(0);
}
