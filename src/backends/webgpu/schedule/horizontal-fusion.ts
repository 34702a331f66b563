// Horizontal fusion: independent calls in one dispatch. The projections of a layer share their input; queries and keys are
// rotated together, keys and values appended together. Each dispatch costs microseconds of GPU time, and decode consists of
// small ones. Only the order of independent calls changes; every result is still written. fusion.ts fuses dependent calls.

import type { Kernel } from "../kernel.js";
import type { Call, Operand } from "./call.js";

/** A call that is not recorded yet. */
export interface Pending {
  readonly kernel: Kernel;
  readonly call: Call;
  /** Its number (failure-log.ts). */
  readonly number: number;
}

/** Calls after one that are considered for fusion. */
export const AHEAD = 8;
export const MOST = 3;

/** Blocks that a call reads and blocks that it writes; operands changed in place count as written. */
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
 * Orders calls by the length of the longest chain of calls that they depend on. Independent calls then stand together, and
 * a submission has as few steps as possible.
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
 * The calls after `calls[at]`, whose operands fit, that could be recorded with it, in their order. Skips calls that are
 * `done`.
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
