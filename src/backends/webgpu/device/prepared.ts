// A step that is run again and again: its dispatches with pipelines, bind groups and numbers that are made once. Running a
// tape decodes nothing and writes nothing but the commands themselves. A tape goes stale when a block that it uses is
// destroyed; its owner then makes it anew.

import type { Piece } from "../schedule/call.js";
import type { Shader } from "../shader.js";
import type { Block } from "./buffers.js";
import type { Check } from "./error-scopes.js";
import { tagOf } from "./errors.js";

/** Bytes of a dispatch's numbers; WebGPU's default alignment of dynamic offsets. */
export const SLOT = 256;

/** What a dispatch needs, bindings still apart. */
export interface Draft {
  readonly shader: Shader;
  readonly pieces: readonly Piece[];
  readonly x: number;
  readonly y: number;
}

export interface CopyStep {
  readonly from: GPUBuffer;
  readonly fromAt: number;
  readonly to: GPUBuffer;
  readonly toAt: number;
  readonly bytes: number;
}

export interface DispatchStep {
  readonly pipeline: GPUComputePipeline;
  readonly group: GPUBindGroup;
  readonly offset: readonly [number];
  readonly x: number;
  readonly y: number;
}

export class Tape {
  /** True once a block that it uses is gone. */
  stale = false;
  readonly drafts: (Draft | CopyStep)[] = [];
  readonly blocks = new Set<Block>();
  /** Those of them that it writes. */
  readonly written = new Set<Block>();
  /** The numbers of all dispatches, a slot each. */
  slots = new ArrayBuffer(SLOT * 64);
  dispatches = 0;
  /** Slots whose dispatches report failures, and the number of their call in the tape. */
  readonly reports: { readonly at: number; readonly call: number }[] = [];
  steps: readonly (DispatchStep | CopyStep)[] = [];
  uniforms: GPUBuffer | undefined;
  /** Whether what it is made of came to be; those that are well are taken out as they become known. */
  checks: readonly Check[] = [];

  /** Room for one more slot; gives its number. */
  slot(): number {
    if ((this.dispatches + 1) * SLOT > this.slots.byteLength) {
      const wider = new ArrayBuffer(this.slots.byteLength * 2);
      new Uint8Array(wider).set(new Uint8Array(this.slots));
      this.slots = wider;
    }
    return this.dispatches++;
  }

  use(block: Block): void {
    this.blocks.add(block);
    block.tapes.add(this);
  }

  /** Numbers the calls that report from `first` on; false if there are none, and the slots are as they were. */
  number(first: number): boolean {
    const slots = new DataView(this.slots);
    for (const { at, call } of this.reports) slots.setUint32(at, tagOf(first + call), true);
    return this.reports.length > 0;
  }

  /** Encodes all steps. */
  encode(encoder: GPUCommandEncoder): void {
    const { steps } = this;
    let pass: GPUComputePassEncoder | undefined;
    let pipeline: GPUComputePipeline | undefined;
    for (let i = 0; i < steps.length; i++) {
      const step = steps[i]!;
      if (!("group" in step)) {
        pass?.end();
        pass = undefined;
        pipeline = undefined;
        encoder.copyBufferToBuffer(step.from, step.fromAt, step.to, step.toAt, step.bytes);
        continue;
      }
      pass ??= encoder.beginComputePass();
      if (step.pipeline !== pipeline) {
        pipeline = step.pipeline;
        pass.setPipeline(pipeline);
      }
      pass.setBindGroup(0, step.group, step.offset);
      pass.dispatchWorkgroups(step.x, step.y);
    }
    pass?.end();
  }

  /** Of what it is made of, all that is not known to be well. */
  doubtful(): readonly Check[] {
    if (this.checks.length > 0) this.checks = this.checks.filter(({ known, error }) => !known || error);
    return this.checks;
  }

  destroy(): void {
    this.stale = true;
    for (const block of this.blocks) block.tapes.delete(this);
    this.blocks.clear();
    this.written.clear();
    this.uniforms?.destroy();
    this.uniforms = undefined;
    this.steps = [];
  }
}

/** Writes the numbers of a dispatch into its slot: that of the call first, for reports. */
export function fillSlot(
  slot: DataView,
  shader: Shader,
  call: number,
  numbers: Readonly<Record<string, number>>,
): void {
  slot.setUint32(0, tagOf(call), true);
  for (let i = 0; i < shader.params.length; i++) {
    const { name, type } = shader.params[i]!;
    const value = numbers[name];
    if (value === undefined) throw new Error(`${shader.key}: no value for ${name}`);
    if (type === "u32") slot.setUint32(4 + 4 * i, value, true);
    else if (type === "i32") slot.setInt32(4 + 4 * i, value, true);
    else slot.setFloat32(4 + 4 * i, value, true);
  }
}
