// A loaded model whose blocks are taken to where they do not run: the memory of the computer, or a disk. Its device stays; each pass
// brings them back, one ahead of the other.

import type { Device } from "../core/device.js";
import type { Model } from "../nn/model.js";
import type { Module } from "../nn/module.js";
import { BlockPlacement, onFile, onHost, tensorsOf } from "../nn/placement.js";
import type { PlacedModel } from "./fill.js";
import type { OffloadFolder, Platform } from "./platform.js";

export class Offloaded implements PlacedModel {
  readonly offloaded = true;
  readonly device_map: Readonly<Record<string, string>>;
  readonly #model: Model;
  readonly #placement: BlockPlacement;
  /** Devices that were opened for it. */
  readonly #opened: readonly Device[];
  readonly #folder: OffloadFolder | undefined;

  private constructor(
    model: Model,
    placement: BlockPlacement,
    place: "cpu" | "disk",
    opened: readonly Device[],
    folder?: OffloadFolder,
  ) {
    this.#model = model;
    this.#placement = placement;
    this.#opened = opened;
    this.#folder = folder;
    this.device_map = {
      "": placement.main.name,
      ...Object.fromEntries(blocksOf(model).map((block) => [block.path, place])),
    };
    model.placement = placement;
  }

  /** Takes the blocks into the computer's memory. @throws DeviceError, OutOfMemoryError; the model then stays as it was */
  static async onHost(platform: Platform, model: Model, device: Device): Promise<Offloaded> {
    const host = await platform.requestDevice("cpu", {});
    const placement = new BlockPlacement(device);
    const away: ReturnType<typeof onHost>[] = [];
    try {
      for (const block of blocksOf(model)) {
        const resident = onHost(tensorsOf(block), host);
        away.push(resident);
        placement.place(block, resident);
      }
    } catch (error) {
      for (const resident of away) resident.enter();
      placement.dispose();
      await host.close();
      throw error;
    }
    return new Offloaded(model, placement, "cpu", [host]);
  }

  /** Takes the blocks to a file of a folder. @throws FileError, DeviceError; the model then stays as it was */
  static async onDisk(platform: Platform, model: Model, device: Device, path: string): Promise<Offloaded> {
    const opened = device.readsFiles ? [] : [await platform.requestDevice("cpu", {})];
    let folder: OffloadFolder | undefined;
    try {
      folder = await platform.offload!(path);
      const placement = new BlockPlacement(device);
      const blocks = blocksOf(model);
      // Everything is written before anything is evicted.
      const kept = [];
      for (const block of blocks) kept.push(await folder.write(tensorsOf(block)));
      for (const [i, block] of blocks.entries()) placement.place(block, onFile(kept[i]!, opened[0]));
      return new Offloaded(model, placement, "disk", opened, folder);
    } catch (error) {
      await folder?.remove();
      for (const one of opened) await one.close();
      throw error;
    }
  }

  /** Frees what lies elsewhere; after the model. */
  async close(): Promise<void> {
    this.#model.placement = undefined;
    this.#placement.dispose();
    for (const device of this.#opened) await device.close();
    await this.#folder?.remove();
  }
}

function blocksOf(model: Model): readonly Module[] {
  return model.blocks.flat();
}
