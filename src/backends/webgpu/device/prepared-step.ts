// A prepared step: dispatches whose pipelines, bind groups and numbers are made once and run many times. Running it decodes
// no commands; it only encodes dispatches. It goes stale when a block that it uses is destroyed; its owner then prepares it
// again.

import type { Binding } from "../schedule/call.js";
import type { Shader } from "../shader.js";
import type { Block } from "./buffers.js";
import type { Check } from "./error-scopes.js";
import { tagOf } from "./errors.js";

/** Bytes of a dispatch's numbers; WebGPU's default alignment of dynamic offsets. */
export const SLOT = 256;

/** A dispatch before its pipeline and bind group exist. */
export interface Draft {
  readonly shader: Shader;
  readonly bindings: readonly Binding[];
  readonly x: number;
  readonly y: number;
}

export interface CopyCommand {
  readonly from: GPUBuffer;
  readonly fromAt: number;
  readonly to: GPUBuffer;
  readonly toAt: number;
  readonly bytes: number;
}

export interface DispatchCommand {
  readonly pipeline: GPUComputePipeline;
  readonly group: GPUBindGroup;
  readonly offset: readonly [number];
  readonly x: number;
  readonly y: number;
}

export class PreparedStep {
  /** True once a block that it uses is gone. */
  stale = false;
  readonly drafts: (Draft | CopyCommand)[] = [];
  readonly blocks = new Set<Block>();
  /** Those of them that it writes. */
  readonly written = new Set<Block>();
  /** The numbers of all dispatches, a slot each. */
  slots = new ArrayBuffer(SLOT * 64);
  dispatches = 0;
  /** Slots whose dispatches can report failures, with the number of their call in the step. */
  readonly reports: { readonly at: number; readonly call: number }[] = [];
  commands: readonly (DispatchCommand | CopyCommand)[] = [];
  uniforms: GPUBuffer | undefined;
  /** Pending checks of its resources; removed once confirmed. */
  checks: readonly Check[] = [];

  /** Adds a slot and returns its number. */
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
    block.preparedSteps.add(this);
  }

  /** Numbers the calls that can report failures, from `first` on; false if there are none. */
  number(first: number): boolean {
    const slots = new DataView(this.slots);
    for (const { at, call } of this.reports) slots.setUint32(at, tagOf(first + call), true);
    return this.reports.length > 0;
  }

  /** Encodes all commands. */
  encode(encoder: GPUCommandEncoder): void {
    const { commands } = this;
    let pass: GPUComputePassEncoder | undefined;
    let pipeline: GPUComputePipeline | undefined;
    for (let i = 0; i < commands.length; i++) {
      const command = commands[i]!;
      if (!("group" in command)) {
        pass?.end();
        pass = undefined;
        pipeline = undefined;
        encoder.copyBufferToBuffer(command.from, command.fromAt, command.to, command.toAt, command.bytes);
        continue;
      }
      pass ??= encoder.beginComputePass();
      if (command.pipeline !== pipeline) {
        pipeline = command.pipeline;
        pass.setPipeline(pipeline);
      }
      pass.setBindGroup(0, command.group, command.offset);
      pass.dispatchWorkgroups(command.x, command.y);
    }
    pass?.end();
  }

  /** The checks of its resources that are pending or have failed. */
  doubtful(): readonly Check[] {
    if (this.checks.length > 0) this.checks = this.checks.filter(({ known, error }) => !known || error);
    return this.checks;
  }

  destroy(): void {
    this.stale = true;
    for (const block of this.blocks) block.preparedSteps.delete(this);
    this.blocks.clear();
    this.written.clear();
    this.uniforms?.destroy();
    this.uniforms = undefined;
    this.commands = [];
  }
}

/** Writes the numbers of a dispatch into its slot; the call's number comes first, for failure reports. */
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
