// Memory of a WebGPU device. Every block has GPUBuffers of its own: WebGPU tracks reads and writes per buffer, so one
// dispatch could not read and write two blocks of one buffer. Implementations sub-allocate device memory themselves, and
// the arena reuses small blocks. A block larger than the device's largest buffer is a row of buffers, its segments. A free
// takes effect after the work recorded before it. The device reports later whether it had memory for a block
// (error-scopes.ts); a failed allocation is retried when the block is used again.

import type { BufferId } from "../../../core/backend.js";
import { DeviceError, OutOfMemoryError } from "../../../core/errors.js";
import { type Check, type ErrorScopes, type Refused, unchecked } from "./error-scopes.js";

/** One allocation. */
export interface Block {
  /** One buffer, or several in a row of `segment` bytes each (the last may be shorter). */
  readonly buffers: readonly GPUBuffer[];
  readonly segment: number;
  /** Largest binding, in bytes. */
  readonly binding: number;
  /** Size in bytes, a multiple of 16. */
  readonly bytes: number;
  readonly uid: number;
  /** The check of its allocation. */
  readonly check: Check;
  /** Keys of the bind groups that name it. */
  readonly groups: Set<string>;
  /** Prepared steps that use it (prepared-step.ts). */
  readonly preparedSteps: Set<{ stale: boolean }>;
  /** Blocks that kernels derived from it, by key; they live as long as it does. */
  readonly derived: Map<string, Derived>;
}

/** A block that was derived from another, its source. */
export interface Derived {
  readonly block: Block;
  /** False once the source was written again. */
  fresh: boolean;
  /** The check of the batch that computed it. */
  check: Check;
}

/** A part of one buffer of a block. */
export interface Span {
  readonly buffer: GPUBuffer;
  readonly at: number;
  readonly bytes: number;
}

/** The parts of buffers that hold bytes `offset` to `offset + bytes` of a block, in order. */
export function spansOf({ buffers, segment }: Block, offset: number, bytes: number): Span[] {
  const spans: Span[] = [];
  for (let at = offset; at < offset + bytes; ) {
    const inside = at % segment;
    const count = Math.min(segment - inside, offset + bytes - at);
    spans.push({ buffer: buffers[Math.floor(at / segment)]!, at: inside, bytes: count });
    at += count;
  }
  return spans;
}

/** Largest buffer and largest binding, in bytes. */
export interface Sizes {
  readonly buffer: number;
  readonly binding: number;
}

/** Values of GPUBufferUsage, a global that Node lacks. */
const STORAGE = 0x80;
const COPY_SRC = 0x04;
const COPY_DST = 0x08;

export class Buffers {
  /** Bytes held by blocks, scratch included. */
  bytes = 0;
  readonly #device: GPUDevice;
  readonly #scopes: ErrorScopes;
  readonly #sizes: Sizes;
  readonly #blocks = new Map<BufferId, Block>();
  readonly #scratch = new Map<string, Block>();
  readonly #doomed: Block[] = [];
  readonly #allocated: (id: BufferId, check: Check) => void;
  readonly #forget: (block: Block) => void;
  #next = 1;

  /**
   * @param allocated called for every new block, before it is used
   * @param forget drops the bind groups of a block that is destroyed
   */
  constructor(
    device: GPUDevice,
    scopes: ErrorScopes,
    sizes: Sizes,
    allocated: (id: BufferId, check: Check) => void,
    forget: (block: Block) => void,
  ) {
    this.#device = device;
    this.#scopes = scopes;
    this.#sizes = sizes;
    this.#allocated = allocated;
    this.#forget = forget;
  }

  allocate(bytes: number): BufferId {
    const id = this.#next++;
    this.#make(id, bytes);
    return id;
  }

  /** @throws DeviceError if there is no such block. */
  block(id: BufferId): Block {
    const block = this.#blocks.get(id);
    if (!block) throw new DeviceError(`webgpu: buffer ${id} does not exist`);
    if (!block.check.error) return block;
    this.#doomed.push(block);
    return this.#make(id, block.bytes);
  }

  free(id: BufferId): void {
    const block = this.#blocks.get(id);
    if (!block) return;
    this.#blocks.delete(id);
    this.#doomed.push(block);
  }

  /** Scratch memory of a kernel, valid until the next call with the same slot. */
  scratch(slot: string, bytes: number): Block {
    const held = this.#scratch.get(slot);
    if (held && held.bytes >= bytes && !held.check.error) return held;
    if (held) this.#doomed.push(held);
    const { binding } = this.#sizes;
    if (bytes > binding)
      throw new DeviceError(`webgpu: a kernel needs ${bytes} bytes of scratch; a binding has at most ${binding}`);
    const block = this.#create(Math.min(binding, Math.max(4096, 2 ** Math.ceil(Math.log2(bytes)))));
    this.#scratch.set(slot, block);
    return block;
  }

  /** Memory for a block derived from `source`; freed with `source`. Stale derived blocks are freed first. */
  derive(source: Block, key: string, bytes: number): Derived {
    const { derived } = source;
    let found = derived.get(key);
    if (found && !found.block.check.error) return found;
    for (const [old, { block, fresh }] of derived) {
      if (fresh && !block.check.error) continue;
      derived.delete(old);
      this.#doomed.push(block);
    }
    found = { block: this.#create(bytes), fresh: false, check: unchecked() };
    derived.set(key, found);
    return found;
  }

  /** Destroys freed blocks. Call it when all recorded work that uses them is submitted. */
  sweep(): void {
    for (const block of this.#doomed) this.#destroy(block);
    this.#doomed.length = 0;
  }

  close(): void {
    this.sweep();
    for (const block of [...this.#blocks.values(), ...this.#scratch.values()]) this.#destroy(block);
    this.#blocks.clear();
    this.#scratch.clear();
  }

  #make(id: BufferId, bytes: number): Block {
    const block = this.#create(bytes);
    this.#blocks.set(id, block);
    this.#allocated(id, block.check);
    return block;
  }

  /** Does not wait: a failed allocation rejects the reads of the results that needed it. */
  #create(wanted: number): Block {
    const bytes = Math.max(16, Math.ceil(wanted / 16) * 16);
    const { buffer: segment, binding } = this.#sizes;
    const check = unchecked();
    const live = this.bytes;
    const refused: Refused = (message) =>
      new OutOfMemoryError(`webgpu: the device has no ${bytes} bytes left (${live} are in use): ${message}`, {
        details: { bytes, live },
      });
    const buffers = this.#scopes.guard(check, refused, () => {
      const made: GPUBuffer[] = [];
      for (let at = 0; at < bytes; at += segment) {
        const size = Math.min(segment, bytes - at);
        made.push(this.#device.createBuffer({ size, usage: STORAGE | COPY_SRC | COPY_DST }));
      }
      return made;
    });
    this.bytes += bytes;
    const uid = this.#next++;
    return {
      buffers,
      segment,
      binding,
      bytes,
      uid,
      check,
      groups: new Set(),
      preparedSteps: new Set(),
      derived: new Map(),
    };
  }

  #destroy(block: Block): void {
    for (const { block: other } of block.derived.values()) this.#destroy(other);
    block.derived.clear();
    this.#forget(block);
    for (const buffer of block.buffers) buffer.destroy();
    this.bytes -= block.bytes;
  }
}
