// Opening devices by name in Node, and the one that is shared by everybody who does not open his own.

import { machineInfo, openNative } from "../backends/native/index.js";
import { openReference } from "../backends/reference/index.js";
import { findWasm, openWasmFile } from "../backends/wasm/node.js";
import { openWebGPU } from "../backends/webgpu/index.js";
import { findGPU } from "../backends/webgpu/node.js";
import { Device } from "../core/device.js";
import { checkOptions, DeviceError, OptionError, suggestion } from "../core/errors.js";
import { OPS, signatures } from "../ops/index.js";
import { type DeviceName, type DeviceOptions, sharing } from "./platform.js";

export type { DeviceOptions } from "./platform.js";

/** Devices that `requestDevice` knows. */
export const DEVICE_NAMES = ["cpu", "reference", "wasm", "webgpu"] as const;

let usual: DeviceName | undefined;

/** Who names no device gets the native kernels or, where there is no add-on, the same as WebAssembly and a line that says so. */
export function usualDevice(): DeviceName {
  if (usual) return usual;
  try {
    machineInfo();
    usual = "cpu";
  } catch (error) {
    // Without either, opening "cpu" says what is missing.
    if (!findWasm()) return "cpu";
    usual = "wasm";
    const { message, hint } = error as DeviceError;
    const why = message.split("\n")[0]!;
    process.stderr.write(`octavo: runs as WebAssembly, which is slower: ${why}; ${hint} makes it native\n`);
  }
  return usual;
}

/** @throws OptionError for an option that the device does not have */
function checkOwn(name: string, options: DeviceOptions): void {
  checkOptions("device", options, ["threads", "isa"]);
  for (const [key, names] of Object.entries({ threads: ["cpu", "wasm"], isa: ["cpu"] })) {
    if (names.includes(name) || options[key as keyof DeviceOptions] === undefined) continue;
    throw new OptionError(`${key} cannot be chosen for device "${name}", only for "${names.join('" and "')}"`, {
      details: { option: key },
      hint: `leave ${key} out, or use device "cpu"`,
    });
  }
}

/**
 * Opens a device without waiting: "cpu" (native kernels), "wasm" (the same kernels as WebAssembly, in threads of their
 * own) or "reference" (plain JavaScript loops, slow and exact). Without a name, the usual one of this machine.
 * @throws DeviceError for an unknown name, for one that only `requestDevice` opens, or if what it needs is not built;
 * OptionError for an option that the device does not have
 */
export function openDevice(name: string = usualDevice(), options: DeviceOptions = {}): Device {
  checkOwn(name, options);
  if (name === "cpu") return new Device(openNative({ ...options, signatures: signatures() }));
  if (name === "wasm") return new Device(openWasmFile({ threads: options.threads, signatures: signatures() }));
  if (name === "reference") return new Device(openReference(OPS));
  if (name === "webgpu") {
    throw new DeviceError('device "webgpu" cannot be opened without waiting', { hint: "await requestDevice(...)" });
  }
  const near = suggestion(name, DEVICE_NAMES);
  throw new DeviceError(`unknown device "${name}"${near ? `; did you mean "${near}"?` : ""}`, {
    hint: `known devices: ${DEVICE_NAMES.join(", ")}`,
  });
}

/**
 * Opens any device, those included that answer later: "webgpu" (a GPU, through the runtime or the package `webgpu`).
 * @throws DeviceError for an unknown name, or if the device is not there
 */
export async function requestDevice(name: string = usualDevice(), options: DeviceOptions = {}): Promise<Device> {
  if (name !== "webgpu") return openDevice(name, options);
  checkOwn(name, options);
  return new Device(await openWebGPU(await findGPU()));
}

/** The device of that name that all models without one of their own share; opened on first use, and anew when lost. */
export const sharedDevice: (name?: string) => Promise<Device> = sharing(requestDevice, usualDevice);
