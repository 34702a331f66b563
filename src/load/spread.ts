// A model over several devices: which device reads and runs each part, and where the weights lie that have no device. Whole blocks are
// placed; everything else is on the main device.

import type { Device } from "../core/device.js";
import { OptionError } from "../core/errors.js";
import { listed } from "../core/show.js";
import type { Model } from "../nn/model.js";
import type { Matrix, Module, Parameter } from "../nn/module.js";
import { BlockPlacement, onFile, onHost, tensorsOf } from "../nn/placement.js";
import { checkDeviceMap, deviceFor, type Strategy } from "./device-map/index.js";
import { isOffloaded, type Memory, type Place } from "./device-map/memory.js";
import { planDevices } from "./device-map/plan.js";
import { tensorsOf as tensorsBelow, treeOf } from "./device-map/tree.js";
import type { SpreadModel } from "./fill.js";
import type { MetaModel } from "./meta.js";
import { deviceName } from "./names.js";
import type { OffloadFolder, Platform } from "./platform.js";

/** How a caller wants a model spread. */
export interface SpreadRequest {
  /** A way to choose, or a device by the names of modules. */
  readonly how: Strategy | ReadonlyMap<string, Place>;
  /** What each device may take. */
  readonly memory: Memory | undefined;
  readonly offload_folder: string | undefined;
  /** Threads of each device of the CPU. */
  readonly threads: number | undefined;
}

/** Where the parts of a model go. */
interface Layout {
  readonly main: Place;
  readonly blocks: ReadonlyMap<Module, Place>;
  readonly device_map: ReadonlyMap<string, Place>;
  readonly warnings: readonly string[];
}

export class Spread implements SpreadModel {
  readonly main: Device;
  /** The place of each block, and of each module beside them. */
  readonly device_map: Readonly<Record<string, Place>>;
  readonly placement: BlockPlacement;
  readonly warnings: readonly string[];
  /** True if weights lie elsewhere than where they are used. */
  readonly offloaded: boolean;
  readonly #layout: Layout;
  readonly #devices: ReadonlyMap<Place, Device>;
  readonly #folder: OffloadFolder | undefined;
  readonly #blockOf = new Map<Parameter | Matrix, Module>();
  /** Parameters of each block that are not filled yet. */
  readonly #open = new Map<Module, Set<Parameter | Matrix>>();

  private constructor(layout: Layout, devices: ReadonlyMap<Place, Device>, folder: OffloadFolder | undefined) {
    this.#layout = layout;
    this.#devices = devices;
    this.#folder = folder;
    this.main = devices.get(layout.main)!;
    this.device_map = Object.fromEntries(layout.device_map);
    this.placement = new BlockPlacement(this.main);
    this.warnings = layout.warnings;
    this.offloaded = [...layout.blocks.values()].some((place) => this.#isAway(place));
    for (const block of layout.blocks.keys()) {
      const parameters = block.parameters();
      this.#open.set(block, parameters);
      for (const parameter of parameters) this.#blockOf.set(parameter, block);
    }
  }

  /**
   * Chooses a place for each part of a declared model, and opens the devices.
   * @throws OptionError for a map that cannot be followed, a model that does not fit, and a disk without a folder; DeviceError
   */
  static async open(platform: Platform, model: MetaModel, request: SpreadRequest): Promise<Spread> {
    const layout =
      typeof request.how === "string" ? planned(model, request, request.how) : followed(model, request.how);
    const places = new Set([layout.main, ...layout.blocks.values()]);
    if (places.has("disk")) checkFolder(platform, request.offload_folder);
    const numberOf = await numberingOf(platform, places);
    const devices = new Map<Place, Device>();
    try {
      for (const place of places) {
        if (place === "disk") continue;
        const name = typeof place === "number" ? numberOf(place) : deviceName(place)!;
        const threads = name.startsWith("webgpu") ? undefined : request.threads;
        const device = await platform.requestDevice(name, { threads });
        devices.set(place, device);
        const limit = request.memory?.get(place);
        if (limit !== undefined && limit >= 1) device.limit(Math.floor(limit));
      }
      // A GPU reads no files: what comes from one passes through the memory of a device that does.
      if (places.has("disk") && ![...devices.values()].some((device) => device.readsFiles)) {
        devices.set("cpu", await platform.requestDevice("cpu", { threads: request.threads }));
      }
      const folder = places.has("disk") ? await platform.offload!(request.offload_folder!) : undefined;
      return new Spread(layout, devices, folder);
    } catch (error) {
      for (const device of devices.values()) await device.close();
      throw error;
    }
  }

  /** All devices, the main one first. */
  get devices(): readonly Device[] {
    return [...new Set([this.main, ...this.#devices.values()])];
  }

  /** The device that reads a parameter: that of its block, or the one that will run it. */
  deviceOf(parameter: Parameter | Matrix): Device {
    const block = this.#blockOf.get(parameter);
    const place = block && this.#layout.blocks.get(block)!;
    return place === undefined || this.#isAway(place) ? this.main : this.#devices.get(place)!;
  }

  /** The block that is complete with this parameter, if its weights belong elsewhere than where they were read. */
  completes(parameter: Parameter | Matrix): Module | undefined {
    const block = this.#blockOf.get(parameter);
    const open = block && this.#open.get(block)!;
    if (!open?.delete(parameter) || [...open].some((one) => !one.optional)) return undefined;
    return this.#isAway(this.#layout.blocks.get(block!)!) ? block : undefined;
  }

  /** Takes the weights of a complete block to where they lie. @throws FileError, OutOfMemoryError */
  async store(block: Module): Promise<void> {
    const tensors = tensorsOf(block);
    const place = this.#layout.blocks.get(block)!;
    if (place !== "disk") {
      this.placement.place(block, onHost(tensors, this.#devices.get(place)!));
      return;
    }
    const kept = await this.#folder!.write(tensors);
    const via = this.main.readsFiles ? undefined : [...this.#devices.values()].find((device) => device.readsFiles);
    this.placement.place(block, onFile(kept, via));
  }

  /** Lets the model run as it is spread, once all of it is filled. */
  finish(model: Model): void {
    for (const [block, place] of this.#layout.blocks) if (!this.#isAway(place)) this.placement.place(block);
    for (const [, buffer] of model.named_buffers()) for (const device of this.placement.devices) buffer.on(device);
    model.placement = this.placement;
  }

  /** Frees what lies elsewhere, and the devices; after the model. */
  async close(): Promise<void> {
    this.placement.dispose();
    for (const device of this.devices) await device.close();
    await this.#folder?.remove();
  }

  #isAway(place: Place): boolean {
    return isOffloaded(place) && place !== this.#layout.main;
  }
}

function checkFolder(platform: Platform, folder: string | undefined): void {
  if (folder !== undefined && platform.offload) return;
  throw new OptionError(
    platform.offload
      ? "at least one of the model's modules goes to the disk, please pass along an offload_folder"
      : "nothing can be kept on a disk here",
    {
      details: { option: "offload_folder" },
      hint: platform.offload ? 'offload_folder: "offload"' : "raise max_memory, or quantize the model",
    },
  );
}

/** What the numbers of devices mean: GPUs if there are any, else logical devices of the CPU. */
async function numberingOf(platform: Platform, places: Iterable<Place>): Promise<(n: number) => string> {
  if (![...places].some((place) => typeof place === "number")) return String;
  const { name } = await platform.chooseDevice();
  return name.startsWith("webgpu") ? (n) => deviceName(n)! : (n) => `cpu:${n}`;
}

/** The blocks of a model by their paths. */
function blocksOf(model: MetaModel): Map<string, Module> {
  return new Map((model.module.blocks.flat() as readonly Module[]).map((block) => [block.path, block]));
}

/** Where a plan puts the parts. */
function planned(model: MetaModel, { memory }: SpreadRequest, strategy: Strategy): Layout {
  const { main, device_map } = planDevices(model, { strategy, memory: memory! });
  const blocks = new Map([...blocksOf(model)].map(([path, block]) => [block, device_map.get(path)!]));
  return { main, blocks, device_map, warnings: [] };
}

/** Where a caller's map puts the parts. @throws OptionError for tensors without a device, and for blocks that are taken apart */
function followed(model: MetaModel, map: ReadonlyMap<string, Place>): Layout {
  const tree = treeOf(model);
  const warnings: string[] = [];
  const unknown = checkDeviceMap(tree, map);
  if (unknown.length > 0) warnings.push(`device_map: these match no module of the model: ${listed(unknown)}`);
  const blocks = new Map<Module, Place>();
  const others = new Map<string, Place>();
  const byPath = blocksOf(model);
  const blockOf = (name: string): Module | undefined => {
    for (let dot = name.indexOf("."); dot >= 0; dot = name.indexOf(".", dot + 1)) {
      const block = byPath.get(name.slice(0, dot));
      if (block) return block;
    }
    return undefined;
  };
  for (const [name] of tensorsBelow(tree, "parameters")) {
    const place = deviceFor(name, map)!;
    const block = blockOf(name);
    if (!block) others.set(name, place);
    else if ((blocks.get(block) ?? place) === place) blocks.set(block, place);
    else {
      throw new OptionError(
        `device_map takes ${block.path} apart, between ${blocks.get(block)} and ${place}: blocks stay whole`,
        {
          details: { option: "device_map" },
          hint: `infer_auto_device_map(model, { no_split_module_classes: ["${block.class_name}"] }) keeps them so`,
        },
      );
    }
  }
  const all = [...others.values(), ...blocks.values()];
  const main = all.find((place) => !isOffloaded(place)) ?? (all.includes("cpu") ? "cpu" : undefined);
  if (main === undefined) {
    throw new OptionError('device_map names "disk", where no model can run', {
      details: { option: "device_map" },
      hint: 'name a device for some modules: { "": "disk", lm_head: "cpu" }',
    });
  }
  const moved = [...others].filter(([, place]) => place !== main).map(([name]) => name);
  if (moved.length > 0) {
    warnings.push(
      `device_map: everything but the blocks is on the main device ${main}, so these are there as well: ${listed(moved, 4)}`,
    );
  }
  const device_map = new Map<string, Place>();
  for (const name of others.keys()) device_map.set(name.slice(0, Math.max(0, name.lastIndexOf("."))), main);
  for (const [block, place] of blocks) device_map.set(block.path, place);
  return { main, blocks, device_map, warnings };
}
