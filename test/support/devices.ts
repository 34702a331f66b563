// The devices that suites run on. A suite opens its own and checks at the end that nothing is left on it.

import { expect } from "vitest";
import { findWasm } from "../../src/backends/wasm/node.js";
import type { Device } from "../../src/core/device.js";
import { openDevice, requestDevice } from "../../src/load/device.js";
import { gpu } from "./webgpu.js";

/** Why suites do without the wasm device; undefined if it is there. */
export const whyNoWasm: string | undefined = findWasm()
  ? undefined
  : "build/octavo.wasm is not built (npm run build:wasm; needs clang and lld)";

if (whyNoWasm) console.warn(`\n*** WASM suites are SKIPPED: ${whyNoWasm} ***\n`);

/** Names of the backends that conformance and model suites run on. */
export const DEVICES: readonly string[] = ["reference", "cpu", ...(whyNoWasm ? [] : ["wasm"])];

/** The same, and those that must be waited for: the GPU, if this machine has one (webgpu.ts says if not). */
export const ALL_DEVICES: readonly string[] = gpu ? [...DEVICES, "webgpu"] : DEVICES;

export async function requestTestDevice(name: string): Promise<Device> {
  return name === "webgpu" ? requestDevice(name) : openTestDevice(name);
}

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
