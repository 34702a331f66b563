// Opening devices by name in Node, and the devices shared by models without one of their own.

import { missingHint } from "../backends/_package.js";
import { machineInfo, nativeAvailable } from "../backends/native/addon.js";
import { openNative } from "../backends/native/index.js";
import { openReference } from "../backends/reference/index.js";
import { findWasm, openWasmFile } from "../backends/wasm/node.js";
import { findGPU, listAdapters } from "../backends/webgpu/node.js";
import { Device } from "../core/device.js";
import { DeviceError, suggestion } from "../core/errors.js";
import { listed, show } from "../core/show.js";
import { OPS, signatures } from "../ops/index.js";
import { deviceName } from "./names.js";
import { checkDeviceOptions, type DeviceOptions, optionsFor, readDeviceOptions } from "./options.js";
import { type DeviceChoice, type DeviceName, sharing } from "./platform.js";

export type { DeviceOptions } from "./options.js";

/**
 * Devices that `requestDevice` knows, besides "webgpu:0", "webgpu:1", ... for one of several adapters, and "cpu:0", "cpu:1",
 * ... for logical devices.
 */
export const DEVICE_NAMES = ["auto", "cpu", "reference", "wasm", "webgpu"] as const;

/** Logical devices of the CPU: separate queues, budgets and thread pools in one process, besides "cpu" itself. */
export const LOGICAL_CPUS = 64;

const GPU_NAME = /^webgpu(?::(\d{1,3}))?$/;
const CPU_NAME = /^cpu(?::(\d{1,3}))?$/;

let usual: DeviceName | undefined;

/**
 * The default device: native kernels or, without the add-on, WebAssembly with a warning on stderr.
 * @param warn false for a caller that tells it in its own words
 */
export function usualDevice(warn = true): DeviceName {
  if (usual) return usual;
  try {
    machineInfo();
    usual = "cpu";
  } catch (error) {
    // Without either, the error of opening "cpu" says what is missing.
    if (!findWasm()) return "cpu";
    if (!warn) return "wasm";
    usual = "wasm";
    const { message, hint } = error as DeviceError;
    const why = message.split("\n")[0]!;
    process.stderr.write(`octavo: runs as WebAssembly, which is slower: ${why} (to run natively: ${hint})\n`);
  }
  return usual;
}

/** Devices of Node that take these options. */
const OWNERS = {
  threads: ["cpu", "wasm"],
  isa: ["cpu"],
  deterministic: ["cpu", "webgpu", "wasm", "reference"],
  memory: ["cpu"],
} as const;

/**
 * Opens a device without waiting: "cpu" (native kernels), "cpu:0" to "cpu:63" (the same, as logical devices), "wasm" (the
 * same kernels as WebAssembly, in threads of their own) or "reference" (plain JavaScript loops, slow and exact). Without a
 * name, the default device of this machine.
 * @throws DeviceError for an unknown name, for a device that only `requestDevice` opens, or if its build is missing;
 * OptionError for an option that the device does not have
 */
export function openDevice(device: string | number = usualDevice(), given: DeviceOptions = {}): Device {
  const name = nameOf(device);
  const cpu = CPU_NAME.exec(name);
  const options = checkDeviceOptions(cpu ? "cpu" : name, given, OWNERS);
  if (cpu) {
    if (Number(cpu[1] ?? 0) >= LOGICAL_CPUS) {
      throw new DeviceError(`device "${name}": there are ${LOGICAL_CPUS} logical devices`, {
        hint: `cpu:0 to cpu:${LOGICAL_CPUS - 1}, or cpu`,
      });
    }
    return new Device(openNative({ ...options, name, signatures: signatures() }));
  }
  if (name === "wasm") return new Device(openWasmFile({ threads: options.threads, signatures: signatures() }));
  if (name === "reference") return new Device(openReference(OPS));
  if (name === "auto" || GPU_NAME.test(name)) {
    throw new DeviceError(`device "${name}" cannot be opened without waiting`, { hint: "await requestDevice(...)" });
  }
  throw unknownDevice(name);
}

/** The name of a device in Octavo's spelling. @throws DeviceError for what is no name */
function nameOf(given: unknown): string {
  const name = deviceName(given);
  if (name !== undefined) return name;
  throw new DeviceError(`a device has a name, got ${show(given)}`, {
    hint: `known devices: ${DEVICE_NAMES.join(", ")}`,
  });
}

/** What other libraries call a GPU: a slip in one of them means a GPU, too. */
const GPU_ALIASES: readonly string[] = ["gpu", "cuda", "mps"];

/** True for the same letters in another order, the commonest slip of all. */
function isAnagram(a: string, b: string): boolean {
  return a.length === b.length && [...a].sort().join() === [...b].sort().join();
}

function unknownDevice(name: string): DeviceError {
  const names = [...DEVICE_NAMES, ...GPU_ALIASES];
  const meant = names.find((known) => isAnagram(known, name)) ?? suggestion(name, names);
  const near = meant && GPU_ALIASES.includes(meant) ? "webgpu" : meant;
  return new DeviceError(`unknown device ${show(name)}${near ? `; did you mean "${near}"?` : ""}`, {
    hint: `known devices: ${DEVICE_NAMES.join(", ")}, webgpu:0, webgpu:1, ..., cpu:0, cpu:1, ...; cuda and mps are webgpu`,
  });
}

/** @throws DeviceError if there is no device of that name on any machine */
export function checkDeviceName(given: string): void {
  const name = nameOf(given);
  const known = (DEVICE_NAMES as readonly string[]).includes(name) || GPU_NAME.test(name) || CPU_NAME.test(name);
  if (!known) throw unknownDevice(name);
}

/**
 * Opens any device, including asynchronous ones: "webgpu" (a GPU, through the runtime or the package `webgpu`), "webgpu:1"
 * (its second adapter), "auto" (see `chooseDevice`). Python's names of GPUs ("cuda", "cuda:1", "mps", 0) mean WebGPU.
 * @throws DeviceError for an unknown name, or if the device is not available
 */
export async function requestDevice(
  device: string | number = usualDevice(),
  given: DeviceOptions = {},
): Promise<Device> {
  const name = nameOf(device);
  if (name === "auto") {
    const options = readDeviceOptions(given, OWNERS);
    const choice = await chooseDevice();
    const opened = await requestDevice(choice.name, optionsFor(choice.name, options));
    opened.reason = choice.reason;
    return opened;
  }
  const gpu = GPU_NAME.exec(name);
  if (!gpu) return openDevice(name, given);
  const { deterministic } = checkDeviceOptions("webgpu", given, OWNERS);
  if (gpu[1] === undefined) return await onGPU(await findGPU(), deterministic);
  const adapters = await listAdapters();
  const adapter = adapters[Number(gpu[1])];
  if (!adapter) {
    throw new DeviceError(`device "${name}": there are ${adapters.length} adapters`, {
      hint: adapters.length
        ? listed(adapters.map(({ facts, alike }, i) => `webgpu:${i} is ${facts.title}${several(alike)}`))
        : "install a Vulkan, Metal or D3D12 driver, or use the cpu",
    });
  }
  return await onGPU(adapter.gpu, deterministic);
}

/** Its kernels are a third of what a start loads, so they are loaded when a GPU is asked for. */
async function onGPU(gpu: GPU, deterministic: boolean | undefined): Promise<Device> {
  const { openWebGPU } = await import("../backends/webgpu/index.js");
  return new Device(await openWebGPU(gpu, { deterministic }));
}

function several(alike: number): string {
  return alike > 1 ? ` (the first of ${alike} that cannot be told apart)` : "";
}

/**
 * The device for "auto" on this machine: a GPU that is not emulated, else the native kernels, else the same kernels as
 * WebAssembly.
 * @throws DeviceError if there is none of the three
 */
export async function chooseDevice(): Promise<DeviceChoice> {
  const against: string[] = [];
  try {
    const adapters = await listAdapters();
    const real = adapters.findIndex(({ facts }) => !facts.software);
    if (real >= 0) {
      return { name: `webgpu:${real}`, reason: `${adapters[real]!.facts.title} is a GPU`, instead: usualDevice() };
    }
    against.push(
      adapters.length ? `the only adapter, ${adapters[0]!.facts.title}, is software` : "there is no adapter",
    );
  } catch (error) {
    against.push(firstLine(error));
  }
  if (nativeAvailable()) return { name: "cpu", reason: `no GPU: ${against.join("; ")}` };
  against.push("the native add-on is not built");
  if (findWasm()) return { name: "wasm", reason: `no GPU and no native kernels: ${against.join("; ")}` };
  throw new DeviceError(`device "auto": nothing to run on: ${against.join("; ")}; the WASM build is missing too`, {
    hint: missingHint("build-native.mjs", "OCTAVO_ADDON"),
  });
}

function firstLine(error: unknown): string {
  return (error instanceof Error ? error.message : show(error)).split("\n")[0]!;
}

/** The shared device of that name, for all models without one of their own; opened on first use, and again when lost. */
export const sharedDevice: (name?: string) => Promise<Device> = sharing(requestDevice, usualDevice, chooseDevice);
