// Gives out device buffers and takes them back. Because every backend runs its queue in order, a block that is given
// back while commands that use it still wait can be handed out again at once: what the next owner writes comes later
// in the same queue. Small and medium blocks are kept in size classes; large ones go straight back to the backend.

import type { Backend, BufferId } from "./backend.js";
import { OutOfMemoryError } from "./errors.js";

/** Blocks above this are not kept: they are weights or caches, and holding them back would double the memory. */
const KEEP_BELOW = 64 << 20;
/** Bytes of free blocks kept for reuse in all. */
const KEEP_AT_MOST = 512 << 20;

interface Owner {
  readonly bytes: number;
  readonly label: string;
}

export interface MemoryReport {
  /** Bytes asked for and not given back. */
  readonly live: number;
  /** The most that `live` has been. */
  readonly peak: number;
  /** Bytes of free blocks kept for reuse. */
  readonly kept: number;
  readonly budget: number;
}

export class Arena {
  readonly #backend: Backend;
  readonly #beforeFree: () => void;
  readonly #free = new Map<number, BufferId[]>();
  readonly #owners = new Map<BufferId, Owner>();
  readonly #size = new Map<BufferId, number>();
  #live = 0;
  #peak = 0;
  #kept = 0;

  /** `beforeFree` runs before memory goes back to the backend: what uses it must be in the queue by then. */
  constructor(backend: Backend, beforeFree: () => void) {
    this.#backend = backend;
    this.#beforeFree = beforeFree;
  }

  get memory(): MemoryReport {
    return { live: this.#live, peak: this.#peak, kept: this.#kept, budget: this.#backend.budget };
  }

  /** Sets the high-water mark back to what is live now. */
  resetPeak(): void {
    this.#peak = this.#live;
  }

  /** @throws OutOfMemoryError naming the largest owners. */
  allocate(bytes: number, label: string): BufferId {
    const size = classOf(bytes);
    const list = this.#free.get(size);
    let buffer = list?.pop();
    if (buffer !== undefined) this.#kept -= size;
    else {
      if (this.#live + this.#kept + size > this.#backend.budget) this.trim();
      if (this.#live + size > this.#backend.budget) throw this.#outOfMemory(bytes, label);
      try {
        buffer = this.#backend.allocate(size);
      } catch (error) {
        this.trim();
        throw this.#outOfMemory(bytes, label, error);
      }
      this.#size.set(buffer, size);
    }
    this.#owners.set(buffer, { bytes, label });
    this.#live += bytes;
    if (this.#live > this.#peak) this.#peak = this.#live;
    return buffer;
  }

  release(buffer: BufferId): void {
    const owner = this.#owners.get(buffer);
    if (!owner) return;
    this.#owners.delete(buffer);
    this.#live -= owner.bytes;
    const size = this.#size.get(buffer)!;
    if (size > KEEP_BELOW || this.#kept + size > KEEP_AT_MOST) {
      this.#size.delete(buffer);
      this.#beforeFree();
      this.#backend.free(buffer);
      return;
    }
    let list = this.#free.get(size);
    if (!list) this.#free.set(size, (list = []));
    list.push(buffer);
    this.#kept += size;
  }

  /** Gives all kept free blocks back to the backend. */
  trim(): void {
    this.#beforeFree();
    for (const list of this.#free.values()) {
      for (const buffer of list) {
        this.#size.delete(buffer);
        this.#backend.free(buffer);
      }
    }
    this.#free.clear();
    this.#kept = 0;
  }

  /** What is live, largest first, grouped by label: for leak reports and out-of-memory errors. */
  owners(): { label: string; bytes: number; count: number }[] {
    const groups = new Map<string, { label: string; bytes: number; count: number }>();
    for (const { label, bytes } of this.#owners.values()) {
      const group = groups.get(label) ?? { label, bytes: 0, count: 0 };
      group.bytes += bytes;
      group.count++;
      groups.set(label, group);
    }
    return [...groups.values()].sort((a, b) => b.bytes - a.bytes);
  }

  #outOfMemory(bytes: number, label: string, cause?: unknown): OutOfMemoryError {
    const largest = this.owners()
      .slice(0, 3)
      .map((o) => `${o.label} (${mb(o.bytes)} in ${o.count})`);
    return new OutOfMemoryError(
      `${label} needs ${mb(bytes)}, ${mb(this.#live)} of ${mb(this.#backend.budget)} are in use` +
        (largest.length ? `; largest: ${largest.join(", ")}` : ""),
      { hint: "load in 8 or 4 bits, or lower the batch or the context", details: { bytes, live: this.#live }, cause },
    );
  }
}

function mb(bytes: number): string {
  return `${(bytes / 1e6).toFixed(1)} MB`;
}

/** Rounds up to one of eight steps per power of two, at least 256 bytes; exact (to 4 kB) above the keeping limit. */
function classOf(bytes: number): number {
  if (bytes <= 256) return 256;
  if (bytes > KEEP_BELOW) return Math.ceil(bytes / 4096) * 4096;
  const step = 2 ** Math.max(5, Math.floor(Math.log2(bytes)) - 3);
  return Math.ceil(bytes / step) * step;
}
