// Finds calls that read what others have just written, where one dispatch can do for both: a norm can quantize the rows
// that the products behind it want, keys are appended as they are turned. Which pairs of kernels fuse is a table
// (kernels/fusions.ts). As in join.ts only the order of independent calls changes, and every result is written as before.

import { AHEAD, fits, MOST, meet, ordered, type Pending, same, touched } from "./join.js";
import type { Kernel, Target } from "./kernel.js";
import type { Queue } from "./queue.js";
import type { Shader } from "./shader.js";

/** A pair of kernels. */
export interface Fusion {
  readonly first: Kernel;
  readonly next: Kernel;
  /**
   * Records `first`, one call or several that `first` joins, and calls of `next` as one dispatch, if it can; else records
   * nothing and returns false. The backend has made sure that all operands fit, that the calls of `next` could come
   * directly behind those of `first`, that they are independent of each other with one operand shared (Kernel.shared), and
   * that the first of them reads something that one of `first` writes.
   */
  record(first: readonly Pending[], next: readonly Pending[], queue: Queue, target: Target): boolean;
  /** True if the dispatch only prepares something for calls of `next`, which are recorded when their turn comes. */
  readonly prepares?: boolean;
  /** All shaders that it can use on such a device, beside those of the two kernels. */
  shaders?(target: Target): readonly Shader[];
}

/** The calls of `kernel` behind the group `first`, which begins at `calls[at]`, that could be recorded with it. */
export function followers(
  calls: readonly Pending[],
  at: number,
  first: readonly Pending[],
  kernel: Kernel,
  done: ReadonlySet<Pending>,
): Pending[] {
  const { shared = 0 } = kernel;
  const own = first.map(touched);
  const found: Pending[] = [];
  const before: ReturnType<typeof touched>[] = [];
  for (let i = at + 1; i < Math.min(calls.length, at + 1 + AHEAD) && found.length < MOST; i++) {
    const next = calls[i]!;
    if (done.has(next) || first.includes(next)) continue;
    const reach = touched(next);
    const follows =
      next.kernel === kernel &&
      fits(next) &&
      !before.some((other) => ordered(other, reach)) &&
      own.every(({ reads, writes }) => !meet(reach.writes, reads) && !meet(reach.writes, writes));
    const alike = found[0]
      ? same(next.call.operands[shared]!, found[0].call.operands[shared]!)
      : own.some(({ writes }) => meet(writes, reach.reads));
    if (follows && alike) found.push(next);
    before.push(reach);
  }
  return found;
}
