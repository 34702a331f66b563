// The interface of a kernel: its op, how a call is recorded, and every shader that it can use.

import type { Op } from "../../ops/op.js";
import type { CommandRecorder } from "./device/command-recorder.js";
import type { Call, Operand } from "./schedule/call.js";
import type { Shader } from "./shader.js";

/** Edges of subgroup matrices as "MxNxK", and the most squares of a tile per subgroup (kernels/matrices.ts). */
export interface SubgroupMatrix {
  readonly matrix: string;
  readonly squares: number;
}

/** Features of the device that kernels choose by. */
export interface Target {
  /** WGSL's dot4I8Packed. */
  readonly dot4: boolean;
  /** Subgroups, and WGSL's `subgroup_id`. */
  readonly subgroups: boolean;
  /** WGSL's 16-bit floats (`shader-f16`). */
  readonly f16: boolean;
  /** Subgroup matrices of f16 with sums in f32. */
  readonly matrix?: SubgroupMatrix | undefined;
  /** Subgroup matrices of i8 with sums in i32. */
  readonly matrix8?: SubgroupMatrix | undefined;
  /** Sums of a row must not depend on the number of rows. */
  readonly deterministic: boolean;
  /** Storage buffers that one shader may bind: 8 by default. */
  readonly storageBuffers: number;
}

/** The elements of an operand that belong to slices `begin` to `begin + count` of an axis. */
export interface Part {
  readonly operand: Operand;
  readonly dim: number;
  /** First element and number of elements along `dim`, if they are not the slices themselves. */
  readonly range?: (begin: number, count: number) => readonly [at: number, count: number];
}

/** An axis along which a call can be cut into independent calls. */
export interface Axis {
  /** Number of slices. */
  readonly size: number;
  /** Cuts must be at multiples of this. */
  readonly step?: number;
  /** The operands that are cut, by their place in the call; the others stay whole. */
  readonly parts: Readonly<Record<number, Part>>;
  /** Attributes of the call that begins at a slice; absent if they do not change. */
  readonly attributes?: (begin: number) => readonly number[];
}

export interface Kernel {
  readonly op: Op;
  /** Records the dispatches of a call. Returns a sentence if the call cannot be computed. */
  record(call: Call, recorder: CommandRecorder, target: Target): string | undefined;
  /**
   * Axes along which a call can be cut, for operands that are too large for a binding. Returns a sentence if the call
   * cannot be computed.
   */
  axes?(call: Call): readonly Axis[] | string;
  /**
   * Records several calls as one dispatch, if it can; otherwise it records nothing and returns false. The backend
   * guarantees that the calls are independent, that all operands fit, and that the calls share operand `shared` (by default
   * the first). `numbers` are the calls' numbers (failure-log.ts); `recorder.call` is the lowest.
   */
  join?(calls: readonly Call[], recorder: CommandRecorder, target: Target, numbers: readonly number[]): boolean;
  readonly shared?: number;
  /** All shaders that calls on such a device can use; a test compiles them. */
  shaders(target: Target): readonly Shader[];
}

/** Number of workgroups for `count` invocations. */
export function groupsFor(count: number, workgroup: number): number {
  return Math.ceil(count / workgroup);
}
