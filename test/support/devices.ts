// The devices that suites run on. A suite opens its own and checks at the end that it is empty.

import { setFlagsFromString } from "node:v8";
import { expect } from "vitest";
import { relaxedSimd } from "../../src/backends/wasm/api.js";
import { findWasm, openWasmFile, type WasmFileOptions } from "../../src/backends/wasm/node.js";
import { openWebGPU } from "../../src/backends/webgpu/index.js";
import { Device } from "../../src/core/device.js";
import { Tensor } from "../../src/core/tensor.js";
import { openDevice } from "../../src/load/device.js";
import { signatures } from "../../src/ops/index.js";
import { sharedGPU } from "./shared-gpu.js";
import { gpu } from "./webgpu.js";

/** Why there is no wasm device; undefined if there is one. */
export const whyNoWasm: string | undefined = findWasm()
  ? undefined
  : "build/octavo.wasm is not built (npm run build:wasm; needs clang and lld)";

if (whyNoWasm) console.warn(`\n*** WASM suites are SKIPPED: ${whyNoWasm} ***\n`);

// Node 20 has relaxed SIMD behind a flag, which may be set at run time.
if (!relaxedSimd()) setFlagsFromString("--experimental-wasm-relaxed-simd");
if (!relaxedSimd()) console.warn("\n*** relaxed SIMD is SKIPPED: this Node has none ***\n");

/** The forms of the WASM device, by name: module, threads, and the thread that runs commands. */
export const WASM_FORMS: Readonly<Record<string, WasmFileOptions>> = whyNoWasm
  ? {}
  : {
      wasm: { relaxed: false, threads: 1, host: "here" },
      "wasm, 2 threads": { relaxed: false, threads: 2, host: "worker" },
      ...(relaxedSimd() && {
        "wasm relaxed": { relaxed: true, threads: 1, host: "worker" },
        "wasm relaxed, 2 threads": { relaxed: true, threads: 2, host: "here" },
      }),
    };

export function openWasmForm(name: string, options: WasmFileOptions = {}): Device {
  return new Device(openWasmFile({ signatures: signatures(), ...WASM_FORMS[name], ...options }));
}

/** Names of the backends that suites run on. */
export const DEVICES: readonly string[] = ["reference", "cpu", ...(whyNoWasm ? [] : ["wasm"])];

/** The same, with all forms of WASM and the GPU, if there is one (webgpu.ts warns if not), which opens asynchronously. */
export const ALL_DEVICES: readonly string[] = [
  ...new Set([...DEVICES, ...Object.keys(WASM_FORMS), ...(gpu ? ["webgpu"] : [])]),
];

export async function requestTestDevice(name: string): Promise<Device> {
  return name === "webgpu" ? new Device(await openWebGPU(sharedGPU!)) : openTestDevice(name);
}

export function openTestDevice(name: string): Device {
  return name in WASM_FORMS ? openWasmForm(name) : openDevice(name, name === "cpu" ? { threads: 2 } : {});
}

/** Law: no test leaves memory behind. */
export function expectNoLeaks(device: Device): void {
  expect(
    device.arena.owners().map(({ label, bytes, count }) => `${label}: ${bytes} bytes in ${count}`),
    `leaks on ${device.name}`,
  ).toEqual([]);
  expect(device.memory.live).toBe(0);
}

/** A vector. */
export function flat(device: Device, values: Float32Array | Int32Array | Uint8Array): Tensor {
  return Tensor.from(device, values, [values.length]);
}
