// Finds calls that may run at the same time, for kernels that record several as one dispatch: the projections of a layer
// that share their input, the rotations of queries and keys, the appends of keys and values. A dispatch costs a GPU
// microseconds whatever it does, and decode is made of small ones. Only the order of independent calls changes; every
// result is written as before. What reads the results of others is fusion.ts's affair.

import type { Kernel } from "../kernel.js";
import type { Call, Operand } from "./call.js";

/** A call that waits to be recorded. */
export interface Pending {
  readonly kernel: Kernel;
  readonly call: Call;
  /** Its number (failure-log.ts). */
  readonly number: number;
}

/** Calls that are looked at behind one. */
export const AHEAD = 8;
export const MOST = 3;

/** Blocks that a call reads and writes; what it changes in place is among the latter. */
export interface Touched {
  readonly reads: ReadonlySet<unknown>;
  readonly writes: ReadonlySet<unknown>;
}

export function touched({ kernel, call }: Pending): Touched {
  const { inputs } = kernel.op.signature;
  const reads = new Set<unknown>();
  const writes = new Set<unknown>();
  call.operands.forEach((operand, i) => {
    if (!operand) return;
    if (i >= inputs.length || inputs[i]!.mutated) writes.add(operand.block);
    else reads.add(operand.block);
  });
  return { reads, writes };
}

/** True if a block is in both. */
export function meet(a: ReadonlySet<unknown>, b: ReadonlySet<unknown>): boolean {
  for (const block of a) if (b.has(block)) return true;
  return false;
}

/** True if one of the two must come before the other. */
export function ordered(a: Touched, b: Touched): boolean {
  return meet(a.writes, b.writes) || meet(a.writes, b.reads) || meet(a.reads, b.writes);
}

/**
 * Calls in an order in which those that wait for equally many others stand together, the ones that wait for the least
 * first: a submission is then as few steps as may be, and what is independent can go together.
 */
export function byDepth(calls: readonly Pending[]): Pending[] {
  const read = new Map<unknown, number>();
  const written = new Map<unknown, number>();
  const depths = calls.map((pending) => {
    const { reads, writes } = touched(pending);
    let depth = 0;
    for (const block of reads) depth = Math.max(depth, 1 + (written.get(block) ?? -1));
    for (const block of writes) depth = Math.max(depth, 1 + (written.get(block) ?? -1), 1 + (read.get(block) ?? -1));
    for (const block of reads) read.set(block, Math.max(depth, read.get(block) ?? 0));
    for (const block of writes) written.set(block, depth);
    return depth;
  });
  return calls
    .map((pending, at) => ({ pending, depth: depths[at]! }))
    .sort((a, b) => a.depth - b.depth)
    .map(({ pending }) => pending);
}

/** True if two operands are the same bytes, in rows of one length. */
export function same(a: Operand, b: Operand): boolean {
  return a.block === b.block && a.byte === b.byte && a.count === b.count && a.shape.at(-1) === b.shape.at(-1);
}

/** True if every operand of a call fits a binding. */
export function fits({ call }: Pending): boolean {
  return call.operands.every((operand) => !operand || operand.fits);
}

/**
 * The calls behind `calls[at]`, whose operands fit, that could be recorded with it, in their order; those that are `done`
 * are passed over.
 */
export function partners(calls: readonly Pending[], at: number, done: ReadonlySet<Pending>): Pending[] {
  const first = calls[at]!;
  const { shared = 0 } = first.kernel;
  const one = first.call.operands[shared]!;
  const found: Pending[] = [];
  const before = [touched(first)];
  for (let i = at + 1; i < Math.min(calls.length, at + 1 + AHEAD) && found.length + 1 < MOST; i++) {
    const next = calls[i]!;
    if (done.has(next)) continue;
    const own = touched(next);
    const alike = next.kernel === first.kernel && fits(next) && same(next.call.operands[shared]!, one);
    if (alike && !before.some((other) => ordered(other, own))) found.push(next);
    before.push(own);
  }
  return found;
}
