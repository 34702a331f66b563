// Opening devices by name, and the one that is shared by everybody who does not open his own.

import { openNative } from "../backends/native/index.js";
import { openReference } from "../backends/reference/index.js";
import { Device } from "../core/device.js";
import { DeviceError, suggestion } from "../core/errors.js";
import { OPS, signatures } from "../ops/index.js";

export interface DeviceOptions {
  /** Threads of the CPU backend; by default one per physical core that this process may use. */
  threads?: number;
  /** Highest instruction set to use, for tests and comparisons: "portable", "avx2", "avx512", ... */
  isa?: string;
}

/** Devices that `openDevice` knows. */
export const DEVICE_NAMES: readonly string[] = ["cpu", "reference"];

/**
 * Opens a device: "cpu" (native kernels) or "reference" (plain JavaScript loops, slow and exact).
 * @throws DeviceError for an unknown name, or if the native add-on is missing
 */
export function openDevice(name = "cpu", options: DeviceOptions = {}): Device {
  if (name === "cpu") return new Device(openNative({ ...options, signatures: signatures() }));
  if (name === "reference") return new Device(openReference(OPS));
  const near = suggestion(name, DEVICE_NAMES);
  throw new DeviceError(`unknown device "${name}"${near ? `; did you mean "${near}"?` : ""}`, {
    hint: `known devices: ${DEVICE_NAMES.join(", ")}`,
  });
}

const shared = new Map<string, Device>();

/** The device of that name that all models without one of their own share; opened on first use. */
export function sharedDevice(name = "cpu"): Device {
  let device = shared.get(name);
  if (!device) {
    device = openDevice(name);
    shared.set(name, device);
  }
  return device;
}
