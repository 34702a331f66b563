// The in-order queue: dispatches are recorded into one command encoder and submitted in batches. Pipelines and bind
// groups are cached, so that a step that was recorded before costs a look-up per dispatch. Numbers of a dispatch travel
// in a slot of one uniform buffer, chosen by a dynamic offset.

import { type Block, type Buffers, spansOf } from "./buffers.js";
import type { Piece } from "./call.js";
import { FLAG_SLOTS, FLAG_WORDS, tagOf } from "./errors.js";
import { Pipelines } from "./pipelines.js";
import type { Shader } from "./shader.js";
import { type CopyStep, SLOT, Tape } from "./tape.js";

/** Dispatches whose numbers fit in the uniform buffer; more are submitted in parts. */
const SLOTS = 512;
const UNIFORM = 0x40;
const COPY_DST = 0x08;
const COPY_SRC = 0x04;
const STORAGE = 0x80;
const MAP_READ = 0x01;

export interface QueueStatistics {
  readonly dispatches: number;
  readonly submits: number;
  readonly pipelines: number;
  readonly bindGroups: number;
}

interface Staging {
  readonly buffer: GPUBuffer;
  readonly bytes: number;
}

/** What a scratch block holds, for kernels that would make it again. */
interface Held {
  readonly block: Block;
  readonly key: string;
  readonly source: Block;
  readonly marked: readonly { readonly block: Block; readonly byte: number }[];
}

export interface ReadBack {
  readonly bytes: Uint8Array;
  /** Calls that had failed so far at this point of the queue. */
  readonly failures: number;
}

export class Queue {
  #dispatches = 0;
  #submits = 0;
  /** Number of the call that is recorded now (journal.ts). */
  call = 0;
  readonly #device: GPUDevice;
  readonly pipelines: Pipelines;
  readonly #maxGroups: number;
  readonly #uniforms: GPUBuffer;
  readonly #slots = new ArrayBuffer(SLOT * SLOTS);
  /** Where kernels report failures: see errors.ts. */
  readonly flag: Block;
  readonly #staging: Staging[] = [];
  #encoder: GPUCommandEncoder | undefined;
  #pass: GPUComputePassEncoder | undefined;
  #slot = 0;
  #held: Held | undefined;
  /** While a tape is made: where dispatches go instead of the encoder. */
  #tape: Tape | undefined;
  buffers!: Buffers;

  /** @param refused gets validation errors, with the call that was being recorded */
  constructor(device: GPUDevice, refused: (call: number, error: GPUError) => void) {
    this.#device = device;
    this.#maxGroups = device.limits.maxComputeWorkgroupsPerDimension;
    this.#uniforms = device.createBuffer({ size: SLOT * SLOTS, usage: UNIFORM | COPY_DST });
    const bytes = FLAG_WORDS * 4 * (1 + FLAG_SLOTS);
    this.flag = {
      buffers: [device.createBuffer({ size: bytes, usage: STORAGE | COPY_SRC | COPY_DST })],
      segment: bytes,
      binding: bytes,
      bytes,
      uid: 0,
      groups: new Set(),
      tapes: new Set(),
      derived: new Map(),
    };
    this.pipelines = new Pipelines(device, this.flag, () => {
      const { call } = this;
      return (error) => refused(call, error);
    });
  }

  get statistics(): QueueStatistics {
    const { size, groupsMade } = this.pipelines;
    return { dispatches: this.#dispatches, submits: this.#submits, pipelines: size, bindGroups: groupsMade };
  }

  /** Records one dispatch of `groups` workgroups. `numbers` holds a value for each of the shader's params. */
  dispatch(shader: Shader, pieces: readonly Piece[], numbers: Readonly<Record<string, number>>, groups: number): void {
    if (groups <= 0) return;
    const y = Math.ceil(groups / this.#maxGroups);
    const x = Math.ceil(groups / y);
    const bound = this.#untangle(shader, pieces);
    for (let i = 0; i < bound.length; i++) if (shader.access[i] === "w") this.#wrote(bound[i]!.block);
    const tape = this.#tape;
    if (tape) {
      const at = tape.slot() * SLOT;
      this.#fill(shader, numbers, new DataView(tape.slots, at, SLOT));
      for (const { block } of bound) tape.use(block);
      if (shader.reports) tape.reports.push({ at, call: this.call });
      tape.drafts.push({ shader, pieces: bound, x, y });
      return;
    }
    if (this.#slot === SLOTS) this.submit();
    this.#fill(shader, numbers, new DataView(this.#slots, this.#slot * SLOT, SLOT));
    const { pipeline, layout } = this.pipelines.of(shader);
    const group = this.pipelines.cachedGroup(shader, layout, bound, this.#uniforms);
    this.#pass ??= this.#encode().beginComputePass();
    this.#pass.setPipeline(pipeline);
    this.#pass.setBindGroup(0, group, [this.#slot * SLOT]);
    this.#pass.dispatchWorkgroups(x, y);
    this.#slot++;
    this.#dispatches++;
  }

  /**
   * Notes what a block was made of: `key`, from `source`, and what was marked on the way (columns of outliers). It lasts
   * until one of them is written again.
   */
  hold(block: Block, key: string, source: Block, marked: Held["marked"] = []): void {
    this.#held = { block, key, source, marked };
  }

  /** True if the block still is what `hold` was told, and `mark`, where it is given, was marked. */
  holds(block: Block, key: string, mark?: Held["marked"][number]): boolean {
    const held = this.#held;
    if (held?.block !== block || held.key !== key) return false;
    return !mark || held.marked.some((one) => one.block === mark.block && one.byte === mark.byte);
  }

  /**
   * What `make` records into a block of `bytes`, given `source`: kept under `key` until `source` is written or freed. A
   * tape finds it made, unless the tape itself writes `source` before: then it is made anew whenever the tape runs.
   */
  derived(source: Block, key: string, bytes: number, make: (block: Block) => void): Block {
    const tape = this.#tape;
    if (tape?.written.has(source)) {
      const block = this.buffers.scratch("derived", bytes);
      make(block);
      return block;
    }
    const found = this.buffers.derive(source, key, bytes);
    if (!found.fresh) {
      this.#tape = undefined;
      try {
        make(found.block);
      } finally {
        this.#tape = tape;
      }
      found.fresh = true;
    }
    return found.block;
  }

  /** Records a copy between blocks; offsets and size are multiples of 4. */
  copy(from: Block, fromAt: number, to: Block, toAt: number, bytes: number): void {
    this.#wrote(to);
    let done = 0;
    for (const source of spansOf(from, fromAt, bytes)) {
      let inside = 0;
      for (const target of spansOf(to, toAt + done, source.bytes)) {
        this.#copy({
          from: source.buffer,
          fromAt: source.at + inside,
          to: target.buffer,
          toAt: target.at,
          bytes: target.bytes,
        });
        inside += target.bytes;
      }
      done += source.bytes;
    }
    this.#tape?.use(from);
    this.#tape?.use(to);
  }

  /** Records what `body` does, with calls numbered from 0, as a tape instead of running it; undefined if `body` says false. */
  tape(body: () => boolean): Tape | undefined {
    const tape = new Tape();
    this.#tape = tape;
    this.#held = undefined; // a tape runs after anything, and must stand alone
    let complete = false;
    try {
      complete = body();
    } finally {
      this.#tape = undefined;
      this.#held = undefined;
      if (!complete) tape.destroy();
    }
    if (!complete) return undefined;
    const size = Math.max(1, tape.dispatches) * SLOT;
    const uniforms = this.#device.createBuffer({ size, usage: UNIFORM | COPY_DST });
    this.#device.queue.writeBuffer(uniforms, 0, tape.slots, 0, size);
    tape.uniforms = uniforms;
    let slot = 0;
    tape.steps = tape.drafts.map((draft) => {
      if (!("shader" in draft)) return draft;
      const { shader, pieces, x, y } = draft;
      const { pipeline, layout } = this.pipelines.of(shader);
      const group = this.pipelines.group(shader, layout, pieces, uniforms);
      return { pipeline, group, offset: [slot++ * SLOT], x, y };
    });
    tape.drafts.length = 0;
    return tape;
  }

  /** Runs a tape behind everything recorded so far; its calls are numbered from `first` on. */
  play(tape: Tape, first: number): void {
    this.submit();
    this.#held = undefined;
    for (const block of tape.written) this.#outdate(block);
    this.call = first;
    if (tape.number(first)) {
      this.#device.queue.writeBuffer(tape.uniforms!, 0, tape.slots, 0, tape.dispatches * SLOT);
    }
    const encoder = this.#device.createCommandEncoder();
    tape.encode(encoder);
    this.#device.queue.submit([encoder.finish()]);
    this.#dispatches += tape.dispatches;
    this.#submits++;
  }

  /** Hands what is recorded to the device. */
  submit(): void {
    if (this.#encoder) {
      this.#endPass();
      if (this.#slot > 0) this.#device.queue.writeBuffer(this.#uniforms, 0, this.#slots, 0, this.#slot * SLOT);
      this.#device.queue.submit([this.#encoder.finish()]);
      this.#encoder = undefined;
      this.#slot = 0;
      this.#submits++;
    }
    this.buffers.sweep();
  }

  /** Writes whole words at once, behind everything recorded so far. */
  write(block: Block, offset: number, bytes: Uint8Array): void {
    this.#wrote(block);
    this.submit();
    let done = 0;
    for (const span of spansOf(block, offset, bytes.length)) {
      const part = bytes.subarray(done, done + span.bytes) as Uint8Array<ArrayBuffer>;
      this.#device.queue.writeBuffer(span.buffer, span.at, part);
      done += span.bytes;
    }
  }

  /** Bytes of a block, and how many calls failed before. */
  async read(block: Block, offset: number, bytes: number): Promise<ReadBack> {
    const first = Math.floor(offset / 4) * 4;
    const size = Math.ceil((offset + bytes) / 4) * 4 - first;
    const head = FLAG_WORDS * 4;
    const staging = this.#takeStaging(head + size);
    this.#endPass();
    const encoder = this.#encode();
    encoder.copyBufferToBuffer(this.flag.buffers[0]!, 0, staging.buffer, 0, head);
    let at = head;
    for (const span of spansOf(block, first, size)) {
      encoder.copyBufferToBuffer(span.buffer, span.at, staging.buffer, at, span.bytes);
      at += span.bytes;
    }
    this.submit();
    await staging.buffer.mapAsync(MAP_READ, 0, head + size);
    const mapped = new Uint8Array(staging.buffer.getMappedRange(0, head + size));
    const failures = new DataView(mapped.buffer, mapped.byteOffset).getUint32(0, true);
    const result = mapped.slice(head + offset - first, head + offset - first + bytes);
    staging.buffer.unmap();
    if (this.#staging.length < 8 && staging.bytes <= 16 << 20) this.#staging.push(staging);
    else staging.buffer.destroy();
    return { bytes: result, failures };
  }

  /** Drops the bind groups that name a block, and what was taped with it. */
  forget(block: Block): void {
    for (const tape of block.tapes) tape.stale = true;
    block.tapes.clear();
    this.#wrote(block);
    this.pipelines.forget(block);
  }

  close(): void {
    this.#uniforms.destroy();
    this.flag.buffers[0]!.destroy();
    for (const { buffer } of this.#staging) buffer.destroy();
  }

  #encode(): GPUCommandEncoder {
    return (this.#encoder ??= this.#device.createCommandEncoder());
  }

  #endPass(): void {
    this.#pass?.end();
    this.#pass = undefined;
  }

  /** A dispatch may not read a buffer that it also writes: what is read is then copied aside. */
  #untangle(shader: Shader, pieces: readonly Piece[]): readonly Piece[] {
    const { access } = shader;
    let result: Piece[] | undefined;
    for (let i = 0; i < pieces.length; i++) {
      if (access[i] !== "r") continue;
      for (let j = 0; j < pieces.length; j++) {
        if (access[j] !== "w" || pieces[j]!.block !== pieces[i]!.block) continue;
        const { block, start, size } = pieces[i]!;
        const aside = this.buffers.scratch(`aside ${i}`, size);
        this.copy(block, start, aside, 0, Math.min(size, block.bytes - start));
        result ??= pieces.slice();
        result[i] = { block: aside, start: 0, size };
        break;
      }
    }
    return result ?? pieces;
  }

  /** Writes the numbers of a dispatch into its slot: that of the call first, for reports. */
  #fill(shader: Shader, numbers: Readonly<Record<string, number>>, slot: DataView): void {
    slot.setUint32(0, tagOf(this.call), true);
    for (let i = 0; i < shader.params.length; i++) {
      const { name, type } = shader.params[i]!;
      const value = numbers[name];
      if (value === undefined) throw new Error(`${shader.key}: no value for ${name}`);
      if (type === "u32") slot.setUint32(4 + 4 * i, value, true);
      else if (type === "i32") slot.setInt32(4 + 4 * i, value, true);
      else slot.setFloat32(4 + 4 * i, value, true);
    }
  }

  #wrote(block: Block): void {
    const held = this.#held;
    const marked = held?.marked.some((one) => one.block === block);
    if (held?.block === block || held?.source === block || marked) this.#held = undefined;
    this.#tape?.written.add(block);
    this.#outdate(block);
  }

  /** What was made of a block no longer holds, nor do tapes that found it made. */
  #outdate({ derived }: Block): void {
    for (const one of derived.values()) {
      one.fresh = false;
      for (const tape of one.block.tapes) tape.stale = true;
    }
  }

  #copy(step: CopyStep): void {
    if (this.#tape) {
      this.#tape.drafts.push(step);
      return;
    }
    this.#endPass();
    this.#encode().copyBufferToBuffer(step.from, step.fromAt, step.to, step.toAt, step.bytes);
  }

  #takeStaging(bytes: number): Staging {
    const at = this.#staging.findIndex((staging) => staging.bytes >= bytes && staging.bytes <= 4 * bytes + 4096);
    if (at >= 0) return this.#staging.splice(at, 1)[0]!;
    const size = 2 ** Math.ceil(Math.log2(Math.max(4096, bytes)));
    return { buffer: this.#device.createBuffer({ size, usage: MAP_READ | COPY_DST }), bytes: size };
  }
}
