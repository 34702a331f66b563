// Options of from_pretrained that Python has for machines with several devices, and for choices that are made once for all
// here. What changes no result is taken and has no effect.

import { listOf } from "../core/checks.js";
import { Device } from "../core/device.js";
import { OptionError } from "../core/errors.js";
import { choice, flag, type Options, option, such, text, whole } from "../core/options.js";
import * as z from "../core/schema.js";
import { listed, show } from "../core/show.js";
import { ATTN_IMPLEMENTATIONS, type AttnImplementation } from "../load/attn-implementation.js";
import { readDeviceMap, type Strategy } from "../load/device-map/index.js";
import { isOffloaded, type Memory, placeOf as placeKey, readMemory } from "../load/device-map/memory.js";
import { deviceName } from "../load/names.js";
import type { DeviceAlias, DeviceName, ParallelRequest } from "../load/platform.js";
import { bytesOf } from "../load/sizes.js";
import type { SpreadRequest } from "../load/spread.js";

type Place = DeviceName | DeviceAlias | Device;

/** Ways in which Python spreads a model over devices: with one device they all mean the best one. */
const SPREAD: ReadonlySet<unknown> = new Set(["auto", "balanced", "balanced_low_0", "sequential"]);

const isPlace = (value: unknown): boolean =>
  typeof value === "string" || deviceName(value) !== undefined || Device.is(value);

const isObject = (value: unknown): value is object =>
  typeof value === "object" && value !== null && !Array.isArray(value);

/** Names and numbers of devices in a list; undefined for anything else. */
function placesOf(value: unknown): (string | number)[] | undefined {
  return listOf(value, (one): one is string | number => placeKey(one) !== undefined);
}

export const PYTHON = {
  /**
   * Where the model runs, instead of `device`: a device's name or number, or a map of modules to devices, "cpu" and "disk". Blocks stay
   * whole, and everything beside them is on the main device, that of the first module that has one. "auto" is the best device, or
   * with a `max_memory` of several devices a map that uses them alike, as "balanced" does; "balanced_low_0" puts as little as
   * possible on device 0, "sequential" fills one after the other. In a map over several, numbers are GPUs if there are any, else logical
   * devices of the CPU; "cpu" beside other devices, and "disk", hold blocks that the main device runs.
   */
  device_map: such<
    Place | "balanced" | "balanced_low_0" | "sequential" | Readonly<Record<string, string | number | Device>> | null
  >(
    (value) => value === null || isPlace(value) || isObject(value),
    'a device, "auto", or a map of modules to a device',
  ),
  /**
   * Most bytes that the model may use, by device: `{ 0: "1GB", 1: "2GB", cpu: "8GB", disk: "1TB" }`. On one device 0 is the first GPU, or
   * the CPU where the model runs there and has no bound of its own. More than that is an OutOfMemoryError.
   */
  max_memory: such<Readonly<Record<string | number, number | string | undefined>>>(
    isObject,
    'a map of devices to bytes or to texts such as "1GB"',
  ),
  /**
   * "auto" cuts the matrices of the blocks, and an untied head, by outputs over `tp_size` devices, which multiply at the same time.
   * Each output is summed on one device, so the results are those of one device, bit for bit, in every form of storage. The first
   * device is the main one: it has norms, attention, caches and embeddings, and while the model is read one whole matrix as well.
   */
  tp_plan: such<"auto" | null>((value) => value === "auto" || value === null, '"auto"', {
    hint: "a plan of one's own is not in Octavo: every linear of the blocks is cut by outputs",
  }),
  /** Number of devices for `tp_plan` (default: 2, or those of `device_mesh`): GPUs if there are any, else cpu:0, cpu:1, ... */
  tp_size: whole(1),
  /** The devices for `tp_plan` by name or number, the main one first. In `max_memory` a number is the device that it is here. */
  device_mesh: such<readonly (string | number)[]>(
    (value) => (placesOf(value)?.length ?? 0) > 0,
    'a list of devices, such as ["cpu:0", "cpu:1"]',
  ),
  /** No effect: a model is always filled as its files are read. */
  low_cpu_mem_usage: flag(),
  /** No effect: `generate` keeps keys and values, `forward` does not. */
  use_cache: flag(),
  /**
   * How attention is computed, by transformers' names. One fused kernel serves all of them: "flash_attention_2" demands a model in 16
   * bits, and `sdpa_kernel` holds for "sdpa", the default, alone. (One more difference: Falcon models with ALiBi add it once with
   * "sdpa" and twice with "eager", as in transformers, or if nothing is passed.)
   */
  attn_implementation: choice(ATTN_IMPLEMENTATIONS, {
    hint: "leave it out: attention is always computed in one fused kernel",
  }),
  /** True is `attn_implementation: "flash_attention_2"`, in transformers' older spelling. */
  use_flash_attention_2: flag(),
  /** Only false: nothing in a model's files is ever executed. */
  trust_remote_code: option<false>(z.literal(false), "false", {
    hint: "nothing in a model's files is executed here; leave it out",
  }),
  /** Folder for the weights of blocks that go to the disk, for as long as the model lives. */
  offload_folder: text(),
};

export interface PythonOptions extends Options<typeof PYTHON> {}

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
