// Finds calls that read what others have just written, where one dispatch can do for both: a norm can quantize the rows
// that the products behind it want, keys are appended as they are turned. Which pairs of kernels fuse is a table
// (kernels/fusions.ts). As in horizontal-fusion.ts only the order of independent calls changes, and every result is written as before.

import type { Queue } from "../device/queue.js";
import type { Kernel, Target } from "../kernel.js";
import type { Shader } from "../shader.js";
import { AHEAD, fits, MOST, meet, ordered, type Pending, same, touched } from "./horizontal-fusion.js";

/** A pair of kernels. */
export interface Fusion {
  readonly first: Kernel;
  readonly next: Kernel;
  /**
   * Records `first`, one call or several that `first` joins, and all of some calls of `next` as one dispatch, if it can;
   * else records nothing and returns false, and is asked again with fewer. The backend has made sure that all operands
   * fit, that the calls of `next` could come directly behind those of `first`, that they are independent of each other
   * with one operand shared (Kernel.shared), and that the first of them reads something that one of `first` writes.
   * `queue.call` is the lowest number of all.
   */
  record(first: readonly Pending[], next: readonly Pending[], queue: Queue, target: Target): boolean;
  /** True if the dispatch only prepares something for calls of `next`, which are recorded when their turn comes. */
  readonly prepares?: boolean;
  /** All shaders that it can use on such a device, beside those of the two kernels. */
  shaders?(target: Target): readonly Shader[];
}

/**
 * The calls of `kernel` behind the group `first`, which begins at `calls[at]`, that could be recorded with it: one that
 * reads what the group writes, and those that share an operand with that one.
 */
export function followers(
  calls: readonly Pending[],
  at: number,
  first: readonly Pending[],
  kernel: Kernel,
  done: ReadonlySet<Pending>,
): Pending[] {
  const own = first.map(touched);
  const ahead = calls
    .slice(at + 1, at + 1 + AHEAD)
    .filter((next) => !done.has(next) && !first.includes(next))
    .map((pending) => ({ pending, ...touched(pending) }));
  const reader = ahead.find(
    ({ pending, reads }) => pending.kernel === kernel && own.some(({ writes }) => meet(writes, reads)),
  );
  if (!reader) return [];
  const { shared = 0 } = kernel;
  const operand = reader.pending.call.operands[shared]!;
  const found = ahead.filter(({ pending, reads, writes }, i) => {
    const { call } = pending;
    if (pending.kernel !== kernel || !same(call.operands[shared]!, operand) || !fits(pending)) return false;
    if (ahead.slice(0, i).some((other) => ordered(other, { reads, writes }))) return false;
    return own.every((one) => !meet(writes, one.reads) && !meet(writes, one.writes));
  });
  if (!found.includes(reader)) return [];
  const others = found.filter((one) => one !== reader);
  return [reader, ...others].slice(0, MOST).map(({ pending }) => pending);
}
