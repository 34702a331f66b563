// Finds the GPU object: the runtime's own (browsers, Deno), or Dawn in Node, from the optional peer `webgpu`.

import { DeviceError } from "../../core/errors.js";

interface Dawn {
  create(options: string[]): GPU;
}

/** Dawn's instances end the process when they are collected under a live device: they are kept. */
let dawn: GPU | undefined;

/** @throws DeviceError if there is neither `navigator.gpu` nor the package `webgpu`. */
export async function findGPU(): Promise<GPU> {
  const native = (globalThis as { navigator?: { gpu?: GPU } }).navigator?.gpu;
  if (native) return native;
  if (dawn) return dawn;
  // A name that bundlers and compilers do not follow: the package is not there for everybody.
  const name = "webgpu";
  let loaded: Dawn;
  try {
    loaded = (await import(name)) as Dawn;
  } catch (error) {
    throw new DeviceError("webgpu: the package `webgpu` (Dawn) is not installed", {
      hint: "npm i webgpu",
      cause: error,
    });
  }
  dawn = loaded.create([]);
  return dawn;
}
