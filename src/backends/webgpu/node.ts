// Finds the GPU object: the runtime's own (browsers, Deno), or Dawn in Node, from the optional peer `webgpu`; and what
// adapters there are. Dawn picks an adapter by its name alone, the first in whose name it finds the one that is asked for
// (GPU.cpp of dawn.node). So of several cards of one name only the first can be had; they are counted.

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
  /** Adapters that asking for this one's name gives no other for: above 1, the rest of them cannot be opened. */
  readonly alike: number;
}

/** Dawn's instances end the process when they are collected under a live device: they are kept. */
const instances = new Map<string, GPU>();
/** Subgroup matrices are an experiment of Dawn's, which it offers only so. */
const FEATURES = "enable-dawn-features=allow_unsafe_apis";
/** A name that no adapter has: Dawn answers with a list of those that there are. */
const NOBODY = "adapter=octavo asks which there are";

function runtimeGPU(): GPU | undefined {
  return (globalThis as { navigator?: { gpu?: GPU } }).navigator?.gpu;
}

async function dawn(): Promise<Dawn> {
  // A name that bundlers and compilers do not follow: the package is not there for everybody.
  const name = "webgpu";
  // Vulkan's drivers complain on stderr where nobody has logged in, as on servers, though nothing here needs the folder.
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
  if (!gpu) instances.set(key, (gpu = create([FEATURES, ...options])));
  return gpu;
}

/** @throws DeviceError if there is neither `navigator.gpu` nor the package `webgpu`. */
export async function findGPU(): Promise<GPU> {
  return runtimeGPU() ?? instance(await dawn(), []);
}

/** What Dawn answers when it is asked for an adapter that is not there: pairs of backend and name. */
async function names(loaded: Dawn): Promise<{ backend: string; name: string }[]> {
  try {
    await loaded.create([FEATURES, NOBODY]).requestAdapter();
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
