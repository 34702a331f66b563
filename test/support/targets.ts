// The devices of the conformance suite: one entry per backend, and per instruction set of the native one. A new backend
// is a line here. What cannot run on this machine is listed with its reason, which the suite prints.

import { machineInfo, nativeAvailable } from "../../src/backends/native/index.js";
import { openWebGPU, type WebGPUOptions } from "../../src/backends/webgpu/index.js";
import { Device } from "../../src/core/device.js";
import { openDevice } from "../../src/load/device.js";
import { gpu, whyNoGPU } from "./webgpu.js";

export interface Target {
  readonly name: string;
  open(): Device | Promise<Device>;
  /** Factor on all tolerances: 1 for IEEE arithmetic. */
  readonly scale: number;
  /** Weights in panels where they can be, or always in plain rows. */
  readonly panels: boolean;
  /** Every op must have a kernel. */
  readonly complete: boolean;
  /** Why it cannot run here. */
  readonly skip?: string;
}

function nativeTargets(): Target[] {
  if (!nativeAvailable()) {
    const skip = "the native add-on is not built (npm run build:native)";
    return [{ name: "cpu", open: () => openDevice("cpu"), scale: 1, panels: true, complete: true, skip }];
  }
  const { isasCompiled, isasSupported } = machineInfo();
  return isasCompiled.flatMap((isa) =>
    [false, true].map((panels) => ({
      name: `cpu ${isa}, ${panels ? "panels" : "rows"}`,
      open: () => openDevice("cpu", { isa, threads: 2 }),
      scale: 1,
      panels,
      complete: true,
      skip: isasSupported.includes(isa) ? undefined : `this machine has no ${isa}`,
    })),
  );
}

/** What the adapter offers, and what every adapter must offer: WebGPU's default limits, no integer dot product. */
function gpuTargets(): Target[] {
  const options: Record<string, WebGPUOptions> = {
    webgpu: {},
    "webgpu, default limits": { limits: "default", dot4: false },
  };
  return Object.entries(options).map(([name, with_]) => ({
    name,
    open: async () => new Device(await openWebGPU(gpu!, with_)),
    // WGSL grants a few units more to divisions, roots and exponentials than IEEE arithmetic.
    scale: 4,
    panels: false,
    complete: true,
    skip: gpu ? undefined : whyNoGPU,
  }));
}

export const TARGETS: readonly Target[] = [...nativeTargets(), ...gpuTargets()];
