// Records dispatches and copies, in order, into a command encoder and submits them in batches. Pipelines and bind groups
// are cached, so a repeated dispatch costs one look-up. Its numbers lie in a slot of one uniform buffer, which a dynamic
// offset selects. The device drops a whole batch if it could not create one of its resources. So batches record their
// owners, and large, unconfirmed allocations get a batch of their own.

import { DeviceError, type OctavoError, OutOfMemoryError } from "../../../core/errors.js";
import type { Binding } from "../schedule/call.js";
import type { Shader } from "../shader.js";
import { type Block, type Buffers, spansOf } from "./buffers.js";
import { type Check, causeOf, type ErrorScopes, graver, type Refused, refusing, unchecked } from "./error-scopes.js";
import { FLAG_SLOTS, FLAG_WORDS } from "./errors.js";
import { Pipelines } from "./pipelines.js";
import { fillSlot, PreparedStep, SLOT } from "./prepared-step.js";
import { type ReadBack, Readback } from "./readback.js";
import { ScratchContents } from "./scratch-contents.js";

/** Dispatches whose numbers fit in the uniform buffer; more are submitted in parts. */
const SLOTS = 512;
const UNIFORM = 0x40;
const COPY_DST = 0x08;
const COPY_SRC = 0x04;
const STORAGE = 0x80;
/** Unconfirmed blocks of at least this size get a batch of their own. */
const LARGE = 1 << 20;

export interface RecorderStatistics {
  readonly dispatches: number;
  readonly submits: number;
  readonly pipelines: number;
  readonly bindGroups: number;
}

/** An owner of work in a batch: a call, by its number (failure-log.ts), or a write. */
export type Party = number | Check;

/** The error for owners of a batch that the device dropped. */
function droppedBy(cause: OctavoError | undefined): OctavoError | undefined {
  if (!cause) return undefined;
  const text = `${cause.message}; the batch of commands that needed it was dropped`;
  const options = { details: cause.details, cause };
  return cause instanceof OutOfMemoryError ? new OutOfMemoryError(text, options) : new DeviceError(text, options);
}

export class CommandRecorder {
  #dispatches = 0;
  #submits = 0;
  /** Number of the call being recorded. */
  call = 0;
  /** Owner of the work being recorded. */
  #recorded: readonly Party[] = [];
  readonly #device: GPUDevice;
  readonly #scopes: ErrorScopes;
  readonly #refused: (call: number, error: OctavoError) => void;
  readonly pipelines: Pipelines;
  readonly #maxGroups: number;
  readonly #uniforms: GPUBuffer;
  readonly #slots = new ArrayBuffer(SLOT * SLOTS);
  /** Where kernels report failures: see errors.ts. */
  readonly flag: Block;
  readonly #readback: Readback;
  #encoder: GPUCommandEncoder | undefined;
  #pass: GPUComputePassEncoder | undefined;
  #slot = 0;
  /** The batch being encoded: its owners, the unconfirmed blocks that it uses, and whether one of them is large. */
  #parties = new Set<Party>();
  #unknown = new Set<Check>();
  #risky = false;
  /** Contents of scratch blocks that kernels can use again. */
  readonly contents = new ScratchContents();
  /** While a step is prepared: it takes the dispatches instead of the encoder. */
  #step: PreparedStep | undefined;
  buffers!: Buffers;

  /**
   * @param largest size of the largest buffer, in bytes
   * @param refused called for calls that did not run because the device dropped their batch
   */
  constructor(
    device: GPUDevice,
    scopes: ErrorScopes,
    largest: number,
    refused: (call: number, error: OctavoError) => void,
  ) {
    this.#device = device;
    this.#scopes = scopes;
    this.#refused = refused;
    this.#maxGroups = device.limits.maxComputeWorkgroupsPerDimension;
    const bytes = FLAG_WORDS * 4 * (1 + FLAG_SLOTS);
    const check = unchecked();
    this.#uniforms = this.#buffer(SLOT * SLOTS, UNIFORM | COPY_DST, check);
    this.flag = {
      buffers: [this.#buffer(bytes, STORAGE | COPY_SRC | COPY_DST, check)],
      segment: bytes,
      binding: bytes,
      bytes,
      uid: 0,
      check,
      groups: new Set(),
      preparedSteps: new Set(),
      derived: new Map(),
    };
    this.pipelines = new Pipelines(device, scopes, this.flag);
    this.#readback = new Readback(device, scopes, this.flag, largest);
  }

  /** Sets the owner of the work recorded next. `call` is the lowest number of several. */
  begin(parties: readonly Party[]): void {
    this.#recorded = parties;
    const calls = parties.filter((party) => typeof party === "number");
    if (calls.length > 0) this.call = Math.min(...calls);
  }

  get statistics(): RecorderStatistics {
    const { size, groupsMade } = this.pipelines;
    const submits = this.#submits + this.#readback.submits;
    return { dispatches: this.#dispatches, submits, pipelines: size, bindGroups: groupsMade };
  }

  /** Records one dispatch of `groups` workgroups. `numbers` holds a value for each of the shader's params. */
  dispatch(
    shader: Shader,
    bindings: readonly Binding[],
    numbers: Readonly<Record<string, number>>,
    groups: number,
  ): void {
    if (groups <= 0) return;
    const y = Math.ceil(groups / this.#maxGroups);
    const x = Math.ceil(groups / y);
    const bound = this.#untangle(shader, bindings);
    for (let i = 0; i < bound.length; i++) if (shader.access[i] === "w") this.#wrote(bound[i]!.block);
    const step = this.#step;
    if (step) {
      const at = step.slot() * SLOT;
      fillSlot(new DataView(step.slots, at, SLOT), shader, this.call, numbers);
      for (const { block } of bound) step.use(block);
      if (shader.reports) step.reports.push({ at, call: this.call });
      step.drafts.push({ shader, bindings: bound, x, y });
      return;
    }
    if (this.#slot === SLOTS) this.submit();
    const encoder = this.#encode(bound.map(({ block }) => block));
    fillSlot(new DataView(this.#slots, this.#slot * SLOT, SLOT), shader, this.call, numbers);
    const pipeline = this.pipelines.of(shader);
    const group = this.pipelines.cachedGroup(shader, pipeline.layout, bound, this.#uniforms);
    for (const { check } of [pipeline, group]) if (!check.known) this.#unknown.add(check);
    this.#pass ??= encoder.beginComputePass();
    this.#pass.setPipeline(pipeline.pipeline);
    this.#pass.setBindGroup(0, group.group, [this.#slot * SLOT]);
    this.#pass.dispatchWorkgroups(x, y);
    this.#slot++;
    this.#dispatches++;
  }

  /**
   * A block of `bytes` that `make` derives from `source`: kept under `key` until `source` is written or freed. A prepared
   * step uses the finished block, unless the step itself writes `source` first: then each run derives it again.
   */
  derived(source: Block, key: string, bytes: number, make: (block: Block) => void): Block {
    const step = this.#step;
    if (step?.written.has(source)) {
      const block = this.buffers.scratch("derived", bytes);
      make(block);
      return block;
    }
    const found = this.buffers.derive(source, key, bytes);
    if (!found.fresh || found.check.error) {
      // In a batch of its own, because it outlives the batch that needs it first, which the device may drop.
      const recorded = this.#recorded;
      this.#step = undefined;
      this.submit();
      found.check = unchecked();
      this.#recorded = [found.check];
      try {
        make(found.block);
      } finally {
        this.submit();
        this.#recorded = recorded;
        this.#step = step;
      }
      found.fresh = true;
    }
    return found.block;
  }

  /** Records a copy between blocks; offsets and size are multiples of 4. */
  copy(from: Block, fromAt: number, to: Block, toAt: number, bytes: number): void {
    this.#wrote(to);
    const step = this.#step;
    step?.use(from);
    step?.use(to);
    const encoder = step ? undefined : this.#encode([from, to]);
    if (encoder) this.#endPass();
    let done = 0;
    for (const source of spansOf(from, fromAt, bytes)) {
      let inside = 0;
      for (const target of spansOf(to, toAt + done, source.bytes)) {
        const fromAt = source.at + inside;
        encoder?.copyBufferToBuffer(source.buffer, fromAt, target.buffer, target.at, target.bytes);
        step?.drafts.push({ from: source.buffer, fromAt, to: target.buffer, toAt: target.at, bytes: target.bytes });
        inside += target.bytes;
      }
      done += source.bytes;
    }
  }

  /** Prepares a step from the work that `body` records, with calls numbered from 0; undefined if `body` returns false. */
  prepare(body: () => boolean): PreparedStep | undefined {
    const step = new PreparedStep();
    this.#step = step;
    this.contents.clear(); // a prepared step may run after any other work, so it depends on no scratch
    let complete = false;
    try {
      complete = body();
    } finally {
      this.#step = undefined;
      this.contents.clear();
      if (!complete) step.destroy();
    }
    if (!complete) return undefined;
    const size = Math.max(1, step.dispatches) * SLOT;
    const check = unchecked();
    const uniforms = this.#buffer(size, UNIFORM | COPY_DST, check, step.slots);
    step.uniforms = uniforms;
    const checks = new Set([check, ...[...step.blocks].map((block) => block.check)]);
    let slot = 0;
    step.commands = step.drafts.map((draft) => {
      if (!("shader" in draft)) return draft;
      const { shader, bindings, x, y } = draft;
      const pipeline = this.pipelines.of(shader);
      const group = this.pipelines.group(shader, pipeline.layout, bindings, uniforms);
      checks.add(pipeline.check).add(group.check);
      return { pipeline: pipeline.pipeline, group: group.group, offset: [slot++ * SLOT], x, y };
    });
    step.drafts.length = 0;
    step.checks = [...checks];
    return step;
  }

  /** Runs a prepared step after everything recorded so far; its calls have the numbers `first` to `end`. */
  replay(step: PreparedStep, first: number, end: number): void {
    this.submit();
    this.contents.clear();
    for (const block of step.written) this.#outdate(block);
    for (const block of step.blocks) this.#readback.hasten(block);
    const unknown = step.doubtful();
    const dropped = (error: OctavoError): void => {
      step.stale = true;
      for (let call = first; call < end; call++) this.#refused(call, error);
    };
    this.#hand(unknown, dropped, () => {
      if (step.number(first)) {
        this.#device.queue.writeBuffer(step.uniforms!, 0, step.slots, 0, step.dispatches * SLOT);
      }
      const encoder = this.#device.createCommandEncoder();
      step.encode(encoder);
      return encoder;
    });
    this.#dispatches += step.dispatches;
  }

  /** Submits the recorded work. */
  submit(): void {
    const encoder = this.#encoder;
    if (encoder) {
      const parties = this.#parties;
      const dropped = (error: OctavoError): void => {
        for (const party of parties) {
          if (typeof party === "number") this.#refused(party, error);
          else party.error = graver(party.error, error);
        }
      };
      this.#hand(this.#unknown, dropped, () => {
        this.#endPass();
        if (this.#slot > 0) this.#device.queue.writeBuffer(this.#uniforms, 0, this.#slots, 0, this.#slot * SLOT);
        return encoder;
      });
      this.#encoder = undefined;
      this.#slot = 0;
      this.#parties = new Set();
      this.#unknown = new Set();
      this.contents.clear(); // the device may drop the batch that computed it
    }
    this.buffers.sweep();
  }

  /** Writes whole words after everything recorded so far. `check` gets the outcome. */
  write(block: Block, offset: number, bytes: Uint8Array, check: Check): void {
    this.#wrote(block);
    this.submit();
    const refused: Refused = (...said) => block.check.error ?? refusing("a write")(...said);
    this.#scopes.guard(check, refused, () => {
      let done = 0;
      for (const span of spansOf(block, offset, bytes.length)) {
        const part = bytes.subarray(done, done + span.bytes) as Uint8Array<ArrayBuffer>;
        this.#device.queue.writeBuffer(span.buffer, span.at, part);
        done += span.bytes;
      }
    });
  }

  /** Bytes of a block after everything recorded so far, and the count of failed calls at that point. */
  read(block: Block, offset: number, bytes: number): Promise<ReadBack> {
    this.submit();
    return this.#readback.read(block, offset, bytes);
  }

  /** Resolves when no read is in progress. */
  idle(): Promise<void> {
    return this.#readback.idle();
  }

  /** Drops the bind groups that name a block, and marks prepared steps that use it as stale. */
  forget(block: Block): void {
    for (const step of block.preparedSteps) step.stale = true;
    block.preparedSteps.clear();
    this.#wrote(block);
    this.pipelines.forget(block);
  }

  close(): void {
    this.#uniforms.destroy();
    this.flag.buffers[0]!.destroy();
    this.#readback.close();
  }

  /** The encoder for work that uses these blocks. */
  #encode(blocks: readonly Block[]): GPUCommandEncoder {
    const risky = blocks.some(({ check, bytes }) => !check.known && bytes >= LARGE);
    if (this.#encoder && risky !== this.#risky) this.submit();
    this.#risky = risky;
    for (const party of this.#recorded) this.#parties.add(party);
    for (const { check } of blocks) if (!check.known) this.#unknown.add(check);
    return (this.#encoder ??= this.#device.createCommandEncoder());
  }

  /** Submits the encoder that `encode` returns; calls `dropped` if the device drops it because a resource failed. */
  #hand(unknown: Iterable<Check>, dropped: (error: OctavoError) => void, encode: () => GPUCommandEncoder): void {
    const refused: Refused = (...said) => {
      const error = droppedBy(causeOf(unknown)) ?? refusing("a batch of commands")(...said);
      dropped(error);
      return error;
    };
    this.#scopes.guard(unchecked(), refused, () => this.#device.queue.submit([encode().finish()]));
    this.#submits++;
  }

  #endPass(): void {
    this.#pass?.end();
    this.#pass = undefined;
  }

  /** A dispatch may not read a buffer that it also writes; such inputs are copied to scratch. */
  #untangle(shader: Shader, bindings: readonly Binding[]): readonly Binding[] {
    const { access } = shader;
    let result: Binding[] | undefined;
    for (let i = 0; i < bindings.length; i++) {
      if (access[i] !== "r") continue;
      for (let j = 0; j < bindings.length; j++) {
        if (access[j] !== "w" || bindings[j]!.block !== bindings[i]!.block) continue;
        const { block, start, size } = bindings[i]!;
        const aside = this.buffers.scratch(`aside ${i}`, size);
        this.copy(block, start, aside, 0, Math.min(size, block.bytes - start));
        result ??= bindings.slice();
        result[i] = { block: aside, start: 0, size };
        break;
      }
    }
    return result ?? bindings;
  }

  #wrote(block: Block): void {
    this.#readback.hasten(block);
    this.contents.wrote(block);
    this.#step?.written.add(block);
    this.#outdate(block);
  }

  /** Marks blocks derived from a block as stale, and the prepared steps that use them. */
  #outdate({ derived }: Block): void {
    for (const one of derived.values()) {
      one.fresh = false;
      for (const step of one.block.preparedSteps) step.stale = true;
    }
  }

  #buffer(size: number, usage: number, check: Check, contents?: ArrayBuffer): GPUBuffer {
    const refused: Refused = (message) =>
      new OutOfMemoryError(`webgpu: the device has no ${size} bytes left: ${message}`, { details: { bytes: size } });
    return this.#scopes.guard(check, refused, () => {
      const buffer = this.#device.createBuffer({ size, usage });
      if (contents) this.#device.queue.writeBuffer(buffer, 0, contents, 0, size);
      return buffer;
    });
  }
}
