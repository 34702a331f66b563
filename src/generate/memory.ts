// The memory of a loaded model by device and by what it holds: `model.memory()`.

import type { Adapters } from "../adapters/set.js";
import type { Device } from "../core/device.js";
import { bytes, table } from "../core/show.js";
import { CACHE_LABELS } from "../nn/cache/store.js";
import type { Model } from "../nn/model.js";
import { AWAY_LABELS, tensorsOf } from "../nn/placement.js";

/** Bytes of a device, by what they hold. `live` is the sum of all kinds. */
export interface DeviceMemory {
  readonly device: string;
  /** Weights of the model that are there now, statistics and padding included. */
  readonly weights: number;
  /** Its adapters. */
  readonly adapters: number;
  /** Constants that no checkpoint holds, such as rotary frequencies. */
  readonly constants: number;
  /** Keys and values of running calls, and those that callers keep. */
  readonly caches: number;
  /** Scratch memory that recorded steps keep until their call ends. */
  readonly recordings: number;
  /** Weights that lie here and are used on another device. */
  readonly offloaded: number;
  /** Everything else: activations, gradients, what other models hold on a device that is shared. */
  readonly other: number;
  readonly live: number;
  /** Free memory that is kept for the next allocations; not part of `live`. */
  readonly reusable: number;
  /** The most that was live at once. */
  readonly peak: number;
  /** What may be live at most. */
  readonly budget: number;
}

/** Caches and recordings of a device that several models share are those of all of them. */
export interface ModelMemory {
  /** The main device first. */
  readonly devices: readonly DeviceMemory[];
  /** Bytes of weights in files of the offload folder. */
  readonly disk: number;
  /** A table. */
  toString(): string;
}

/** What is asked for its memory. */
interface Owner {
  readonly device: Device;
  readonly module: Model;
  readonly adapters: Adapters | undefined;
  /** Where the weights lie, by the names of modules. */
  readonly places: Readonly<Record<string, string | number>>;
}

export function memoryOf({ device: main, module, adapters, places }: Owner): ModelMemory {
  const tensors = tensorsOf(module);
  const adapted = adapters ? [...adapters.named_parameters()].flatMap(([, { tensors }]) => tensors) : [];
  const all = [...new Set([main, ...(module.placement?.devices ?? []), ...tensors.map(({ device }) => device)])];
  const devices = all.map((device): DeviceMemory => {
    const there = (list: typeof adapted): number =>
      list.reduce((sum, one) => sum + (one.device === device && one.resident ? one.nbytes : 0), 0);
    const labelled = device.arena.labels();
    const of = (labels: readonly string[]): number => labels.reduce((sum, one) => sum + (labelled.get(one) ?? 0), 0);
    const { live, kept: reusable, peak, budget } = device.memory;
    const kinds = {
      weights: there(tensors),
      adapters: there(adapted),
      constants: [...module.named_buffers()].reduce((sum, [, buffer]) => sum + buffer.bytesOn(device), 0),
      caches: of(CACHE_LABELS),
      recordings: of(["recording"]),
      offloaded: of(AWAY_LABELS),
    };
    const known = Object.values(kinds).reduce((sum, one) => sum + one, 0);
    return { device: device.name, ...kinds, other: Math.max(0, live - known), live, reusable, peak, budget };
  });
  const onDisk = module.blocks.flat().filter((block) => places[block.path] === "disk");
  const disk = onDisk.flatMap(tensorsOf).reduce((sum, { nbytes }) => sum + nbytes, 0);
  const memory = { devices, disk };
  const print = { value: () => tableOf(memory), enumerable: false };
  return Object.defineProperties(memory, { toString: print, [Symbol.for("nodejs.util.inspect.custom")]: print });
}

/** Kinds without a single byte have no column. */
function tableOf({ devices, disk }: Pick<ModelMemory, "devices" | "disk">): string {
  const kinds = ["weights", "adapters", "constants", "caches", "recordings", "offloaded", "other"] as const;
  const has = (kind: (typeof kinds)[number]): boolean =>
    devices.some((one) => one[kind] > 0) || (kind === "offloaded" && disk > 0);
  const shown = kinds.filter(has);
  const columns = ["device", ...shown, "live", "reusable", "peak", "budget"] as const;
  const rows = devices.map((one) => columns.map((column) => (column === "device" ? one.device : bytes(one[column]))));
  if (disk > 0)
    rows.push(columns.map((column) => (column === "device" ? "disk" : column === "offloaded" ? bytes(disk) : "")));
  return table([columns, ...rows], [...columns.keys()].slice(1)).trimEnd();
}
