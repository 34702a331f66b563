// What a kernel is: the op it runs, how a call of it is recorded, and every shader that it can ask for.

import type { Op } from "../../ops/op.js";
import type { CommandRecorder } from "./device/command-recorder.js";
import type { Call, Operand } from "./schedule/call.js";
import type { Shader } from "./shader.js";

/** Edges of subgroup matrices as "MxNxK", and how many squares of a tile a subgroup may get (kernels/matrices.ts). */
export interface SubgroupMatrix {
  readonly matrix: string;
  readonly squares: number;
}

/** Features of the device that kernels choose by. */
export interface Target {
  /** WGSL's dot4I8Packed. */
  readonly dot4: boolean;
  /** Subgroups, and WGSL's number of the subgroup. */
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
  /** First element and number of elements along `dim`, where they are not the slices themselves. */
  readonly range?: (begin: number, count: number) => readonly [at: number, count: number];
}

/** A direction along which a call falls into independent calls. */
export interface Axis {
  /** Slices in all. */
  readonly size: number;
  /** Cuts are at multiples of this. */
  readonly step?: number;
  /** The operands that are cut, by their place in the call; the others stay whole. */
  readonly parts: Readonly<Record<number, Part>>;
  /** Attributes of the call that begins at a slice, if they change. */
  readonly attributes?: (begin: number) => readonly number[];
}

export interface Kernel {
  readonly op: Op;
  /** Records the dispatches of a call. Returns a sentence if the call cannot be computed. */
  record(call: Call, recorder: CommandRecorder, target: Target): string | undefined;
  /**
   * Directions along which a call falls into independent ones, for operands that are too large for a binding. Returns a
   * sentence if the call cannot be computed.
   */
  axes?(call: Call): readonly Axis[] | string;
  /**
   * Records several calls as one dispatch, if it can; else records nothing and returns false. The backend has made sure
   * that they may run at the same time, that all operands fit and that one operand of all is the same: the one in place
   * `shared`, the first unless it is given. `numbers` are those of the calls (failure-log.ts), `recorder.call` the lowest.
   */
  join?(calls: readonly Call[], recorder: CommandRecorder, target: Target, numbers: readonly number[]): boolean;
  readonly shared?: number;
  /** All shaders that calls on such a device can use, for the test that compiles them. */
  shaders(target: Target): readonly Shader[];
}

/** Number of workgroups for `count` invocations. */
export function groupsFor(count: number, workgroup: number): number {
  return Math.ceil(count / workgroup);
}
