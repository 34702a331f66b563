// An allocation on a device, counted by the tensors that view it. An evicted one gives its memory back, but stays their
// storage until it is restored. One whose contents are computed later has no memory before.

import type { Block } from "./arena.js";
import type { Device } from "./device.js";

/** What computes contents when they are first used. */
export interface Later {
  /** Takes itself off the storage, allocates it, and records what writes it. @throws as the call that it stands for */
  make(): void;
  /** Nobody holds the storage any more. */
  drop(): void;
}

/** One allocation, shared by the tensors that view it. */
export class Storage {
  readonly device: Device;
  readonly bytes: number;
  readonly label: string;
  /** Undefined while it is evicted, and before `later` has run. */
  block: Block | undefined;
  later: Later | undefined;
  references = 1;
  readonly #own = true;

  /** True for a storage itself, which a proxy of one is not. */
  static is(value: unknown): value is Storage {
    return typeof value === "object" && value !== null && #own in value && value.#own;
  }

  constructor(device: Device, bytes: number, label: string, later?: Later) {
    this.device = device;
    this.bytes = bytes;
    this.label = label;
    this.later = later;
    this.block = later ? undefined : device.allocate(bytes, label);
  }

  /** The memory, with its contents computed or being so; undefined while it is evicted. */
  get ready(): Block | undefined {
    this.later?.make();
    return this.block;
  }

  drop(): void {
    if (--this.references > 0) return;
    this.later?.drop();
    this.evict();
  }

  evict(): void {
    if (this.block) this.device.release(this.block);
    this.block = undefined;
  }

  restore(): void {
    this.block ??= this.device.allocate(this.bytes, this.label);
  }
}
