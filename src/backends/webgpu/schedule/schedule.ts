// Records the calls of one submission in as few dispatches as possible: independent calls are joined
// (horizontal-fusion.ts), and calls that read their results are fused with them (fusion.ts).

import type { CommandRecorder } from "../device/command-recorder.js";
import type { Target } from "../kernel.js";
import { FUSIONS } from "../kernels/fusions.js";
import { type Fusion, followers } from "./fusion.js";
import { fits, type Pending, partners } from "./horizontal-fusion.js";

/** Records `calls[at]` with later calls and marks those as `done`; false, with nothing recorded, if it runs alone. */
export function recordTogether(
  calls: readonly Pending[],
  at: number,
  done: Set<Pending>,
  recorder: CommandRecorder,
  target: Target,
): boolean {
  const first = calls[at]!;
  const { kernel } = first;
  const fusions = FUSIONS.filter((fusion) => fusion.first === kernel);
  if ((!kernel.join && fusions.length === 0) || !fits(first)) return false;
  const others = kernel.join ? partners(calls, at, done) : [];
  for (; ; others.pop()) {
    const group = [first, ...others];
    const behind = recordFused(calls, at, group, fusions, done, recorder, target);
    if (behind || (others.length > 0 && recordJoined(group, recorder, target))) {
      for (const one of [...others, ...(behind ?? [])]) done.add(one);
      return true;
    }
    if (others.length === 0) return false;
  }
}

/** Records a group with calls that read its results; returns those that were completed, or undefined if none fuses. */
function recordFused(
  calls: readonly Pending[],
  at: number,
  group: readonly Pending[],
  fusions: readonly Fusion[],
  done: ReadonlySet<Pending>,
  recorder: CommandRecorder,
  target: Target,
): readonly Pending[] | undefined {
  for (const fusion of fusions) {
    const behind = followers(calls, at, group, fusion.next, done);
    for (; behind.length > 0; behind.pop()) {
      recorder.begin((fusion.prepares ? group : [...group, ...behind]).map(({ number }) => number));
      if (fusion.record(group, behind, recorder, target)) return fusion.prepares ? [] : behind;
    }
  }
  return undefined;
}

function recordJoined(group: readonly Pending[], recorder: CommandRecorder, target: Target): boolean {
  const calls = group.map(({ call }) => call);
  const numbers = group.map(({ number }) => number);
  recorder.begin(numbers);
  return group[0]!.kernel.join!(calls, recorder, target, numbers);
}
