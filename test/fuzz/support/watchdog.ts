// Finds a mutant that never ends. A loop that does not yield cannot be stopped from within its thread, so another thread looks
// whether the mutant's number still changes; if not, it says which one it is and ends the process.

import { Worker } from "node:worker_threads";

/** A mutant that takes longer than this hangs: the slowest one that ends takes a hundredth of it. */
const LIMIT_MS = 30_000;

const WATCH = `
  const { workerData: { state, format, seed, limit } } = require("node:worker_threads");
  const { writeSync } = require("node:fs");
  let last = -1;
  while (Atomics.wait(state, 1, 0, limit) === "timed-out") {
    const now = Atomics.load(state, 0);
    if (now === last) {
      writeSync(2, "\\nfuzz " + format + ": mutant " + now + " of seed " + seed + " hangs; FUZZ_SEED=" + seed + " FUZZ_MUTANT=" + now + " repeats it\\n");
      process.kill(process.pid, "SIGKILL");
    }
    last = now;
  }
`;

export interface Watchdog {
  /** Called before each mutant. */
  at(number: number): void;
  stop(): Promise<void>;
}

export function watch(format: string, seed: number): Watchdog {
  const state = new Int32Array(new SharedArrayBuffer(8));
  const worker = new Worker(WATCH, { eval: true, workerData: { state, format, seed, limit: LIMIT_MS } });
  return {
    at: (number) => Atomics.store(state, 0, number),
    async stop() {
      Atomics.store(state, 1, 1);
      Atomics.notify(state, 1);
      await worker.terminate();
    },
  };
}
