// Records calls of one submission as fewer dispatches than there are calls: independent ones that join (horizontal-fusion.ts), and
// those that read what they write (fusion.ts), as many as go together.

import type { Queue } from "../device/queue.js";
import type { Target } from "../kernel.js";
import { FUSIONS } from "../kernels/fusions.js";
import { type Fusion, followers } from "./fusion.js";
import { fits, type Pending, partners } from "./horizontal-fusion.js";

/** Records `calls[at]` with later ones, which are then `done`; false if it goes alone, and nothing is recorded. */
export function recordTogether(
  calls: readonly Pending[],
  at: number,
  done: Set<Pending>,
  queue: Queue,
  target: Target,
): boolean {
  const first = calls[at]!;
  const { kernel } = first;
  const fusions = FUSIONS.filter((fusion) => fusion.first === kernel);
  if ((!kernel.join && fusions.length === 0) || !fits(first)) return false;
  const others = kernel.join ? partners(calls, at, done) : [];
  for (; ; others.pop()) {
    const group = [first, ...others];
    const behind = recordFused(calls, at, group, fusions, done, queue, target);
    if (behind || (others.length > 0 && recordJoined(group, queue, target))) {
      for (const one of [...others, ...(behind ?? [])]) done.add(one);
      return true;
    }
    if (others.length === 0) return false;
  }
}

/** Records a group with calls that read what it writes; gives those that are done by that, or undefined. */
function recordFused(
  calls: readonly Pending[],
  at: number,
  group: readonly Pending[],
  fusions: readonly Fusion[],
  done: ReadonlySet<Pending>,
  queue: Queue,
  target: Target,
): readonly Pending[] | undefined {
  for (const fusion of fusions) {
    const behind = followers(calls, at, group, fusion.next, done);
    for (; behind.length > 0; behind.pop()) {
      queue.begin((fusion.prepares ? group : [...group, ...behind]).map(({ number }) => number));
      if (fusion.record(group, behind, queue, target)) return fusion.prepares ? [] : behind;
    }
  }
  return undefined;
}

function recordJoined(group: readonly Pending[], queue: Queue, target: Target): boolean {
  const calls = group.map(({ call }) => call);
  const numbers = group.map(({ number }) => number);
  queue.begin(numbers);
  return group[0]!.kernel.join!(calls, queue, target, numbers);
}
