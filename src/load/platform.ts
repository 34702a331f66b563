// What loading needs of its platform: the sources of models, and the devices. Node's is node.ts, the browser's
// src/browser/platform.ts.

import type { FolderWriter } from "../checkpoints/folder.js";
import type { Device } from "../core/device.js";
import { OutOfMemoryError } from "../core/errors.js";
import { pick } from "../core/options.js";
import type { Tensor } from "../core/tensor.js";
import type { PushWritten } from "../hub/push-options.js";
import type { MediaReader } from "../media/reader.js";
import type { Kept } from "../nn/placement.js";
import type { Source } from "../sources/source.js";
import type { Memory } from "./device-map/memory.js";
import type { SpreadModel } from "./fill.js";
import type { MetaModel } from "./meta.js";
import { type DeviceOptions, optionsFor, SOURCE, type SourceOptions } from "./options.js";

export type { DeviceOptions, SourceOptions } from "./options.js";

/** How a caller wants a model cut over devices. */
export interface ParallelRequest {
  /** Number of devices. */
  readonly size: number;
  /** Their names or numbers; else those that come first of their kind. */
  readonly devices: readonly (string | number)[] | undefined;
  /** The kind of devices: "cpu" or "webgpu"; else GPUs if there are any. */
  readonly kind: string | undefined;
  /** What each device may take. */
  readonly memory: Memory | undefined;
  /** Threads of each device of the CPU; by default they share its cores. */
  readonly threads: number | undefined;
}

/** Names of devices, on any platform. */
export type DeviceName = "auto" | "cpu" | "reference" | "wasm" | "webgpu" | `webgpu:${number}` | `cpu:${number}`;

/** Names of GPUs in Python, and numbers of GPUs: all of them mean WebGPU. */
export type DeviceAlias = "gpu" | "cuda" | `cuda:${number}` | "mps" | `mps:${number}` | number;

/** The device that "auto" chose. */
export interface DeviceChoice {
  readonly name: DeviceName;
  readonly reason: string;
  /** The alternative for a model that does not fit: WebGPU does not report a GPU's memory. */
  readonly instead?: DeviceName;
}

/** A folder that holds the weights of blocks for one run. */
export interface OffloadFolder {
  /** Writes tensors, which may then be evicted. @throws FileError, KernelError */
  write(tensors: readonly Tensor[]): Promise<readonly Kept[]>;
  /** Removes what was written. */
  remove(): Promise<void>;
}

export interface Platform {
  /** The folder of a model, by any name that this platform supports. The caller closes it. */
  source(model: string, options: SourceOptions): Promise<Source>;
  /** Writes the folders of models; absent where there are no files. */
  readonly folders?: FolderWriter;
  /** Parts that not every program needs come when a call asks for them (core/part.ts): who sets this does such calls again then. */
  readonly sparing?: boolean;
  /** Uploads what is written into a folder; absent where there are no files. */
  readonly push?: PushWritten;
  /** A place for weights of one run in a folder; absent where there are no files. @throws FileError */
  offload?(folder: string): Promise<OffloadFolder>;
  /** Files and decoders of images and sound; absent where there are none. */
  readonly media?: MediaReader;
  /** Opens a device. @throws DeviceError */
  requestDevice(name?: string, options?: DeviceOptions): Promise<Device>;
  /** The shared device of that name, for all models without one of their own. @throws DeviceError */
  sharedDevice(name?: string): Promise<Device>;
  /** Cuts a declared model over devices (tensor-parallel.ts); absent where there is one device at most. @throws OptionError, DeviceError */
  parallel?(model: MetaModel, request: ParallelRequest): Promise<SpreadModel>;
  /** The device for "auto" on this platform. @throws DeviceError if there is none */
  chooseDevice(): Promise<DeviceChoice>;
}

/** Opens the folder that was loaded once more: of a model on a hub the same commit, whatever its branch is by then. */
export function reopening(
  platform: Platform,
  model: string,
  source: Source,
  place: SourceOptions,
): () => Promise<Source> {
  const { commit } = source;
  const again = { ...pick(SOURCE, place), force_download: undefined };
  return () => platform.source(model, commit === undefined ? again : { ...again, revision: commit });
}

/**
 * Makes a `sharedDevice`: each device is opened on first use, and again after it was lost. `usual` is the default name,
 * `choose` resolves "auto".
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

/** Something made on a device, such as a model, that knows its device. */
interface OnDevice {
  readonly device: Device;
}

/**
 * Makes something on the device for "auto" or, if it does not fit, on the alternative. `device.reason` of the result says
 * which one, and why.
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
 * Opens a device for the caller and makes something on it, such as a model; "auto" tries the next best device if the first
 * is too small. The caller closes the result's `device`; on failure no device is left open.
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
  return onAuto(platform.chooseDevice, (chosen) => on(chosen, optionsFor(chosen, options)));
}
