// What the machine can do at all: bytes per second that `threads` threads read from memory. Run as a worker, this file
// is one of the threads. The loop is WebAssembly, written out below: plain JavaScript loads too few bytes per cycle to
// reach what a core can read.

import { fileURLToPath } from "node:url";
import { isMainThread, parentPort, Worker, workerData } from "node:worker_threads";

/** Bytes per thread, far beyond any cache. */
const BYTES = 256 << 20;
const PASSES = 12;

/**
 * A module with a memory and `sum(from, to)`, which reads 128 bytes per turn into eight sums.
 * @returns {Uint8Array}
 */
function assemble() {
  const PAGES = BYTES >> 16;
  const leb = (value) => {
    const bytes = [];
    for (; value > 127; value >>>= 7) bytes.push((value & 127) | 128);
    return [...bytes, value];
  };
  const section = (id, body) => [id, ...leb(body.length), ...body];
  const text = (name) => [name.length, ...Buffer.from(name)];
  const [I32, V128, get, set, tee] = [0x7f, 0x7b, 0x20, 0x21, 0x22];
  const simd = (op) => [0xfd, ...leb(op)];
  const accumulators = [2, 3, 4, 5, 6, 7, 8, 9];
  const add = simd(0xce); // i64x2.add
  const loop = accumulators.flatMap((a, i) => [get, a, get, 0, ...simd(0), 4, ...leb(i * 16), ...add, set, a]);
  // from += 128; again while from < to
  const again = [get, 0, 0x41, ...[0x80, 0x01], 0x6a, tee, 0, get, 1, 0x49, 0x0d, 0];
  const all = accumulators.slice(1).flatMap((a) => [get, a, ...add]);
  const code = [1, 8, V128, 0x03, 0x40, ...loop, ...again, 0x0b, get, 2, ...all, ...simd(0x1b), 0, 0x0b]; // i32x4 lane 0
  return Uint8Array.from([
    ...[0, 0x61, 0x73, 0x6d, 1, 0, 0, 0],
    ...section(1, [1, 0x60, 2, I32, I32, 1, I32]),
    ...section(3, [1, 0]),
    ...section(5, [1, 0, ...leb(PAGES)]),
    ...section(7, [2, ...text("memory"), 2, 0, ...text("sum"), 0, 0]),
    ...section(10, [1, ...leb(code.length), ...code]),
  ]);
}

if (!isMainThread && workerData?.limits) {
  const { memory, sum } = new WebAssembly.Instance(new WebAssembly.Module(assemble())).exports;
  new Uint8Array(memory.buffer).fill(1);
  const warm = 1 << 16;
  for (let i = 0; i < 20000; i++) sum(0, warm); // by now the optimizing compiler has had it
  // Each 32-bit lane has had BYTES / 16 words of 0x01010101.
  const expected = Math.imul(BYTES / 16, 0x01010101) | 0;
  parentPort.postMessage("ready");
  parentPort.on("message", () => {
    if (sum(0, BYTES) !== expected) throw new Error("the sum of memory is wrong");
    parentPort.postMessage("done");
  });
}

/**
 * Measures the read bandwidth; the best pass counts, as it is a limit that is looked for.
 * @param {number} threads @param {(text: string) => void} say
 */
export async function machineLimits(threads, say) {
  const next = (worker) =>
    new Promise((accept, reject) => {
      worker.removeAllListeners();
      worker.once("message", accept);
      worker.once("error", reject);
    });
  const workers = Array.from(
    { length: threads },
    () => new Worker(fileURLToPath(import.meta.url), { workerData: { limits: true } }),
  );
  try {
    await Promise.all(workers.map(next));
    let best = 0;
    for (let pass = 0; pass < PASSES; pass++) {
      const start = performance.now();
      const done = Promise.all(workers.map(next));
      for (const worker of workers) worker.postMessage("go");
      await done;
      best = Math.max(best, (BYTES * threads) / (performance.now() - start) / 1e6);
    }
    say(`memory reads with ${threads} threads: ${best.toFixed(1)} GB/s`);
    return { text: `memory reads ${best.toFixed(1)} GB/s`, values: { read_gb_per_s: best } };
  } finally {
    await Promise.all(workers.map((worker) => worker.terminate()));
  }
}
