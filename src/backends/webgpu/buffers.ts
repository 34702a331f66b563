// Memory of a WebGPU device. Every block is a GPUBuffer of its own: WebGPU tracks reads and writes per buffer, so two
// blocks in one buffer could not be read and written by one dispatch, and implementations sub-allocate device memory
// themselves; small blocks are reused by the arena above. A free takes effect after the work that was recorded before.

import type { BufferId } from "../../core/backend.js";
import { DeviceError, OutOfMemoryError } from "../../core/errors.js";

/** One allocation. */
export interface Block {
  readonly buffer: GPUBuffer;
  /** Bytes that it has, a multiple of 16. */
  readonly bytes: number;
  readonly uid: number;
  /** Keys of the bind groups that name it. */
  readonly groups: Set<string>;
}

/** The numbers of GPUBufferUsage; the global is not there in Node. */
const STORAGE = 0x80;
const COPY_SRC = 0x04;
const COPY_DST = 0x08;

export class Buffers {
  /** Bytes held by blocks, scratch included. */
  bytes = 0;
  readonly #device: GPUDevice;
  readonly #blocks = new Map<BufferId, Block>();
  readonly #scratch = new Map<string, Block>();
  readonly #doomed: Block[] = [];
  readonly #refused: (error: OutOfMemoryError) => void;
  readonly #forget: (block: Block) => void;
  #next = 1;

  /**
   * @param refused gets memory errors that the device reports later
   * @param forget drops the bind groups of a block that goes
   */
  constructor(device: GPUDevice, refused: (error: OutOfMemoryError) => void, forget: (block: Block) => void) {
    this.#device = device;
    this.#refused = refused;
    this.#forget = forget;
  }

  /** @throws OutOfMemoryError naming the device's limit if the block is too large for any buffer. */
  allocate(bytes: number): BufferId {
    const id = this.#next++;
    this.#blocks.set(id, this.#create(bytes));
    return id;
  }

  /** @throws DeviceError if there is no such block. */
  block(id: BufferId): Block {
    const block = this.#blocks.get(id);
    if (!block) throw new DeviceError(`webgpu: buffer ${id} does not exist`);
    return block;
  }

  free(id: BufferId): void {
    const block = this.#blocks.get(id);
    if (!block) return;
    this.#blocks.delete(id);
    this.#doomed.push(block);
  }

  /** Memory for the inside of a kernel; valid until the next call with the same slot. */
  scratch(slot: string, bytes: number): Block {
    const held = this.#scratch.get(slot);
    if (held && held.bytes >= bytes) return held;
    if (held) this.#doomed.push(held);
    const block = this.#create(Math.max(4096, 2 ** Math.ceil(Math.log2(bytes))));
    this.#scratch.set(slot, block);
    return block;
  }

  /** To be called when nothing that is only recorded, and not submitted, uses freed blocks. */
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

  #create(wanted: number): Block {
    const device = this.#device;
    const { maxBufferSize, maxStorageBufferBindingSize } = device.limits;
    const bytes = Math.max(16, Math.ceil(wanted / 16) * 16);
    const limit = Math.min(maxBufferSize, maxStorageBufferBindingSize);
    if (bytes > limit) {
      const name = limit === maxBufferSize ? "maxBufferSize" : "maxStorageBufferBindingSize";
      throw new OutOfMemoryError(`webgpu: ${bytes} bytes in one buffer are above this adapter's ${name} of ${limit}`, {
        hint: "load in 8 or 4 bits, or use the cpu",
        details: { bytes, limit, name },
      });
    }
    device.pushErrorScope("out-of-memory");
    const buffer = device.createBuffer({ size: bytes, usage: STORAGE | COPY_SRC | COPY_DST });
    device.popErrorScope().then(
      (error) => {
        if (error) {
          const text = `webgpu: the device has no ${bytes} bytes left (${this.bytes} are in use): ${error.message}`;
          this.#refused(new OutOfMemoryError(text, { hint: "load in 8 or 4 bits, or lower the batch or the context" }));
        }
      },
      () => {}, // the device is lost, which is reported on its own
    );
    this.bytes += bytes;
    return { buffer, bytes, uid: this.#next++, groups: new Set() };
  }

  #destroy(block: Block): void {
    this.#forget(block);
    block.buffer.destroy();
    this.bytes -= block.bytes;
  }
}
