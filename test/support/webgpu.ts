// A WebGPU device for tests. Where there is no adapter the suites are skipped, and say why.

import { describe } from "vitest";
// @ts-expect-error a script without types
import { selectAdapter } from "../../scripts/webgpu-env.mjs";
import { findGPU } from "../../src/backends/webgpu/node.js";

async function look(): Promise<{ gpu: GPU } | { missing: string }> {
  const found = selectAdapter() as { driver: string } | { missing: string };
  if ("missing" in found) return found;
  try {
    const gpu = await findGPU();
    if (await gpu.requestAdapter()) return { gpu };
    return { missing: `${found.driver} gives no adapter` };
  } catch (error) {
    return { missing: (error as Error).message };
  }
}

const found = await look();

/** The GPU, or undefined if this machine has none. */
export const gpu: GPU | undefined = "gpu" in found ? found.gpu : undefined;

/** What its adapter offers. */
export const features: ReadonlySet<string> = new Set((await gpu?.requestAdapter())?.features);

/** Why there is none. */
export const whyNoGPU: string = "missing" in found ? found.missing : "";

if (!gpu) console.warn(`\n*** WebGPU suites are SKIPPED: ${whyNoGPU} ***\n`);

/** `describe` for suites that need an adapter. */
export function describeGPU(name: string, body: () => void): void {
  describe.skipIf(!gpu)(gpu ? name : `${name} (no adapter: ${whyNoGPU})`, body);
}

let imitation: GPU | undefined;

/** Dawn's null backend: an adapter with every feature that computes nothing. */
export async function everything(): Promise<GPU> {
  const { create } = await import("webgpu");
  // Kept: Dawn's instances end the process when they are collected under a live device.
  imitation ??= create(["enable-dawn-features=allow_unsafe_apis", "backend=null"]);
  return imitation;
}
