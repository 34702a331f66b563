// What loading needs of the platform that it runs on: where models come from, and which devices there are. Node's is
// node.ts, the browser's src/browser/platform.ts.

import type { Device } from "../core/device.js";
import { OutOfMemoryError } from "../core/errors.js";
import type { Source } from "../sources/source.js";
import type { DeviceOptions, SourceOptions } from "./options.js";

export type { DeviceOptions, SourceOptions } from "./options.js";

/** Names of devices, on any platform. */
export type DeviceName = "auto" | "cpu" | "reference" | "wasm" | "webgpu" | `webgpu:${number}` | `cpu:${number}`;

/** A device that "auto" settled on. */
export interface DeviceChoice {
  readonly name: DeviceName;
  readonly reason: string;
  /** What to take for a model that does not fit: WebGPU does not say how much memory a GPU has. */
  readonly instead?: DeviceName;
}

export interface Platform {
  /** The folder of a model, by whatever names this platform has for it. The caller closes it. */
  source(model: string, options: SourceOptions): Promise<Source>;
  /** Opens a device. @throws DeviceError */
  requestDevice(name?: string, options?: DeviceOptions): Promise<Device>;
  /** The device of that name that all models without one of their own share. @throws DeviceError */
  sharedDevice(name?: string): Promise<Device>;
  /** What "auto" means here. @throws DeviceError if there is nothing to run on */
  chooseDevice(): Promise<DeviceChoice>;
}

/**
 * Makes a `sharedDevice`: each device is opened on first use, and anew when it was lost. `usual` names the one without a
 * name, `choose` what "auto" means.
 */
export function sharing(
  request: (name: string) => Promise<Device>,
  usual: () => DeviceName,
  choose: () => Promise<DeviceChoice>,
): (name?: string) => Promise<Device> {
  const shared = new Map<string, Promise<Device>>();
  return async function sharedDevice(name: string = usual()): Promise<Device> {
    if (name === "auto") {
      const choice = await choose();
      const device = await sharedDevice(choice.name);
      device.reason = choice.reason;
      return device;
    }
    const held = shared.get(name);
    if (held) {
      const device = await held;
      if (!device.backend.lost) return device;
      if (shared.get(name) !== held) return sharedDevice(name);
    }
    const opening = request(name);
    shared.set(name, opening);
    opening.catch(() => {
      if (shared.get(name) === opening) shared.delete(name);
    });
    return opening;
  };
}

/** What is made on a device, such as a model, and knows which. */
interface OnDevice {
  readonly device: Device;
}

/**
 * Makes something on the device that "auto" means or, where it does not fit, on the one to take instead. `device.reason`
 * of what was made says which it was, and why.
 */
export async function onAuto<T extends OnDevice>(
  choose: () => Promise<DeviceChoice>,
  make: (name: DeviceName) => Promise<T>,
): Promise<T> {
  const { name, reason, instead } = await choose();
  try {
    const made = await make(name);
    made.device.reason = reason;
    return made;
  } catch (error) {
    if (!(error instanceof OutOfMemoryError) || instead === undefined) throw error;
    const made = await make(instead);
    made.device.reason = `the model does not fit ${name} (${reason})`;
    return made;
  }
}

/**
 * Opens a device of the caller's own and makes something on it, a model say; "auto" goes on to the next best device where
 * the first is too small. The caller closes `device` of what was made; where nothing was made, no device is left open.
 */
export async function onOwnDevice<T extends OnDevice>(
  platform: Pick<Platform, "requestDevice" | "chooseDevice">,
  name: string | undefined,
  options: DeviceOptions,
  make: (device: Device) => Promise<T>,
): Promise<T> {
  const on = async (name: string | undefined, own: DeviceOptions): Promise<T> => {
    const device = await platform.requestDevice(name, own);
    try {
      return await make(device);
    } catch (error) {
      await device.close();
      throw error;
    }
  };
  if (name !== "auto") return on(name, options);
  // The other options are a CPU's, should "auto" not find a GPU.
  const { deterministic } = options;
  const ownOf = (chosen: string): DeviceOptions => (chosen.startsWith("webgpu") ? { deterministic } : options);
  return onAuto(platform.chooseDevice, (chosen) => on(chosen, ownOf(chosen)));
}
