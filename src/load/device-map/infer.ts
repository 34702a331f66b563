// Where the modules of a model go, by accelerate's rules: devices are filled one after the other, then the CPU, then the disk. The
// first device keeps room for the largest layer that lies on the CPU or the disk, and the CPU for the largest that lies on the disk.

import { isOffloaded, type Memory, type Place } from "./memory.js";
import { type Counting, canSplit, childrenOf, type Entry, largestLayer, moduleSizes, topEntries } from "./sizes.js";
import { distinct, type TreeModule, tiedParameters } from "./tree.js";

export interface Inferring extends Counting {
  /** Classes whose modules stay whole. */
  readonly no_split_module_classes: readonly string[];
  /** Modules that are on one device together are one entry. */
  readonly clean_result?: boolean | undefined;
  /** Constants of modules on the CPU and the disk lie there too. */
  readonly offload_buffers?: boolean | undefined;
  /** Look for a smaller module where the next one does not fit on an empty device. */
  readonly fallback_allocation?: boolean | undefined;
}

/** What was decided about a module. */
export interface Step {
  readonly kind: "placed" | "split" | "next device" | "fallback";
  readonly name: string;
  readonly device: Place;
  /** Bytes of the module, with those that are tied to it. */
  readonly bytes: number;
  /** Bytes that were free, after the room for the largest layer; undefined on the disk. */
  readonly free: number | undefined;
  /** Bytes that are kept free for the largest layer that has no device. */
  readonly reserved: number;
  /** Modules that are placed with it, or split for it, because they share its parameters. */
  readonly tied: readonly string[];
}

export interface Inferred {
  readonly device_map: Map<string, Place>;
  readonly steps: readonly Step[];
  /** Bytes of what was placed, by device. */
  readonly placed: ReadonlyMap<Place, number>;
  /** Bytes that a device without any module would need for one. */
  readonly needed: ReadonlyMap<Place, number>;
  /** Bytes of the constants of modules without a device that fit on none; 0 if all do. */
  readonly homeless_buffers: number;
}

/** Of these devices, those that keep room for the largest layer that has none. */
export function keepingRoom(devices: readonly Place[]): readonly Place[] {
  const computing = devices.filter((place) => !isOffloaded(place));
  return computing.includes("mps") ? ["mps"] : [...computing.slice(0, 1), "cpu"];
}

export function inferDeviceMap(tree: TreeModule, memory: Memory, options: Inferring): Inferred {
  return new Inference(tree, memory, options).run();
}

/** Modules that share parameters with another one, and what all of them need together. */
interface Ties {
  readonly bytes: number;
  readonly partners: readonly Entry[];
}

class Inference {
  readonly #memory: Memory;
  readonly #options: Inferring;
  readonly #whole: readonly string[];
  readonly #devices: readonly Place[];
  /** Devices that keep room for a layer that has none. */
  readonly #main: readonly Place[];
  readonly #sizes: ReadonlyMap<string, number>;
  readonly #tied: readonly (readonly string[])[];
  #todo: Entry[];
  #largest: { bytes: number; names: string[] };
  readonly #used = new Map<Place, number>();
  readonly #placed = new Map<Place, number>();
  readonly #needed = new Map<Place, number>();
  readonly #buffers = new Map<Place, number>();
  readonly #map = new Map<string, Place>();
  readonly #steps: Step[] = [];
  /** Smaller modules that were tried on the current device. */
  readonly #tried = new Set<string>();

  constructor(tree: TreeModule, memory: Memory, options: Inferring) {
    this.#memory = memory;
    this.#options = options;
    this.#whole = options.no_split_module_classes;
    this.#devices = memory.has("disk") ? [...memory.keys()] : [...memory.keys(), "disk"];
    this.#main = keepingRoom(this.#devices);
    this.#sizes = moduleSizes(tree, options);
    this.#tied = tiedParameters(tree);
    this.#todo = topEntries(tree);
    this.#largest = largestLayer(this.#todo, this.#sizes, this.#whole);
  }

  run(): Inferred {
    let current = 0;
    for (let entry = this.#todo.shift(); entry; entry = this.#todo.shift()) {
      const device = this.#devices[current]!;
      if (!this.#treat(entry, device)) {
        current++;
        this.#tried.clear();
        this.#todo.unshift(entry);
      }
    }
    const device_map = this.#options.clean_result === false ? this.#map : cleanDeviceMap(this.#map);
    return {
      device_map,
      steps: this.#steps,
      placed: this.#placed,
      needed: this.#needed,
      homeless_buffers: this.#homelessBuffers(),
    };
  }

  /** Places a module on the device, or splits it or another; false if the device is done. */
  #treat(entry: Entry, device: Place): boolean {
    const { name } = entry;
    const left = this.#largest.names.filter((one) => one !== name && !one.startsWith(`${name}.`));
    if (left.length > 0) this.#largest = { ...this.#largest, names: left };
    else this.#measure();
    const bytes = this.#sizes.get(name) ?? 0;
    const ties = this.#ties(name, this.#todo);
    const reserved = this.#main.includes(device) ? this.#largest.bytes : 0;
    const used = this.#used.get(device) ?? 0;
    const most = device === "disk" ? Number.POSITIVE_INFINITY : this.#memory.get(device)! - reserved;
    const free = device === "disk" ? undefined : most - used;
    const step = (kind: Step["kind"], tied: readonly Entry[] = [], what = name): void => {
      this.#steps.push({
        kind,
        name: what,
        device,
        bytes: ties.bytes,
        free,
        reserved,
        tied: tied.map((one) => one.name),
      });
    };

    if (used + ties.bytes <= most) {
      step("placed", ties.partners);
      this.#place(entry, ties, device);
      return true;
    }
    if (ties.partners.length > 0 && used + bytes <= most) {
      const partner = ties.partners.find((one) => canSplit(one, this.#whole));
      if (partner) {
        step("split", [], partner.name);
        const at = this.#todo.findIndex((one) => one.name === partner.name);
        this.#todo.splice(at, 1, ...partsOf(partner));
        this.#todo.unshift(entry);
        this.#measure();
        return true;
      }
    }
    if (used + bytes >= most && canSplit(entry, this.#whole)) {
      step("split");
      this.#todo.unshift(...partsOf(entry));
      this.#measure();
      return true;
    }
    if (used === 0 && this.#options.fallback_allocation && device !== "disk") {
      const found = this.#fallback(this.#memory.get(device)! - Math.max(this.#largest.bytes, ties.bytes));
      if (found && this.#tried.has(found.name)) this.#todo.unshift(found);
      else if (found) {
        this.#tried.add(found.name);
        step("fallback", [], found.name);
        this.#todo.unshift(found, entry);
        return true;
      }
    }
    if (used === 0) this.#needed.set(device, ties.bytes + reserved);
    step("next device");
    this.#used.set(device, used + reserved);
    return false;
  }

  #measure(): void {
    const modules = this.#todo.filter(({ module }) => module);
    this.#largest = largestLayer(modules, this.#sizes, this.#whole);
  }

  /** What shares parameters with a module and is not placed yet, among `others`. */
  #ties(name: string, others: readonly Entry[]): Ties {
    // As accelerate compares them: the end of another name is enough, and then what shares is taken for one module.
    const inside = (one: string): boolean => `${one}.`.includes(`${name}.`);
    let bytes = this.#sizes.get(name) ?? 0;
    const partners: Entry[] = [];
    for (const group of this.#tied) {
      if (!group.some(inside) || group.every(inside)) continue;
      for (const tied of group) {
        if (inside(tied)) continue;
        const partner = others.find((one) => tied === one.name || tied.startsWith(`${one.name}.`));
        if (!partner) continue; // placed already
        bytes += (this.#sizes.get(partner.name) ?? 0) - (this.#sizes.get(tied) ?? 0);
        partners.push(partner);
      }
    }
    return { bytes, partners };
  }

  #place({ name, module }: Entry, { bytes, partners }: Ties, device: Place): void {
    this.#used.set(device, (this.#used.get(device) ?? 0) + bytes);
    this.#placed.set(device, (this.#placed.get(device) ?? 0) + bytes);
    this.#map.set(name, device);
    for (const partner of partners) {
      this.#todo = this.#todo.filter((one) => one.name !== partner.name);
      this.#map.set(partner.name, device);
    }
    if (!module || this.#options.offload_buffers) return;
    const buffers = moduleSizes(module, this.#options, "only").get("") ?? 0;
    this.#buffers.set(device, (this.#buffers.get(device) ?? 0) + buffers);
  }

  /** Takes the first module that fits out of the list, whose parents are split; undefined if none does. */
  #fallback(limit: number): Entry | undefined {
    if (limit < 0) return undefined;
    const search = [...this.#todo];
    for (let entry = search.shift(); entry; entry = search.shift()) {
      if (this.#ties(entry.name, search).bytes <= limit) return this.#take(entry);
      if (canSplit(entry, this.#whole)) search.unshift(...partsOf(entry));
    }
    return undefined;
  }

  #take(entry: Entry): Entry {
    for (let dot = entry.name.indexOf("."); dot >= 0; dot = entry.name.indexOf(".", dot + 1)) {
      const at = this.#todo.findIndex(({ name }) => name === entry.name.slice(0, dot));
      if (at >= 0) this.#todo.splice(at, 1, ...partsOf(this.#todo[at]!));
    }
    this.#todo = this.#todo.filter(({ name }) => name !== entry.name);
    return entry;
  }

  /** The constants of modules without a device are kept on one: their bytes, if there is none with the room. */
  #homelessBuffers(): number {
    if (this.#options.offload_buffers) return 0;
    const bytes = (this.#buffers.get("cpu") ?? 0) + (this.#buffers.get("disk") ?? 0);
    const computing = [...this.#memory].filter(([place]) => !isOffloaded(place));
    const fits = computing.some(([place, most]) => most >= bytes + (this.#used.get(place) ?? 0));
    return computing.length === 0 || fits ? 0 : bytes;
  }
}

/** What a module that is split becomes: its own parameters, and its children. Constants have no place of their own. */
function partsOf(entry: Entry): Entry[] {
  const parameters = distinct(entry.module!.parameters);
  return [...parameters.map(([name]) => ({ name: `${entry.name}.${name}`, module: undefined })), ...childrenOf(entry)];
}

/** The map with one entry in place of all those below a name that are on one device. */
function cleanDeviceMap(map: ReadonlyMap<string, Place>): Map<string, Place> {
  const result = new Map(map);
  const clean = (name: string): void => {
    const prefix = name === "" ? "" : `${name}.`;
    const below = [...result].filter(([key]) => key.startsWith(prefix));
    const place = below[0]?.[1];
    if (below.length > 1 && below.every(([, one]) => one === place)) {
      for (const [key] of below) result.delete(key);
      result.set(name, place!);
      return;
    }
    const depth = name === "" ? 1 : name.split(".").length + 1;
    const children = below.map(([key]) => key).filter((key) => key.length > name.length);
    for (const child of new Set(children.map((key) => key.split(".").slice(0, depth).join(".")))) clean(child);
  };
  clean("");
  return result;
}
