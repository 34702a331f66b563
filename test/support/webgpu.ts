// A WebGPU device for tests. Without an adapter the suites are skipped, with the reason.

import { describe } from "vitest";
// @ts-expect-error a script without types
import { selectAdapter } from "../../scripts/webgpu-env.mjs";
import type { WebGPUBackend } from "../../src/backends/webgpu/index.js";
import { findGPU } from "../../src/backends/webgpu/node.js";
import type { Device } from "../../src/core/device.js";
import type { Tensor } from "../../src/core/tensor.js";
import { calmPolling } from "./calm-polling.js";
import { recordErrors } from "./gpu-errors.js";
import { processWide } from "./process.js";

async function look(): Promise<{ gpu: GPU } | { missing: string }> {
  const found = selectAdapter() as { driver: string } | { missing: string };
  if ("missing" in found) return found;
  calmPolling();
  try {
    const gpu = await findGPU();
    const adapter = await gpu.requestAdapter();
    if (adapter) {
      recordErrors(adapter);
      return { gpu };
    }
    return { missing: `${found.driver} gives no adapter` };
  } catch (error) {
    return { missing: (error as Error).message };
  }
}

const found = await processWide("gpu", look);

/** The GPU, or undefined if this machine has none. */
export const gpu: GPU | undefined = "gpu" in found ? found.gpu : undefined;

/** Features of its adapter. */
export const features: ReadonlySet<string> = new Set((await gpu?.requestAdapter())?.features);

/** Why there is none. */
export const whyNoGPU: string = "missing" in found ? found.missing : "";

if (!gpu) console.warn(`\n*** WebGPU suites are SKIPPED: ${whyNoGPU} ***\n`);

/** `describe` for suites that need an adapter. */
export function describeGPU(name: string, body: () => void): void {
  describe.skipIf(!gpu)(gpu ? name : `${name} (no adapter: ${whyNoGPU})`, body);
}

/** The GPU; `seen` gets every device that its adapters open. */
export function watched(seen: (device: GPUDevice) => void): GPU {
  return watchedOf(gpu!, seen);
}

export function watchedOf(of: GPU, seen: (device: GPUDevice) => void): GPU {
  return {
    wgslLanguageFeatures: of.wgslLanguageFeatures,
    async requestAdapter(options?: GPURequestAdapterOptions) {
      const adapter = await of.requestAdapter(options);
      if (!adapter) return null;
      const { info, features, limits } = adapter;
      const requestDevice = async (wanted?: GPUDeviceDescriptor): Promise<GPUDevice> => {
        const device = await adapter.requestDevice(wanted);
        seen(device);
        return device;
      };
      return { info, features, limits, requestDevice };
    },
  } as unknown as GPU;
}

/** Calls; each returns the tensors that it made, if any. */
export type Steps = readonly (() => Tensor | readonly Tensor[] | undefined)[];

/** Runs steps in one submission or each in its own; returns the number of dispatches and the bytes of all results. */
export async function runSteps(
  device: Device,
  backend: WebGPUBackend,
  together: boolean,
  steps: Steps,
  also: readonly Tensor[] = [],
): Promise<{ dispatches: number; results: Uint8Array[] }> {
  device.flush();
  const before = backend.statistics.dispatches;
  const made: Tensor[] = [];
  for (const step of steps) {
    made.push(...[step() ?? []].flat());
    if (!together) device.flush();
  }
  device.flush();
  const dispatches = backend.statistics.dispatches - before;
  const results = await Promise.all([...made, ...also].map((tensor) => tensor.readBytes()));
  for (const tensor of made) tensor.dispose();
  return { dispatches, results };
}

let imitation: GPU | undefined;

/** Dawn's null backend: an adapter with every feature that computes nothing. */
export async function everything(): Promise<GPU> {
  const { create } = await import("webgpu");
  // Never collected: the process crashes if an instance of Dawn is collected before its device.
  imitation ??= create(["enable-dawn-features=allow_unsafe_apis", "backend=null"]);
  return imitation;
}

/** The null backend's GPU for whole calls: its devices read zeros instead of uninitialized memory. */
export async function idle(): Promise<GPU> {
  const gpu = await everything();
  return watchedOf(gpu, (device) => {
    const { createBuffer } = device;
    device.createBuffer = (wanted) => {
      const buffer = createBuffer.call(device, wanted);
      const { getMappedRange } = buffer;
      buffer.getMappedRange = (...range) => {
        const bytes = getMappedRange.apply(buffer, range);
        new Uint8Array(bytes).fill(0);
        return bytes;
      };
      return buffer;
    };
  });
}
