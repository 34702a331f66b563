// How late the turns of this thread's event loop come, and whose fault that is.

import { readFileSync } from "node:fs";

/** Linux counts for each thread the nanoseconds that it was ready to run and another had the processor. */
const SCHEDSTAT = "/proc/thread-self/schedstat";

function waited(): number {
  try {
    return Number(readFileSync(SCHEDSTAT, "latin1").split(" ")[1]) / 1e6;
  } catch {
    return 0; // not Linux: waiting counts as being late
  }
}

/**
 * The 99th percentile of the time between two turns of the event loop during `work`, in ms. What this thread waited for
 * a processor is taken off: that is the machine's and its other programs' doing. `work` is repeated until there are
 * `turns` of them, so that one turn of a short work does not decide.
 */
export async function turnsDuring(work: () => Promise<void>, turns = 300): Promise<number> {
  const late: number[] = [];
  let last = performance.now();
  let before = waited();
  const tick = (): void => {
    const now = performance.now();
    const off = waited();
    late.push(now - last - (off - before));
    last = now;
    before = off;
  };
  const timer = setInterval(tick, 2);
  try {
    do {
      await work();
    } while (late.length < turns);
    // A stretch that ended with the work counts too.
    await new Promise((resolve) => setTimeout(resolve, 5));
  } finally {
    clearInterval(timer);
  }
  late.sort((a, b) => a - b);
  return late[Math.ceil(late.length * 0.99) - 1] as number;
}
