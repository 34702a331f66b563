// Hands out device buffers and takes them back. Every backend runs its queue in order, so a released block can be reused at
// once: its next owner's writes come later in the same queue. Small and medium blocks are kept in size classes; large ones go
// straight back to the backend. Used and kept blocks together stay near the peak usage; the least recently used kept block
// is freed first.

import type { Backend, BufferId } from "./backend.js";
import { OutOfMemoryError } from "./errors.js";

/** Blocks above this are not kept: they are weights or caches, and keeping them would double the memory. */
const KEEP_BELOW = 64 << 20;
/** Most bytes of free blocks kept for reuse. */
const KEEP_AT_MOST = 512 << 20;
/**
 * Bytes that used and kept blocks together may hold above the peak usage. Prompts of different lengths need blocks of different
 * sizes; without slack each would free and allocate, which is slow on WebGPU.
 */
const SLACK = 32 << 20;
/** A kept block serves a request if it is at most this many times as large. */
const LOOSEST_FIT = 1.5;

const OUT_OF_MEMORY_HINT = "load in 8 or 4 bits, or lower the batch or the context";

/** A block of device memory, in use or kept for reuse. */
export interface Block {
  readonly buffer: BufferId;
  /** Bytes of the block itself. */
  readonly size: number;
  /** Bytes requested. */
  bytes: number;
  /** Its contents, and the module that requested it: for reports. */
  label: string;
  path: string;
  /** When it was released, counted in releases of the arena; only for kept blocks. */
  released: number;
}

export interface MemoryReport {
  /** Bytes requested and not yet returned. */
  readonly live: number;
  /** The highest value of `live`. */
  readonly peak: number;
  /** Bytes of free blocks kept for reuse. */
  readonly kept: number;
  readonly budget: number;
}

export class Arena {
  readonly #backend: Pick<Backend, "budget" | "allocate" | "free">;
  readonly #beforeFree: () => void;
  readonly #afterRelease: (buffer: BufferId) => void;
  #free = new Map<number, Block[]>();
  /** While a recording is made: the free blocks from outside it. */
  #outside: Map<number, Block[]> | undefined;
  readonly #owned = new Set<Block>();
  #live = 0;
  #peak = 0;
  #kept = 0;
  /** Bytes of the blocks in use, size classes included, and the most since the last `trim`. */
  #used = 0;
  #most = 0;
  #releases = 0;

  /**
   * `beforeFree` runs before memory goes back to the backend: commands that use it must be in the queue by then.
   * `afterRelease` is called for blocks that are kept for the next owner.
   */
  constructor(
    backend: Pick<Backend, "budget" | "allocate" | "free">,
    beforeFree: () => void,
    afterRelease: (buffer: BufferId) => void,
  ) {
    this.#backend = backend;
    this.#beforeFree = beforeFree;
    this.#afterRelease = afterRelease;
  }

  get memory(): MemoryReport {
    return { live: this.#live, peak: this.#peak, kept: this.#kept, budget: this.#backend.budget };
  }

  /** Sets the high-water mark back to what is live now. */
  resetPeak(): void {
    this.#peak = this.#live;
  }

  /** Allocates nothing. @throws OutOfMemoryError if `bytes` more exceed the budget, naming the largest owners. */
  checkRoom(bytes: number, label: string): void {
    if (this.#live + bytes > this.#backend.budget) throw this.#outOfMemory(bytes, label);
  }

  /** @throws OutOfMemoryError naming the largest owners. */
  allocate(bytes: number, label: string, path: string): Block {
    const size = classOf(bytes);
    let block = this.#reuse(size);
    if (block !== undefined) {
      this.#kept -= block.size;
      block.bytes = bytes;
      block.label = label;
      block.path = path;
    } else {
      this.#shrink(Math.max(this.#most, this.#used + size) + SLACK - this.#used - size);
      if (this.#live + this.#kept + size > this.#backend.budget) this.trim();
      if (this.#live + size > this.#backend.budget) throw this.#outOfMemory(bytes, label);
      try {
        block = { buffer: this.#backend.allocate(size), size, bytes, label, path, released: 0 };
      } catch (error) {
        if (!(error instanceof OutOfMemoryError)) throw error;
        if (this.#kept === 0 || this.#outside) throw this.#outOfMemory(bytes, label, error);
        this.trim();
        return this.allocate(bytes, label, path);
      }
    }
    this.#own(block);
    return block;
  }

  release(block: Block): void {
    if (!this.#owned.delete(block)) return;
    const { size } = block;
    this.#live -= block.bytes;
    this.#used -= size;
    if (!this.#outside) {
      if (size > KEEP_BELOW) {
        this.#beforeFree();
        this.#backend.free(block.buffer);
        return;
      }
      this.#shrink(KEEP_AT_MOST - size);
    }
    block.released = this.#releases++;
    const list = this.#free.get(size);
    if (list) list.push(block);
    else this.#free.set(size, [block]);
    this.#kept += size;
    this.#afterRelease(block.buffer);
  }

  #own(block: Block): void {
    this.#owned.add(block);
    this.#live += block.bytes;
    this.#used += block.size;
    this.#peak = Math.max(this.#peak, this.#live);
    this.#most = Math.max(this.#most, this.#used);
  }

  /** Takes the best-fitting kept block for a size class, unless all are much larger. */
  #reuse(size: number): Block | undefined {
    for (let fit = size; fit <= KEEP_BELOW && fit <= size * LOOSEST_FIT; fit = classOf(fit + 1)) {
      const block = this.#free.get(fit)?.pop() ?? this.#outside?.get(fit)?.pop();
      if (block) return block;
    }
    return undefined;
  }

  /**
   * Until `endCapture`, released blocks are reused only by the captured commands: replaying the recording writes to them
   * again.
   */
  beginCapture(): void {
    this.#outside = this.#free;
    this.#free = new Map();
  }

  /** Ends a capture; the blocks that only it used now belong to the caller, who releases them. */
  endCapture(): Block[] {
    const blocks = [...this.#free.values()].flat();
    this.#free = this.#outside!;
    this.#outside = undefined;
    for (const block of blocks) {
      this.#kept -= block.size;
      block.bytes = block.size;
      block.label = "recording";
      block.path = "";
      this.#own(block);
    }
    return blocks;
  }

  /**
   * Gives kept blocks back to the backend until at most `keep` bytes are left. The usage from here on decides how much is
   * kept later.
   */
  trim(keep = 0): void {
    this.#shrink(keep);
    this.#most = this.#used + this.#kept;
  }

  /** Frees kept blocks, least recently used first, until at most `keep` bytes are left. */
  #shrink(keep: number): void {
    if (this.#kept <= keep || this.#outside) return; // they may include blocks that a capture released
    this.#beforeFree();
    while (this.#kept > keep) {
      let oldest: Block[] | undefined;
      for (const list of this.#free.values()) {
        if (list.length > 0 && !(oldest && oldest[0]!.released < list[0]!.released)) oldest = list;
      }
      const block = oldest?.shift();
      if (!block) break;
      this.#backend.free(block.buffer);
      this.#kept -= block.size;
    }
  }

  /** What is live, largest first, grouped by label: for leak reports and out-of-memory errors. */
  owners(): { label: string; bytes: number; count: number }[] {
    const groups = new Map<string, { label: string; bytes: number; count: number }>();
    for (const { label: what, path, bytes } of this.#owned) {
      const label = path ? `${path}: ${what}` : what;
      const group = groups.get(label) ?? { label, bytes: 0, count: 0 };
      group.bytes += bytes;
      group.count++;
      groups.set(label, group);
    }
    return [...groups.values()].sort((a, b) => b.bytes - a.bytes);
  }

  /** Adds the largest owners to an error that a backend reported too late to attribute. */
  explain(error: OutOfMemoryError): OutOfMemoryError {
    return new OutOfMemoryError(`${error.message.split("\n")[0]}${this.#largest()}`, {
      hint: OUT_OF_MEMORY_HINT,
      details: { ...error.details, live: this.#live },
      cause: error,
    });
  }

  /** Live bytes by what they hold, whichever module asked for them. */
  labels(): Map<string, number> {
    const labels = new Map<string, number>();
    for (const { label, bytes } of this.#owned) labels.set(label, (labels.get(label) ?? 0) + bytes);
    return labels;
  }

  #outOfMemory(bytes: number, label: string, cause?: unknown): OutOfMemoryError {
    return new OutOfMemoryError(
      `${label} needs ${mb(bytes)}, ${mb(this.#live)} of ${mb(this.#backend.budget)} are in use` +
        this.#largest() +
        (cause instanceof OutOfMemoryError ? ` (${cause.message.split("\n")[0]})` : ""),
      { hint: OUT_OF_MEMORY_HINT, details: { bytes, live: this.#live }, cause },
    );
  }

  #largest(): string {
    const largest = this.owners()
      .slice(0, 3)
      .map((o) => `${o.label} (${mb(o.bytes)} in ${o.count})`);
    return largest.length ? `; largest: ${largest.join(", ")}` : "";
  }
}

/** "2.1 MB"; in GB and TB from five digits on. */
function mb(bytes: number): string {
  if (bytes < 1e10) return `${(bytes / 1e6).toFixed(1)} MB`;
  return bytes < 1e13 ? `${(bytes / 1e9).toFixed(1)} GB` : `${(bytes / 1e12).toFixed(1)} TB`;
}

/** Rounds up to one of eight steps per power of two, at least 256 bytes; exact (to 4 kB) above the keeping limit. */
function classOf(bytes: number): number {
  if (bytes <= 256) return 256;
  if (bytes > KEEP_BELOW) return Math.ceil(bytes / 4096) * 4096;
  const mask = (1 << (28 - Math.clz32(bytes))) - 1; // an eighth of the power of two at or below it, less one
  return (bytes + mask) & ~mask;
}
