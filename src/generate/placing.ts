// What the options of from_pretrained in python.ts mean: on which device a model runs, on which several, and how attention is computed.

import { Device } from "../core/device.js";
import { OptionError } from "../core/errors.js";
import { listed, show } from "../core/show.js";
import type { AttnImplementation } from "../load/attn-implementation.js";
import { readDeviceMap, type Strategy } from "../load/device-map/index.js";
import { isOffloaded, type Memory, placeOf as placeKey, readMemory } from "../load/device-map/memory.js";
import { deviceName } from "../load/names.js";
import type { DeviceName, ParallelRequest } from "../load/platform.js";
import { bytesOf } from "../load/sizes.js";
import type { SpreadRequest } from "../load/spread.js";
import { isObject, isPlace, type Place, type PythonOptions, placesOf } from "./python.js";

/** Ways in which Python spreads a model over devices: with one device they all mean the best one. */
const SPREAD: ReadonlySet<unknown> = new Set(["auto", "balanced", "balanced_low_0", "sequential"]);

/** How attention is computed, if the caller says it. @throws OptionError for two answers */
export function attentionOf(options: PythonOptions): AttnImplementation | undefined {
  const { attn_implementation, use_flash_attention_2 } = options;
  if (!use_flash_attention_2) return attn_implementation;
  if (attn_implementation === undefined || attn_implementation === "flash_attention_2") return "flash_attention_2";
  throw new OptionError(
    `Both attn_implementation="${attn_implementation}" and use_flash_attention_2=True were used when loading the model, which are not compatible`,
    {
      details: { option: "use_flash_attention_2" },
      hint: 'attn_implementation: "flash_attention_2" alone says the same',
    },
  );
}

/**
 * The device that `device` or `device_map` names, in Octavo's spelling.
 * @throws OptionError if both are given, and for a map that names several devices
 */
export function placeOf(
  options: Pick<PythonOptions, "device_map"> & { device?: Place },
): DeviceName | Device | undefined {
  const { device, device_map } = options;
  if (device_map === undefined || device_map === null) return device === undefined ? undefined : nameOf(device);
  const refuse = (message: string, hint = 'device_map: "auto" takes the best device'): never => {
    throw new OptionError(message, { details: { option: "device_map" }, hint });
  };
  if (device !== undefined) refuse("device and device_map are both given", "leave one of them out");
  const places = isPlace(device_map) ? [device_map] : valuesOf("device_map", device_map).map(([, place]) => place);
  const names = new Set(
    places.map((place) => nameOf(place) ?? refuse(`device_map names ${show(place)}, where no model can run`)),
  );
  const [name] = names;
  if (name === undefined) return refuse("device_map names no device");
  if (names.size === 1) return name;
  const several = listed([...names].map((one) => (Device.is(one) ? one.name : one)));
  return refuse(`device_map names ${several}, and a Device or "auto" among them`, "name devices by their names");
}

/**
 * How `device_map` and `max_memory` spread a model over several devices; undefined if it runs on one.
 * @throws OptionError
 */
export function spreadOf({ device, device_map, max_memory, threads, ...options }: SpreadOptions): Wanted | undefined {
  const rest = { offload_folder: options.offload_folder, threads, gpu: false };
  const memory = (): Memory => readMemory(new Map(sizesOf(max_memory)));
  const both = (): void => {
    if (device === undefined) return;
    throw new OptionError("device and device_map are both given", {
      details: { option: "device_map" },
      hint: "leave one of them out",
    });
  };
  if (isObject(device_map) && !isPlace(device_map)) {
    const places = valuesOf("device_map", device_map).map(([, place]) => place);
    const names = new Set(places.map((place) => (placeKey(place) === undefined ? place : deviceName(place))));
    if (names.size < 2 || places.some((place) => Device.is(place) || SPREAD.has(place))) return undefined;
    both();
    return { ...rest, how: readDeviceMap(device_map), memory: max_memory === undefined ? undefined : memory() };
  }
  if (!SPREAD.has(device_map) || max_memory === undefined) return undefined;
  const places = sizesOf(max_memory).map(([key]) => placeKey(key));
  const computing = places.filter((place) => place !== undefined && !isOffloaded(place));
  const away = places.some((place) => place === "cpu");
  if (computing.length < 2 && !places.includes("disk") && !(computing.length === 1 && away)) return undefined;
  both();
  // Of the CPU's memory one device more is none: a number beside it counts where it is a GPU.
  const gpu = computing.length === 1 && typeof computing[0] === "number" && !places.includes("disk");
  return { ...rest, how: device_map as Strategy, memory: memory(), gpu };
}

/** Devices of one process that may share a model; one of the CPU's each has a number below this. */
const MOST_DEVICES = 64;

/**
 * How `tp_plan` cuts a model over devices; undefined if it is not given.
 * @throws OptionError
 */
export function parallelOf(options: ParallelOptions): ParallelRequest | undefined {
  const { tp_plan, tp_size, device_mesh: mesh, device, device_map, max_memory, threads } = options;
  const refuse = (option: string, message: string, hint?: string): never => {
    throw new OptionError(message, { details: { option }, hint });
  };
  if (tp_plan === undefined || tp_plan === null) {
    const [option] = Object.entries({ tp_size, device_mesh: mesh }).find(([, value]) => value !== undefined) ?? [];
    if (option) refuse(option, `tp_plan has to be set when ${option} is passed.`, 'tp_plan: "auto"');
    return undefined;
  }
  if (device_map !== undefined && device_map !== null) {
    refuse("tp_plan", "`tp_plan` and `device_map` are mutually exclusive. Choose either one for parallelization.");
  }
  const devices = mesh && placesOf(mesh)!.map((one) => placeKey(one)!);
  if (devices?.includes("disk")) refuse("device_mesh", "device_mesh names the disk, where no model can run");
  if (devices && tp_size !== undefined && tp_size !== devices.length) {
    refuse("tp_size", `tp_size is ${tp_size}, but device_mesh names ${devices.length} devices`);
  }
  const size = tp_size ?? devices?.length ?? 2;
  if (size > MOST_DEVICES) refuse("tp_size", `tp_size must be at most ${MOST_DEVICES}, got ${size}`);
  const kind = device === undefined ? undefined : Device.is(device) ? device.name : deviceName(device);
  if (kind !== undefined && (devices || Device.is(device) || !/^(?:cpu|webgpu|auto)$/.test(kind))) {
    refuse(
      "device",
      `tp_plan takes devices from tp_size or device_mesh, and device ${show(kind)} is given`,
      "leave device out",
    );
  }
  const memory = max_memory === undefined ? undefined : readMemory(new Map(sizesOf(max_memory)));
  return { size, devices, kind: kind === "auto" ? undefined : kind, memory, threads };
}

type ParallelOptions = SpreadOptions & Pick<PythonOptions, "tp_plan" | "tp_size" | "device_mesh">;

type SpreadOptions = Pick<PythonOptions, "device_map" | "max_memory" | "offload_folder"> & {
  readonly device?: Place | undefined;
  readonly threads?: number | undefined;
};

/** How a model is spread. */
export interface Wanted extends SpreadRequest {
  /** Only where there is a GPU; else it runs on one device. */
  readonly gpu: boolean;
}

/** The sizes that a caller gave. @throws OptionError */
function sizesOf(max_memory: unknown): [string, unknown][] {
  return valuesOf("max_memory", max_memory).filter(([, size]) => size !== undefined);
}

/** A device or its name in Octavo's spelling; undefined for what is neither, and for places without a processor. */
function nameOf(place: unknown): DeviceName | Device | undefined {
  if (Device.is(place)) return place;
  if (SPREAD.has(place)) return "auto";
  return place === "disk" || place === "meta" ? undefined : (deviceName(place) as DeviceName | undefined);
}

/** Bytes by device. */
export type Bounds = ReadonlyMap<string, number>;

/** The bounds that `max_memory` sets. @throws OptionError for what is no device or no size */
export function boundsOf(max_memory: unknown): Bounds | undefined {
  if (max_memory === undefined) return undefined;
  const bounds = new Map<string, number>();
  for (const [key, size] of valuesOf("max_memory", max_memory)) {
    const name = deviceName(key);
    if (name === "disk" || size === undefined) continue; // nothing is kept on a disk
    const bytes = bytesOf(size);
    if (name === undefined || !/^(?:cpu|webgpu|wasm|reference)(?::\d+)?$/.test(name) || bytes === undefined) {
      throw new OptionError(`max_memory: ${show(key)} may not take ${show(size)}`, {
        details: { option: "max_memory" },
        hint: 'name devices and sizes: { 0: "2GB", cpu: "8GiB" }',
      });
    }
    bounds.set(name, bytes);
  }
  return bounds;
}

/** The bound of a device. @throws OptionError if there is none */
export function boundFor(bounds: Bounds, device: string): number {
  const own = bounds.get(device);
  const family = device.startsWith("webgpu")
    ? device === "webgpu:0"
      ? bounds.get("webgpu")
      : undefined
    : bounds.get("cpu");
  const bytes = own ?? family ?? (device.startsWith("webgpu") ? undefined : bounds.get("webgpu"));
  if (bytes !== undefined) return bytes;
  throw new OptionError(`max_memory has no bound for ${device}, where the model runs`, {
    details: { option: "max_memory" },
    hint: `add one: { ${JSON.stringify(device)}: "2GB" }`,
  });
}

/** The entries of a map that a caller gave, each read once. @throws OptionError if they cannot be read */
function valuesOf(name: string, map: unknown): [string, unknown][] {
  try {
    return Object.entries(map as object);
  } catch (cause) {
    throw new OptionError(`${name} cannot be read`, { cause, details: { option: name } });
  }
}
