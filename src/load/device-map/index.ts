// The functions of accelerate that plan where a model goes, with its names. They look at a tree of modules and at numbers; nothing is
// loaded, and nothing is asked of a machine but the memory that the caller has not named.

import { OptionError } from "../../core/errors.js";
import { callback, checkedLater, flag, type Options, readOptions, such } from "../../core/options.js";
import { bytes, listed, show } from "../../core/show.js";
import { type Inferred, inferDeviceMap, type Step } from "./infer.js";
import {
  balancedMemory,
  type MaxMemory,
  type Memory,
  type Place,
  pairsOf,
  placeOf,
  readClasses,
  readMemory,
} from "./memory.js";
import { moduleSizes } from "./sizes.js";
import { modulesOf, type TreeModule, tensorsOf, treeOf } from "./tree.js";

/** A device by the names of modules: `{ "transformer.h.0": 0, lm_head: "cpu" }`; "" is the whole model. */
export type DeviceMap = Record<string, Place>;

const COUNTING = {
  /** The dtype that floats will be converted to, if theirs is wider: "float16", "int8", "int4". Default: as they are stored. */
  dtype: such<string>((value) => typeof value === "string", "the name of a dtype"),
  /** Dtypes of single parameters, by their names. */
  special_dtypes: such<Readonly<Record<string, string>>>(isRecord, "an object of names and dtypes"),
};

const MODULE_SIZES = {
  ...COUNTING,
  /** Count constants alone. */
  buffers_only: flag(),
};

const PLANNING = {
  ...COUNTING,
  /** Bytes for each device, or texts such as "1GB"; default: the memory of this machine that is free. */
  max_memory: checkedLater<MaxMemory | ReadonlyMap<Place, number | string>>(),
  /** Names of classes whose modules stay whole. */
  no_split_module_classes: checkedLater<string | Iterable<string>>(),
};

export const BALANCED_MEMORY = {
  ...PLANNING,
  /** Put as little as possible on device 0. */
  low_zero: flag(),
};

const WARN = {
  /** Receives warnings; default: the console. */
  warn: callback<(message: string) => void>(),
};

export const INFER_DEVICE_MAP = {
  ...PLANNING,
  ...WARN,
  /** Print each decision. */
  verbose: flag(),
  /** Default: true. Modules that are on one device together are one entry. */
  clean_result: flag(),
  /** Constants of modules on the CPU and the disk lie there too. */
  offload_buffers: flag(),
  /** Where the next module does not fit on an empty device, look for a smaller one. */
  fallback_allocation: flag(),
};

/** Ways to spread a model over devices. */
export const STRATEGIES = ["auto", "balanced", "balanced_low_0", "sequential"] as const;
export type Strategy = (typeof STRATEGIES)[number];

/** The memory of a machine that is free, by device. */
export type FreeMemory = () => MaxMemory;

function isRecord(value: unknown): boolean {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function printed(message: string): void {
  console.warn(`octavo: ${message}`);
}

/** An object with the entries of a Map. */
function objectOf<V>(map: ReadonlyMap<Place, V>): Record<string, V> {
  return Object.fromEntries(map);
}

function memoryOf(given: unknown, free: FreeMemory): Memory {
  return readMemory(given ?? free());
}

export interface DeviceMapFunctions {
  /**
   * What a caller allows each device, in bytes and in the order in which devices are filled: those with numbers, those with names,
   * "cpu", "disk". Without an argument: the free memory of this machine as "cpu"; WebGPU does not tell that of a GPU.
   * @throws OptionError for a device or a size that is none
   */
  get_max_memory(max_memory?: MaxMemory | ReadonlyMap<Place, number | string>): Record<string, number>;
  /**
   * `max_memory` lowered so that devices are used alike.
   * @throws OptionError
   */
  get_balanced_memory(model: unknown, options?: Options<typeof BALANCED_MEMORY>): Record<string, number>;
  /**
   * A device for every module of a model, which may be declared only: devices are filled one after the other, then the CPU, then the
   * disk. The first one keeps room for the largest layer that lies elsewhere.
   * @throws OptionError
   */
  infer_auto_device_map(model: unknown, options?: Options<typeof INFER_DEVICE_MAP>): DeviceMap;
}

/** The functions for a platform. */
export function deviceMapFunctions(free: FreeMemory): DeviceMapFunctions {
  return {
    get_max_memory: (max_memory) => objectOf(memoryOf(max_memory, free)),

    get_balanced_memory(model, given = {}) {
      const options = readOptions("get_balanced_memory", BALANCED_MEMORY, given);
      const tree = treeOf(model);
      return objectOf(
        balancedMemory(tree, memoryOf(options.max_memory, free), {
          ...options,
          no_split_module_classes: readClasses(options.no_split_module_classes),
          ours: options.max_memory === undefined,
        }),
      );
    },

    infer_auto_device_map(model, given = {}) {
      const {
        max_memory,
        no_split_module_classes,
        verbose,
        warn = printed,
        ...options
      } = readOptions("infer_auto_device_map", INFER_DEVICE_MAP, given);
      const tree = treeOf(model);
      const inferred = inferDeviceMap(tree, memoryOf(max_memory, free), {
        ...options,
        no_split_module_classes: readClasses(no_split_module_classes),
      });
      if (verbose) for (const step of inferred.steps) console.log(describeStep(step));
      for (const warning of warningsOf(inferred)) warn(warning);
      return objectOf(inferred.device_map as ReadonlyMap<Place, Place>);
    },
  };
}

/**
 * Bytes of each module and tensor of a model by its name, and of all under "". A tied tensor counts under its first name.
 * @throws OptionError for what is no model, and for an unknown dtype
 */
export function compute_module_sizes(model: unknown, given: Options<typeof MODULE_SIZES> = {}): Record<string, number> {
  const { buffers_only, ...counting } = readOptions("compute_module_sizes", MODULE_SIZES, given);
  return Object.fromEntries(moduleSizes(treeOf(model), counting, buffers_only ? "only" : undefined));
}

/**
 * Checks that a device map has a device for every tensor of a model. Names that are not in the model are told to `warn`.
 * @throws OptionError naming what has no device, and for a device that is none
 */
export function check_device_map(
  model: unknown,
  device_map: Readonly<DeviceMap> | ReadonlyMap<string, Place>,
  given: Options<typeof WARN> = {},
): void {
  const { warn = printed } = readOptions("check_device_map", WARN, given);
  const unknown = checkDeviceMap(treeOf(model), readDeviceMap(device_map));
  if (unknown.length > 0) {
    warn(`the following keys of device_map do not match any module of the model: ${listed(unknown)}`);
  }
}

/** The entries of a device map that a caller gave. @throws OptionError for a device that is none */
export function readDeviceMap(device_map: unknown): Map<string, Place> {
  const map = new Map<string, Place>();
  for (const [name, value] of pairsOf("device_map", device_map)) {
    const place = placeOf(value);
    if (place === undefined || typeof name !== "string") {
      throw new OptionError(`device_map: ${show(name)} cannot go to ${show(value)}`, {
        details: { option: "device_map" },
        hint: "devices are numbers, 'webgpu:N', 'cpu:N', 'cpu' and 'disk'",
      });
    }
    map.set(name, place);
  }
  return map;
}

/** @returns names that are not in the model @throws OptionError naming the tensors without a device */
export function checkDeviceMap(tree: TreeModule, map: ReadonlyMap<string, Place>): string[] {
  const known = new Set([...modulesOf(tree)].map(([path]) => path));
  const bare: string[] = [];
  for (const kind of ["parameters", "buffers"] as const) {
    for (const [name, { saved }] of tensorsOf(tree, kind)) {
      known.add(name);
      if (saved && deviceFor(name, map) === undefined) bare.push(name);
    }
  }
  if (bare.length > 0) {
    throw new OptionError(
      `the device_map provided does not give any device for the following parameters: ${listed(bare, 3)}`,
      { details: { option: "device_map", parameters: bare.slice(0, 50) }, hint: 'the entry "" is for the whole model' },
    );
  }
  return [...map.keys()].filter((name) => name !== "" && !known.has(name));
}

/** The device of a module or tensor: that of the longest name above it. */
export function deviceFor(name: string, map: ReadonlyMap<string, Place>): Place | undefined {
  for (let at = name; ; at = at.slice(0, Math.max(0, at.lastIndexOf(".")))) {
    const place = map.get(at);
    if (place !== undefined || at === "") return place;
  }
}

/** A decision in words. */
export function describeStep({ kind, name, device, bytes: size, free, reserved, tied }: Step): string {
  const room = free === undefined ? "" : `, free ${bytes(Math.max(0, Math.floor(free)))}`;
  const kept = reserved > 0 ? ` beside ${bytes(reserved)} kept for a layer that may come from elsewhere` : "";
  const what = `${name === "" ? "the model" : name} (${bytes(size)}${tied.length > 0 ? `, with ${listed(tied)}` : ""}${room}${kept})`;
  switch (kind) {
    case "placed":
      return `${device}: ${what}`;
    case "split":
      return `${device}: ${what} is split`;
    case "fallback":
      return `${device}: ${what} is put before what does not fit`;
    case "next device":
      return `device ${device} is full for ${what}`;
  }
}

/** What a user should know of a plan. */
function warningsOf({ homeless_buffers }: Inferred): string[] {
  if (homeless_buffers === 0) return [];
  return [
    `Current model requires ${homeless_buffers} bytes of buffer for offloaded layers, which seems does not fit any GPU's ` +
      "remaining memory. If you are experiencing a OOM later, please consider using offload_buffers=True.",
  ];
}
