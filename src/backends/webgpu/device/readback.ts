// Reads from the device through staging buffers. A large read goes in chunks, one after the other, which bounds the staging
// memory. A read returns the bytes as they were when it was requested: before a block changes, its remaining chunks are
// copied.

import { OutOfMemoryError } from "../../../core/errors.js";
import { type Block, spansOf } from "./buffers.js";
import { type Check, causeOf, type ErrorScopes, type Refused, refusing, unchecked } from "./error-scopes.js";
import { FLAG_WORDS } from "./errors.js";

const COPY_DST = 0x08;
const MAP_READ = 0x01;
/** Bytes that every read adds: the count of failed calls (errors.ts). */
const HEAD = FLAG_WORDS * 4;
/** Bytes of a block that one staging buffer takes. */
const CHUNK = 64 << 20;
/** Staging buffers up to this size are powers of two and are reused; larger ones fit one read. */
const ROUND_BELOW = 4 << 20;
const KEEP_BELOW = 16 << 20;
const KEEP_AT_MOST = 8;

interface Staging {
  readonly buffer: GPUBuffer;
  readonly bytes: number;
  readonly check: Check;
}

/** A chunk whose copy is recorded. */
interface Copied {
  readonly staging: Staging;
  readonly check: Check;
  /** Resolves when the staging buffer is mapped, or with the error. */
  readonly mapped: Promise<unknown>;
}

export interface ReadBack {
  readonly bytes: Uint8Array;
  /** Count of failed calls at the time of the read. */
  readonly failures: number;
}

export class Readback {
  /** Batches submitted so far. */
  submits = 0;
  readonly #device: GPUDevice;
  readonly #scopes: ErrorScopes;
  readonly #flag: Block;
  readonly #chunk: number;
  readonly #pending = new Set<Promise<ReadBack>>();
  readonly #kept: Staging[] = [];
  /** For blocks that are being read in chunks: copies the chunks that are left. */
  readonly #running = new Map<Block, Set<() => void>>();

  /** @param largest size of the largest buffer, in bytes */
  constructor(device: GPUDevice, scopes: ErrorScopes, flag: Block, largest: number) {
    this.#device = device;
    this.#scopes = scopes;
    this.#flag = flag;
    this.#chunk = Math.min(CHUNK, Math.floor(largest / 4) * 4 - HEAD);
  }

  /**
   * Bytes of a block after everything submitted so far.
   * @throws OutOfMemoryError if there is no memory for a staging buffer or there was none for the block
   */
  read(block: Block, offset: number, bytes: number): Promise<ReadBack> {
    const reading = this.#read(block, offset, bytes);
    this.#pending.add(reading);
    const done = (): void => void this.#pending.delete(reading);
    reading.then(done, done);
    return reading;
  }

  /** Resolves when no read is in progress, whether the reads succeeded or failed. */
  async idle(): Promise<void> {
    while (this.#pending.size > 0) await Promise.allSettled(this.#pending);
  }

  async #read(block: Block, offset: number, bytes: number): Promise<ReadBack> {
    const first = Math.floor(offset / 4) * 4;
    const end = Math.ceil((offset + bytes) / 4) * 4;
    const chunks: { readonly at: number; readonly size: number; copied?: Copied | undefined }[] = [];
    for (let at = first; at < end || chunks.length === 0; at += this.#chunk) {
      chunks.push({ at, size: Math.min(this.#chunk, end - at) });
    }
    const copy = (index: number): Copied => {
      const chunk = chunks[index]!;
      return (chunk.copied ??= this.#copy(block, chunk.at, chunk.size, index === 0));
    };
    let next = 0;
    const rest = (): void => {
      for (let index = next; index < chunks.length; index++) copy(index);
    };
    copy(next++);
    if (next < chunks.length) this.#begin(block, rest);
    try {
      const result = new Uint8Array(bytes);
      let failures = 0;
      for (const [index, chunk] of chunks.entries()) {
        next = index + 1;
        const { staging, check, mapped } = copy(index);
        await this.#scopes.heard;
        const refused = causeOf([staging.check, block.check, check]);
        if (refused) throw refused;
        const problem = await mapped;
        if (problem) throw problem;
        const head = index === 0 ? HEAD : 0;
        const view = new Uint8Array(staging.buffer.getMappedRange(0, head + chunk.size));
        if (head) failures = new DataView(view.buffer, view.byteOffset).getUint32(0, true);
        const begin = Math.max(chunk.at, offset);
        const until = Math.min(chunk.at + chunk.size, offset + bytes);
        result.set(view.subarray(head + begin - chunk.at, head + until - chunk.at), begin - offset);
        staging.buffer.unmap();
        chunk.copied = undefined;
        this.#keep(staging);
      }
      return { bytes: result, failures };
    } finally {
      this.#running.get(block)?.delete(rest);
      if (this.#running.get(block)?.size === 0) this.#running.delete(block);
      for (const { copied } of chunks) copied?.staging.buffer.destroy();
    }
  }

  /** Copies the remaining chunks of a block. Call it before work that changes or destroys the block. */
  hasten(block: Block): void {
    const running = this.#running.get(block);
    if (!running) return;
    this.#running.delete(block);
    for (const rest of running) rest();
  }

  close(): void {
    for (const { buffer } of this.#kept) buffer.destroy();
  }

  #begin(block: Block, rest: () => void): void {
    const running = this.#running.get(block);
    if (running) running.add(rest);
    else this.#running.set(block, new Set([rest]));
  }

  #copy(block: Block, at: number, size: number, withHead: boolean): Copied {
    const head = withHead ? HEAD : 0;
    const staging = this.#take(head + size);
    const check = unchecked();
    const mapped = this.#scopes.guard(check, refusing("a read"), () => {
      const encoder = this.#device.createCommandEncoder();
      if (withHead) encoder.copyBufferToBuffer(this.#flag.buffers[0]!, 0, staging.buffer, 0, head);
      let to = head;
      for (const span of spansOf(block, at, size)) {
        encoder.copyBufferToBuffer(span.buffer, span.at, staging.buffer, to, span.bytes);
        to += span.bytes;
      }
      this.#device.queue.submit([encoder.finish()]);
      this.submits++;
      return staging.buffer.mapAsync(MAP_READ, 0, head + size).then(
        () => undefined,
        (error: Error) => new Error(`a read broke off: ${error.message || error.name}`, { cause: error }),
      );
    });
    return { staging, check, mapped };
  }

  #take(bytes: number): Staging {
    const at = this.#kept.findIndex((staging) => staging.bytes >= bytes && staging.bytes <= 4 * bytes + 4096);
    if (at >= 0) return this.#kept.splice(at, 1)[0]!;
    const size = bytes > ROUND_BELOW ? bytes : 2 ** Math.ceil(Math.log2(Math.max(4096, bytes)));
    const check = unchecked();
    const refused: Refused = (message) =>
      new OutOfMemoryError(`webgpu: the device has no ${size} bytes left to read through: ${message}`, {
        details: { bytes: size },
      });
    const make = (): GPUBuffer => this.#device.createBuffer({ size, usage: MAP_READ | COPY_DST });
    return { buffer: this.#scopes.guard(check, refused, make), bytes: size, check };
  }

  #keep(staging: Staging): void {
    if (this.#kept.length < KEEP_AT_MOST && staging.bytes <= KEEP_BELOW) this.#kept.push(staging);
    else staging.buffer.destroy();
  }
}
