// One GPU for all suites of a process. A device of Octavo's gets a GPUDevice that looks like its own: behind it is one that
// stays open, with the pipelines that were built on it. A software adapter takes a second to compile a shader, and nearly
// all suites need the same ones.

import { processWide } from "./process.js";
import { gpu } from "./webgpu.js";

/** What devices of one descriptor have in common. */
interface Shared {
  readonly device: GPUDevice;
  readonly pipelines: Map<string, GPUComputePipeline>;
  /** What its devices do with errors that no scope catches. */
  readonly listeners: Set<(event: GPUUncapturedErrorEvent) => void>;
}

/** By descriptor. */
const opened = processWide("shared-gpu", () => new Map<string, Promise<Shared>>());

async function sharedOf(adapter: GPUAdapter, wanted: GPUDeviceDescriptor | undefined): Promise<Shared> {
  const device = await adapter.requestDevice(wanted);
  const listeners: Shared["listeners"] = new Set();
  device.onuncapturederror = (event) => {
    for (const listener of listeners) listener(event);
  };
  return { device, pipelines: new Map(), listeners };
}

/** The text of each module. */
const texts = new WeakMap<GPUShaderModule, string>();
/** Bind group layouts are told apart by what they say. */
const layouts = new WeakMap<object, string>();

function deviceOver({ device, pipelines, listeners }: Shared): GPUDevice {
  let lose: (info: GPUDeviceLostInfo) => void;
  const lost = new Promise<GPUDeviceLostInfo>((resolve) => {
    lose = resolve;
  });
  const buffers = new Set<GPUBuffer>();
  let listener: ((event: GPUUncapturedErrorEvent) => void) | undefined;
  const own: { [Name in keyof GPUDevice]?: unknown } = {
    lost,
    destroy() {
      for (const buffer of buffers) buffer.destroy();
      buffers.clear();
      if (listener) listeners.delete(listener);
      lose({ reason: "destroyed", message: "the suite has closed its device" } as GPUDeviceLostInfo);
    },
    createBuffer(descriptor: GPUBufferDescriptor) {
      const buffer = device.createBuffer(descriptor);
      buffers.add(buffer);
      const destroy = buffer.destroy.bind(buffer);
      buffer.destroy = () => {
        buffers.delete(buffer);
        return destroy();
      };
      return buffer;
    },
    createBindGroupLayout(descriptor: GPUBindGroupLayoutDescriptor) {
      const layout = device.createBindGroupLayout(descriptor);
      layouts.set(layout, JSON.stringify(descriptor));
      return layout;
    },
    createPipelineLayout(descriptor: GPUPipelineLayoutDescriptor) {
      const layout = device.createPipelineLayout(descriptor);
      layouts.set(layout, JSON.stringify([...descriptor.bindGroupLayouts].map((one) => layouts.get(one!))));
      return layout;
    },
    createShaderModule(descriptor: GPUShaderModuleDescriptor) {
      const module = device.createShaderModule(descriptor);
      texts.set(module, descriptor.code);
      return module;
    },
    createComputePipeline(descriptor: GPUComputePipelineDescriptor) {
      const layout = descriptor.layout === "auto" ? "auto" : layouts.get(descriptor.layout);
      const key = JSON.stringify([layout, texts.get(descriptor.compute.module)]);
      let pipeline = pipelines.get(key);
      if (!pipeline) {
        pipeline = device.createComputePipeline(descriptor);
        pipelines.set(key, pipeline);
      }
      return pipeline;
    },
  };
  return new Proxy(device, {
    get(target, name) {
      if (name in own) return own[name as keyof GPUDevice];
      const value = Reflect.get(target, name, target) as unknown;
      return typeof value === "function" ? value.bind(target) : value;
    },
    set(_, name, value) {
      if (name !== "onuncapturederror") throw new Error(`nobody sets ${String(name)} of a shared device`);
      listener = value as typeof listener;
      listeners.add(listener!);
      return true;
    },
  });
}

/** The GPU whose devices share their pipelines. Only for suites that lose no device and break no call. */
export const sharedGPU = (gpu && {
  wgslLanguageFeatures: gpu.wgslLanguageFeatures,
  async requestAdapter(options?: GPURequestAdapterOptions) {
    const adapter = await gpu!.requestAdapter(options);
    if (!adapter) return null;
    const { info, features, limits } = adapter;
    const requestDevice = async (wanted?: GPUDeviceDescriptor): Promise<GPUDevice> => {
      const key = JSON.stringify(wanted ?? {});
      let shared = opened.get(key);
      if (!shared) opened.set(key, (shared = sharedOf(adapter, wanted)));
      return deviceOver(await shared);
    };
    return { info, features, limits, requestDevice } as unknown as GPUAdapter;
  },
}) as GPU | undefined;
