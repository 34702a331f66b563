// Pipelines, their layouts and bind groups, each made once: a repeated dispatch costs one look-up.

import type { Binding } from "../schedule/call.js";
import type { Shader } from "../shader.js";
import type { Block } from "./buffers.js";
import { type Check, type ErrorScopes, refusing, unchecked } from "./error-scopes.js";
import { SLOT } from "./prepared-step.js";

const COMPUTE_STAGE = 0x4;

export interface Pipeline {
  readonly pipeline: GPUComputePipeline;
  readonly layout: GPUBindGroupLayout;
  readonly check: Check;
}

export interface Group {
  readonly group: GPUBindGroup;
  readonly check: Check;
}

export class Pipelines {
  /** Bind groups made so far. */
  groupsMade = 0;
  readonly #device: GPUDevice;
  readonly #scopes: ErrorScopes;
  readonly #flag: Block;
  readonly #pipelines = new Map<string, Pipeline>();
  readonly #layouts = new Map<string, GPUBindGroupLayout>();
  readonly #groups = new Map<string, Group>();

  /** @param flag where kernels report failures */
  constructor(device: GPUDevice, scopes: ErrorScopes, flag: Block) {
    this.#device = device;
    this.#scopes = scopes;
    this.#flag = flag;
  }

  /** Keys of the shaders that were used. */
  get used(): ReadonlySet<string> {
    return new Set(this.#pipelines.keys());
  }

  get size(): number {
    return this.#pipelines.size;
  }

  of(shader: Shader): Pipeline {
    const cached = this.#pipelines.get(shader.key);
    if (cached && !cached.check.error) return cached;
    const layout = this.#layout(shader.access);
    const check = unchecked();
    const pipeline = this.#scopes.guard(check, refusing("a pipeline"), () => {
      const module = this.#device.createShaderModule({ code: shader.code, label: shader.key });
      return this.#device.createComputePipeline({
        layout: this.#device.createPipelineLayout({ bindGroupLayouts: [layout] }),
        compute: { module },
        label: shader.key,
      });
    });
    const made = { pipeline, layout, check };
    this.#pipelines.set(shader.key, made);
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

  /** The bind group of these bindings, cached until one of their blocks is forgotten. */
  cachedGroup(shader: Shader, layout: GPUBindGroupLayout, bindings: readonly Binding[], uniforms: GPUBuffer): Group {
    let key = shader.access;
    for (let i = 0; i < bindings.length; i++) {
      const { block, start, size } = bindings[i]!;
      key += `,${block.uid}:${start}:${size}`;
    }
    const cached = this.#groups.get(key);
    if (cached && !cached.check.error) return cached;
    const group = this.group(shader, layout, bindings, uniforms);
    this.#groups.set(key, group);
    for (const { block } of bindings) block.groups.add(key);
    return group;
  }

  group(shader: Shader, layout: GPUBindGroupLayout, bindings: readonly Binding[], uniforms: GPUBuffer): Group {
    const wanted = shader.access.length - (shader.reports ? 1 : 0);
    if (bindings.length !== wanted) throw new Error(`${shader.key}: ${bindings.length} bindings for ${wanted}`);
    const entries: GPUBindGroupEntry[] = [{ binding: 0, resource: { buffer: uniforms, size: SLOT } }];
    for (const { block, start, size } of bindings) {
      const { buffers, segment, bytes } = block;
      const buffer = buffers[Math.floor(start / segment)]!;
      const resource = { buffer, offset: start % segment, size: Math.min(size, bytes - start) };
      entries.push({ binding: entries.length, resource });
    }
    if (shader.reports) entries.push({ binding: entries.length, resource: { buffer: this.#flag.buffers[0]! } });
    this.groupsMade++;
    const check = unchecked();
    const make = (): GPUBindGroup => this.#device.createBindGroup({ layout, entries, label: shader.key });
    return { group: this.#scopes.guard(check, refusing("a bind group"), make), check };
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
}
