// The in-order queue: dispatches are recorded into one command encoder and submitted in batches. Pipelines and bind
// groups are cached, so that a step that was recorded before costs a look-up per dispatch. Numbers of a dispatch travel
// in a slot of one uniform buffer, chosen by a dynamic offset.

import type { Block, Buffers } from "./buffers.js";
import type { Piece } from "./call.js";
import { FLAG_SLOTS, FLAG_WORDS, tagOf } from "./errors.js";
import type { Shader } from "./shader.js";

/** Bytes of a dispatch's numbers; WebGPU's default alignment of dynamic offsets. */
const SLOT = 256;
/** Dispatches whose numbers fit in the uniform buffer; more are submitted in parts. */
const SLOTS = 512;
const UNIFORM = 0x40;
const COPY_DST = 0x08;
const COPY_SRC = 0x04;
const STORAGE = 0x80;
const MAP_READ = 0x01;
const COMPUTE_STAGE = 0x4;

export interface QueueStatistics {
  dispatches: number;
  submits: number;
  pipelines: number;
  bindGroups: number;
}

interface Staging {
  readonly buffer: GPUBuffer;
  readonly bytes: number;
}

export interface ReadBack {
  readonly bytes: Uint8Array;
  /** Calls that had failed so far at this point of the queue. */
  readonly failures: number;
}

export class Queue {
  readonly statistics: QueueStatistics = { dispatches: 0, submits: 0, pipelines: 0, bindGroups: 0 };
  /** Keys of the shaders that were used. */
  readonly used = new Set<string>();
  /** Number of the call that is recorded now (journal.ts). */
  call = 0;
  readonly #device: GPUDevice;
  readonly #refused: (call: number, error: GPUError) => void;
  readonly #maxGroups: number;
  readonly #uniforms: GPUBuffer;
  readonly #slots = new ArrayBuffer(SLOT * SLOTS);
  readonly #u32 = new Uint32Array(this.#slots);
  readonly #i32 = new Int32Array(this.#slots);
  readonly #f32 = new Float32Array(this.#slots);
  /** Where kernels report failures: see errors.ts. */
  readonly flag: Block;
  readonly #pipelines = new Map<string, { pipeline: GPUComputePipeline; layout: GPUBindGroupLayout }>();
  readonly #layouts = new Map<string, GPUBindGroupLayout>();
  readonly #groups = new Map<string, GPUBindGroup>();
  readonly #staging: Staging[] = [];
  #encoder: GPUCommandEncoder | undefined;
  #pass: GPUComputePassEncoder | undefined;
  #slot = 0;
  buffers!: Buffers;

  /** @param refused gets validation errors, with the call that was being recorded */
  constructor(device: GPUDevice, refused: (call: number, error: GPUError) => void) {
    this.#device = device;
    this.#refused = refused;
    this.#maxGroups = device.limits.maxComputeWorkgroupsPerDimension;
    this.#uniforms = device.createBuffer({ size: SLOT * SLOTS, usage: UNIFORM | COPY_DST });
    const bytes = FLAG_WORDS * 4 * (1 + FLAG_SLOTS);
    this.flag = {
      buffer: device.createBuffer({ size: bytes, usage: STORAGE | COPY_SRC | COPY_DST }),
      bytes,
      uid: 0,
      groups: new Set(),
    };
  }

  /** Records one dispatch of `groups` workgroups. `numbers` holds a value for each of the shader's params. */
  dispatch(shader: Shader, pieces: readonly Piece[], numbers: Readonly<Record<string, number>>, groups: number): void {
    if (groups <= 0) return;
    if (this.#slot === SLOTS) this.submit();
    const { pipeline, layout } = this.#pipeline(shader);
    const bound = this.#untangle(shader, pieces);
    const base = (this.#slot * SLOT) / 4;
    this.#u32[base] = tagOf(this.call);
    for (let i = 0; i < shader.params.length; i++) {
      const { name, type } = shader.params[i]!;
      const value = numbers[name];
      if (value === undefined) throw new Error(`${shader.key}: no value for ${name}`);
      if (type === "u32") this.#u32[base + 1 + i] = value;
      else if (type === "i32") this.#i32[base + 1 + i] = value;
      else this.#f32[base + 1 + i] = value;
    }
    const group = this.#group(shader, layout, bound);
    this.#pass ??= this.#encode().beginComputePass();
    this.#pass.setPipeline(pipeline);
    this.#pass.setBindGroup(0, group, [this.#slot * SLOT]);
    if (groups <= this.#maxGroups) this.#pass.dispatchWorkgroups(groups);
    else {
      const y = Math.ceil(groups / this.#maxGroups);
      this.#pass.dispatchWorkgroups(Math.ceil(groups / y), y);
    }
    this.#slot++;
    this.statistics.dispatches++;
  }

  /** Records a copy between blocks; offsets and size are multiples of 4. */
  copy(from: Block, fromAt: number, to: Block, toAt: number, bytes: number): void {
    this.#endPass();
    this.#encode().copyBufferToBuffer(from.buffer, fromAt, to.buffer, toAt, bytes);
  }

  /** Hands what is recorded to the device. */
  submit(): void {
    if (this.#encoder) {
      this.#endPass();
      if (this.#slot > 0) this.#device.queue.writeBuffer(this.#uniforms, 0, this.#slots, 0, this.#slot * SLOT);
      this.#device.queue.submit([this.#encoder.finish()]);
      this.#encoder = undefined;
      this.#slot = 0;
      this.statistics.submits++;
    }
    this.buffers.sweep();
  }

  /** Writes whole words at once, behind everything recorded so far. */
  write(block: Block, offset: number, bytes: Uint8Array): void {
    this.submit();
    this.#device.queue.writeBuffer(block.buffer, offset, bytes as Uint8Array<ArrayBuffer>);
  }

  /** Bytes of a block, and how many calls failed before. */
  async read(block: Block, offset: number, bytes: number): Promise<ReadBack> {
    const first = Math.floor(offset / 4) * 4;
    const size = Math.ceil((offset + bytes) / 4) * 4 - first;
    const head = FLAG_WORDS * 4;
    const staging = this.#takeStaging(head + size);
    this.#endPass();
    const encoder = this.#encode();
    encoder.copyBufferToBuffer(this.flag.buffer, 0, staging.buffer, 0, head);
    if (size > 0) encoder.copyBufferToBuffer(block.buffer, first, staging.buffer, head, size);
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

  /** Drops the bind groups that name a block. */
  forget(block: Block): void {
    for (const key of block.groups) this.#groups.delete(key);
    block.groups.clear();
  }

  /** Checks a shader, or builds its pipeline, without running it. @throws Error with the compiler's first message */
  async compile(shader: Shader, how: "check" | "pipeline"): Promise<void> {
    const module = this.#device.createShaderModule({ code: shader.code, label: shader.key });
    const { messages } = await module.getCompilationInfo();
    const error = messages.find(({ type }) => type === "error");
    if (error) throw new Error(`line ${error.lineNum}: ${error.message}`);
    if (how === "check") return;
    const layout = this.#device.createPipelineLayout({ bindGroupLayouts: [this.#layout(shader.access)] });
    await this.#device.createComputePipelineAsync({ layout, compute: { module }, label: shader.key });
  }

  close(): void {
    this.#uniforms.destroy();
    this.flag.buffer.destroy();
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

  #pipeline(shader: Shader): { pipeline: GPUComputePipeline; layout: GPUBindGroupLayout } {
    const cached = this.#pipelines.get(shader.key);
    if (cached) return cached;
    this.used.add(shader.key);
    const layout = this.#layout(shader.access);
    const pipeline = this.#checked(() => {
      const module = this.#device.createShaderModule({ code: shader.code, label: shader.key });
      return this.#device.createComputePipeline({
        layout: this.#device.createPipelineLayout({ bindGroupLayouts: [layout] }),
        compute: { module },
        label: shader.key,
      });
    });
    const made = { pipeline, layout };
    this.#pipelines.set(shader.key, made);
    this.statistics.pipelines++;
    return made;
  }

  #layout(access: string): GPUBindGroupLayout {
    let layout = this.#layouts.get(access);
    if (!layout) {
      layout = this.#device.createBindGroupLayout({
        entries: [
          { binding: 0, visibility: COMPUTE_STAGE, buffer: { type: "uniform", hasDynamicOffset: true } },
          ...[...access].map(
            (letter, at): GPUBindGroupLayoutEntry => ({
              binding: at + 1,
              visibility: COMPUTE_STAGE,
              buffer: { type: letter === "r" ? "read-only-storage" : "storage" },
            }),
          ),
        ],
      });
      this.#layouts.set(access, layout);
    }
    return layout;
  }

  #group(shader: Shader, layout: GPUBindGroupLayout, pieces: readonly Piece[]): GPUBindGroup {
    let key = shader.access;
    for (let i = 0; i < pieces.length; i++) {
      const { block, start, size } = pieces[i]!;
      key += `,${block.uid}:${start}:${size}`;
    }
    const cached = this.#groups.get(key);
    if (cached) return cached;
    const wanted = shader.access.length - (shader.reports ? 1 : 0);
    if (pieces.length !== wanted) throw new Error(`${shader.key}: ${pieces.length} bindings for ${wanted}`);
    const entries: GPUBindGroupEntry[] = [{ binding: 0, resource: { buffer: this.#uniforms, size: SLOT } }];
    for (const { block, start, size } of pieces) {
      const resource = { buffer: block.buffer, offset: start, size: Math.min(size, block.bytes - start) };
      entries.push({ binding: entries.length, resource });
    }
    if (shader.reports) entries.push({ binding: entries.length, resource: { buffer: this.flag.buffer } });
    const group = this.#checked(() => this.#device.createBindGroup({ layout, entries, label: shader.key }));
    this.#groups.set(key, group);
    for (const { block } of pieces) block.groups.add(key);
    this.statistics.bindGroups++;
    return group;
  }

  /** Runs `make` with an error scope; what goes wrong is reported with the call that was being recorded. */
  #checked<T>(make: () => T): T {
    const { call } = this;
    this.#device.pushErrorScope("validation");
    const made = make();
    this.#device.popErrorScope().then(
      (error) => {
        if (error) this.#refused(call, error);
      },
      () => {}, // the device is lost, which is reported on its own
    );
    return made;
  }

  #takeStaging(bytes: number): Staging {
    const at = this.#staging.findIndex((staging) => staging.bytes >= bytes && staging.bytes <= 4 * bytes + 4096);
    if (at >= 0) return this.#staging.splice(at, 1)[0]!;
    const size = 2 ** Math.ceil(Math.log2(Math.max(4096, bytes)));
    return { buffer: this.#device.createBuffer({ size, usage: MAP_READ | COPY_DST }), bytes: size };
  }
}
