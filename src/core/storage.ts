// An allocation on a device, counted by the tensors that view it. An evicted one gives its memory back, but stays their
// storage until it is restored.

import type { Block } from "./arena.js";
import type { Device } from "./device.js";

/** One allocation, shared by the tensors that view it. */
export class Storage {
  readonly device: Device;
  readonly bytes: number;
  readonly label: string;
  /** Undefined while it is evicted. */
  block: Block | undefined;
  references = 1;
  readonly #own = true;

  /** True for a storage itself, which a proxy of one is not. */
  static is(value: unknown): value is Storage {
    return typeof value === "object" && value !== null && #own in value && value.#own;
  }

  constructor(device: Device, bytes: number, label: string) {
    this.device = device;
    this.bytes = bytes;
    this.label = label;
    this.block = device.allocate(bytes, label);
  }

  drop(): void {
    if (--this.references === 0) this.evict();
  }

  evict(): void {
    if (this.block) this.device.release(this.block);
    this.block = undefined;
  }

  restore(): void {
    this.block ??= this.device.allocate(this.bytes, this.label);
  }
}
