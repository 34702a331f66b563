// Vertical fusion: a call and the calls that read its result, in one dispatch. A norm quantizes the rows for the products
// after it; keys are appended as they are rotated. The table of kernel pairs is kernels/fusions.ts. As in
// horizontal-fusion.ts only the order of independent calls changes; every result is still written.

import type { CommandRecorder } from "../device/command-recorder.js";
import type { Kernel, Target } from "../kernel.js";
import type { Shader } from "../shader.js";
import { AHEAD, fits, MOST, meet, ordered, type Pending, same, touched } from "./horizontal-fusion.js";

/** A pair of kernels. */
export interface Fusion {
  readonly first: Kernel;
  readonly next: Kernel;
  /**
   * Records the calls of `first` and of `next` as one dispatch, if it can. Otherwise it records nothing and returns false;
   * the backend then tries with fewer calls. The backend guarantees that all operands fit, that the calls of `next` may run
   * directly after those of `first`, that they are independent and share one operand (Kernel.shared), and that the first of
   * them reads a result of `first`. `recorder.call` is the lowest number of all.
   */
  record(first: readonly Pending[], next: readonly Pending[], recorder: CommandRecorder, target: Target): boolean;
  /** True if the dispatch only prepares input for the calls of `next`, which are recorded later. */
  readonly prepares?: boolean;
  /** All shaders that it can use on such a device, besides those of the two kernels. */
  shaders?(target: Target): readonly Shader[];
}

/**
 * The calls of `kernel` after the group `first`, which begins at `calls[at]`, that could be recorded with it: one that
 * reads a result of the group, and those that share an operand with that one.
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
