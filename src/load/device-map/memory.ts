// How much memory each device may take: what callers give, in accelerate's units and order, and the same balanced over several
// devices.

import { OptionError } from "../../core/errors.js";
import { show } from "../../core/show.js";
import { convert_file_size_to_int } from "../sizes.js";
import { type Counting, leavesOf, moduleSizes } from "./sizes.js";
import { modulesOf, type TreeModule } from "./tree.js";

/** A device of a map: a number, or a name. */
export type Place = number | string;

/** Bytes, or texts such as "1GB", by device: `{ 0: "1GB", cpu: "8GiB", disk: "1TB" }`. */
export type MaxMemory = Readonly<Record<string | number, number | string>>;

/** Bytes by device, in the order in which devices are filled. */
export type Memory = ReadonlyMap<Place, number>;

/** Places without a processor of their own: what lies there is computed elsewhere. */
export function isOffloaded(place: Place): boolean {
  return place === "cpu" || place === "disk";
}

const NUMBER = /^(?:0|[1-9]\d{0,2})$/;
/** Devices of this library that have names, besides "cpu" and "disk". */
const NAMED = /^(?:mps|(?:gpu|cuda|xpu|webgpu)(?::\d{1,3})?|cpu:\d{1,2}|wasm|reference)$/;

/**
 * A device's name or number as a key of an object gives it; undefined for what is none. Numbers are devices that compute; "cpu"
 * and "disk" are where the rest lies.
 */
export function placeOf(key: unknown): Place | undefined {
  if (typeof key === "number") return NUMBER.test(String(key)) ? key : undefined;
  if (typeof key !== "string") return undefined;
  if (NUMBER.test(key)) return Number(key);
  return isOffloaded(key) || NAMED.test(key) ? key : undefined;
}

/** The entries of an object or a Map that a caller gave. @throws OptionError if it is neither, or cannot be read */
export function pairsOf(name: string, given: unknown): [unknown, unknown][] {
  try {
    if (given instanceof Map) return [...given];
    if (typeof given === "object" && given !== null && !Array.isArray(given)) return Object.entries(given);
  } catch (cause) {
    throw new OptionError(`${name} cannot be read`, { cause, details: { option: name } });
  }
  throw new OptionError(`${name} must be an object, got ${show(given)}`, { details: { option: name } });
}

/**
 * What a caller allows each device: first those that have numbers, then other devices, then "cpu", then "disk".
 * @throws OptionError for what is no device or no size
 */
export function readMemory(max_memory: unknown): Map<Place, number> {
  const given = new Map<Place, number>();
  for (const [key, size] of pairsOf("max_memory", max_memory)) {
    const place = placeOf(key);
    if (place === undefined) {
      throw new OptionError(`max_memory: device ${show(key)} is not recognized`, {
        details: { option: "max_memory" },
        hint: "devices are numbers, 'webgpu:N', 'cpu:N', 'cpu' and 'disk'",
      });
    }
    // Shares of memory, such as nine tenths of it, are no whole numbers.
    const bytes =
      typeof size === "number" && size >= 0 && size < 2 ** 53 ? size : convert_file_size_to_int(size as string);
    given.set(place, bytes);
  }
  const rank = (place: Place): number =>
    typeof place === "number" ? place : place === "disk" ? 3000 : place === "cpu" ? 2000 : 1000;
  return new Map([...given].sort(([a], [b]) => rank(a) - rank(b)));
}

/** The classes whose modules stay whole. @throws OptionError */
export function readClasses(given: unknown): readonly string[] {
  if (given === undefined || given === null) return [];
  if (typeof given === "string") return [given];
  const names: string[] = [];
  try {
    for (const name of given as Iterable<unknown>) {
      if (typeof name !== "string" || names.length === MOST_CLASSES) return refuse(given);
      names.push(name);
    }
    return names;
  } catch {
    return refuse(given);
  }
}

/** Far more than any model has: a list may claim any length. */
const MOST_CLASSES = 10_000;

function refuse(given: unknown): never {
  throw new OptionError(`no_split_module_classes must be names of classes, got ${show(given)}`, {
    details: { option: "no_split_module_classes" },
  });
}

export interface Balancing extends Counting {
  readonly no_split_module_classes?: readonly string[];
  /** Keep device 0 as empty as possible: `generate` needs its memory. */
  readonly low_zero?: boolean | undefined;
  /** The memory is that of the machine, of which a single device uses nine tenths. */
  readonly ours?: boolean;
}

/**
 * Lowers what each device may take so that all are used alike; the last one keeps what it has, in case the sums are a little short.
 * Only devices with numbers, or with names of processors, are balanced.
 */
export function balancedMemory(tree: TreeModule, memory: Memory, options: Balancing): Map<Place, number> {
  const result = new Map(memory);
  const devices = [...memory.keys()].filter((place) => !isOffloaded(place) && place !== "mps");
  const used = devices.filter((place) => memory.get(place)! > 0);
  if (used.length === 0) return result;
  const low = options.low_zero === true && used.length > 1 && result.has(0);
  if (used.length === 1 && options.ours) result.set(used[0]!, memory.get(used[0]!)! * 0.9);
  const sizes = moduleSizes(tree, options);
  const total = sizes.get("") ?? 0;
  const each = Math.floor(total / (low ? used.length - 1 : used.length)) + reserve(tree, sizes, options);
  for (const place of used.slice(0, -1)) {
    if (!(low && place === 0)) result.set(place, Math.min(each, result.get(place)!));
  }
  if (low) {
    let others = 0;
    for (let i = 1; i < used.length; i++) others += result.get(devices[i]!) ?? 0;
    result.set(0, Math.min(Math.max(0, total - others), result.get(0)!));
  }
  return result;
}

/** Bytes above its share that a device may take, because modules stay whole: a quarter more than the largest, or the mean. */
function reserve(tree: TreeModule, sizes: ReadonlyMap<string, number>, options: Balancing): number {
  const { no_split_module_classes: whole = [] } = options;
  const paths = new Map(modulesOf(tree));
  const first = new Map<string, number>();
  for (const [name, bytes] of sizes) {
    const module = name === "" ? undefined : paths.get(name);
    if (module && whole.includes(module.class_name) && !first.has(module.class_name))
      first.set(module.class_name, bytes);
  }
  // What is left when tensors are taken away: their modules.
  const tensors = new Set(leavesOf(sizes));
  const modules = new Map([...sizes].filter(([name]) => !tensors.has(name)));
  const leaves = leavesOf(modules);
  const mean = Math.trunc(leaves.reduce((sum, name) => sum + modules.get(name)!, 0) / Math.max(leaves.length, 1));
  return Math.trunc(1.25 * Math.max(0, ...first.values(), mean));
}
