// Finds the GPU object (the runtime's own, or Dawn from the optional peer `webgpu` in Node) and lists the adapters. Dawn
// selects an adapter by its name alone: the first whose name contains the requested one (GPU.cpp of dawn.node). Of several
// cards with one name only the first can be opened; the others are counted.

import { tmpdir } from "node:os";
import { DeviceError } from "../../core/errors.js";
import { type AdapterFacts, describeAdapter } from "./device/adapter.js";

interface Dawn {
  create(options: string[]): GPU;
}

/** An adapter that `webgpu:N` opens, N being its place in the list. */
export interface ListedAdapter {
  readonly facts: AdapterFacts;
  readonly gpu: GPU;
  /** Adapters with this name; if above 1, only the first can be opened. */
  readonly alike: number;
}

/** Never collected: the process crashes if an instance of Dawn is collected before its device. */
const instances = new Map<string, GPU>();
const FEATURES = [
  // Dawn offers subgroup matrices, an experimental feature, only with this flag.
  "enable-dawn-features=allow_unsafe_apis",
  // WGSL's workgroup memory begins as zeros. By this extension of Vulkan SwiftShader compiles 16 kB of it for 2 s; a loop,
  // which Dawn writes without it, takes 12 ms. Other drivers do the same work either way.
  "disable-dawn-features=use_vulkan_zero_initialize_workgroup_memory_extension",
];
/** A name that no adapter has: Dawn's error then lists the adapters. */
const NOBODY = "adapter=octavo asks which there are";

function runtimeGPU(): GPU | undefined {
  return (globalThis as { navigator?: { gpu?: GPU } }).navigator?.gpu;
}

async function dawn(): Promise<Dawn> {
  // A variable keeps bundlers and compilers from resolving the package, which is optional.
  const name = "webgpu";
  // Without it Vulkan drivers print warnings on machines without a login session, though the folder is not needed.
  if (process.platform === "linux") process.env.XDG_RUNTIME_DIR ||= tmpdir();
  try {
    return (await import(name)) as Dawn;
  } catch (error) {
    throw new DeviceError("webgpu: the package `webgpu` (Dawn) is not installed", {
      hint: "npm i webgpu",
      cause: error,
    });
  }
}

function instance({ create }: Dawn, options: readonly string[]): GPU {
  const key = options.join("\n");
  let gpu = instances.get(key);
  if (!gpu) instances.set(key, (gpu = create([...FEATURES, ...options])));
  return gpu;
}

/** @throws DeviceError if there is neither `navigator.gpu` nor the package `webgpu`. */
export async function findGPU(): Promise<GPU> {
  return runtimeGPU() ?? instance(await dawn(), []);
}

/** Dawn's error for an unknown adapter: pairs of backend and name. */
async function names(loaded: Dawn): Promise<{ backend: string; name: string }[]> {
  try {
    await loaded.create([...FEATURES, NOBODY]).requestAdapter();
  } catch (error) {
    const lines = (error as Error).message.matchAll(/backend: '([^']*)', name: '([^']*)'/g);
    return [...lines].map(([, backend = "", name = ""]) => ({ backend, name }));
  }
  return [];
}

/**
 * All adapters that can be told apart, in the order of `webgpu:N`; `webgpu` alone leaves the choice to the runtime.
 * @throws DeviceError if there is neither `navigator.gpu` nor the package `webgpu`
 */
export async function listAdapters(): Promise<ListedAdapter[]> {
  const found: (ListedAdapter & { alike: number })[] = [];
  const add = async (gpu: GPU, options: GPURequestAdapterOptions, backend?: string): Promise<void> => {
    const adapter = await gpu.requestAdapter(options);
    if (!adapter) return;
    const facts = describeAdapter(adapter, backend);
    const same = found.find((other) =>
      (["title", "device", "backend"] as const).every((key) => other.facts[key] === facts[key]),
    );
    if (same) same.alike++;
    else found.push({ facts, gpu, alike: 1 });
  };
  const native = runtimeGPU();
  if (native) {
    await add(native, { powerPreference: "high-performance" });
    return found;
  }
  const loaded = await dawn();
  for (const { backend, name } of await names(loaded)) {
    await add(instance(loaded, [`backend=${backend}`, `adapter=${name}`]), {}, backend);
  }
  if (found.length === 0) await add(instance(loaded, []), { powerPreference: "high-performance" });
  return found;
}
