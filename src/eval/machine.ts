// Measured limits of this machine, for comparison with kernels and models.

import type { Device } from "../core/device.js";
import { Tensor } from "../core/tensor.js";
import { Op } from "../ops/op.js";
import { median } from "./speed.js";

export interface MachineLimits {
  /** GB/s of reading memory, all threads. */
  readonly read: number;
  /** GB/s of copying memory, both directions counted; 0 where it is not measured. */
  readonly copy: number;
  /** GFLOP/s of f32 multiply-adds on registers. */
  readonly f32: number;
  /** GOP/s of 8-bit dot products on registers. */
  readonly int8: number;
  /** GFLOP/s of bf16 dot products on registers, or 0 where there are none. */
  readonly bf16: number;
  /** GFLOP/s of f16 multiply-adds on registers, or 0 where there are none. */
  readonly f16: number;
}

/** Larger than any known cache, per thread. */
const READ_BYTES = 1 << 28;
/** A size that slow adapters read in acceptable time; fast ones use the full size. */
const FEW_BYTES = 1 << 24;
const PIECES = 64;
const ROUNDS = 100_000;
/** Enough workgroups to fill any GPU. */
const GPU_PIECES = 4096;
/** Target seconds of a measurement. */
const ENOUGH = 0.03;
/** Seconds above which one run is enough. */
const LONG = 1;

function unmeasured(): string {
  return "a probe has no reference";
}

const readProbe = new Op({ signature: "probe_read: x[N]:f32 -> y[1]:f32", reference: unmeasured });
const copyProbe = new Op({ signature: "probe_copy: x[N]:f32 y[N]:f32! ->", reference: unmeasured });
const unitProbe = (name: string): Op =>
  new Op({ signature: `${name}: y[2]:f32! ; pieces:i32 rounds:i32 ->`, reference: unmeasured });

async function seconds(runs: number, body: () => Promise<void>): Promise<number> {
  const times: number[] = [];
  for (let run = 0; run <= runs; run++) {
    const start = performance.now();
    await body();
    if (run > 0) times.push((performance.now() - start) / 1000);
  }
  return median(times);
}

/** Median seconds of one run of `record`. Several runs share one wait, so that the wait adds little. */
async function secondsOf(device: Device, runs: number, record: () => void): Promise<number> {
  const batch = async (count: number): Promise<void> => {
    for (let n = 0; n < count; n++) record();
    await device.synchronize();
  };
  await batch(1);
  const start = performance.now();
  await batch(1);
  const once = (performance.now() - start) / 1000;
  if (once > LONG) return once;
  const count = Math.max(1, Math.min(200, Math.ceil(ENOUGH / once)));
  return (await seconds(runs, () => batch(count))) / count;
}

/** Parts of a machine that do arithmetic, by the names of their limits. */
export type Unit = "f32" | "int8" | "bf16" | "f16";

/** GOP/s of a unit on registers, a multiply-add counting two; 0 where there is no probe. */
async function unitSpeed(device: Device, unit: Unit): Promise<number> {
  const probe = unitProbe(`probe_${unit}`);
  if (!device.supports(probe.name)) return 0;
  using result = Tensor.empty(device, [2], "f32", "probe");
  const host = isCpu(device);
  const pieces = host ? PIECES : GPU_PIECES;
  // The speed of the GPU is unknown, so the work grows until it takes long enough.
  let rounds = host ? ROUNDS : 16;
  let time = await secondsOf(device, 3, () => probe.run([result], [pieces, rounds]));
  while (!host && time < ENOUGH && rounds < ROUNDS) {
    rounds *= 4;
    time = await secondsOf(device, 3, () => probe.run([result], [pieces, rounds]));
  }
  const [, operations = 0] = await result.readFloats();
  return (operations * pieces * rounds) / time / 1e9;
}

/** Measures a device; takes a second or two. Devices without the probes give zeros. */
export async function measureMachine(device: Device): Promise<MachineLimits> {
  return {
    read: await readSpeed(device),
    copy: await copySpeed(device),
    f32: await unitSpeed(device, "f32"),
    int8: await unitSpeed(device, "int8"),
    bf16: await unitSpeed(device, "bf16"),
    f16: await unitSpeed(device, "f16"),
  };
}

/** What something took of a limit of its machine. */
export interface Share {
  /** The best measurement of the limit, in GB/s or GOP/s; 0 if there is none. */
  readonly most: number;
  /** The worst one: the speed of shared machines varies. */
  readonly least: number;
  /** The part of `most` that was reached, 0 without a limit; null if it was more than all of it. */
  readonly share: number | null;
  /** More than the limit was reached, and no cache explains it: the machine was busy while the limit was measured. */
  readonly noisy: boolean;
}

/** Bytes that a cache may hold from one run to the next: they are not all read from memory. */
export const CACHED = 64e6;

/** Measurements of a limit that was exceeded, before it is given up. */
const AGAIN = 3;

/**
 * Runs `body` and measures one limit just before and after, and again while it is less than what `reached` says was reached.
 * @param reached GB/s or GOP/s
 * @param cached that a cache may hold what was read, so that it can be faster than memory
 */
export async function beside<T>(
  device: Device,
  limit: "read" | Unit | undefined,
  body: () => Promise<T>,
  reached: (made: T) => { readonly speed: number; readonly cached?: boolean },
): Promise<{ made: T } & Share> {
  if (limit === undefined) return { made: await body(), ...shareOf(0, []) };
  const measure = (): Promise<number> => (limit === "read" ? readSpeed(device) : unitSpeed(device, limit));
  const limits = [await measure()];
  const made = await body();
  limits.push(await measure());
  const { speed, cached } = reached(made);
  for (let n = 0; n < AGAIN && shareOf(speed, limits, cached).noisy; n++) limits.push(await measure());
  return { made, ...shareOf(speed, limits, cached) };
}

/** A speed beside measurements of its limit. */
export function shareOf(speed: number, limits: readonly number[], cached = false): Share {
  const most = Math.max(0, ...limits);
  const above = most > 0 && speed > most;
  return {
    most,
    least: Math.min(most, ...limits),
    share: most === 0 ? 0 : above ? null : speed / most,
    noisy: above && !cached,
  };
}

/** A tensor with every page written: untouched pages all map to one page of zeros. */
function written(device: Device, bytes: number): Tensor {
  const big = Tensor.empty(device, [bytes / 4], "f32", "probe");
  const piece = new Uint8Array(FEW_BYTES).fill(1);
  for (let at = 0; at < bytes; at += piece.length) big.writeBytes(piece, at);
  return big;
}

/** A size that exceeds the caches, or less if it is slow to read, and the seconds of one pass of `record` over it. */
async function pass<T extends Disposable>(
  device: Device,
  make: (bytes: number) => T,
  record: (over: T) => void,
): Promise<{ bytes: number; time: number }> {
  const over = async (bytes: number): Promise<number> => {
    using made = make(bytes);
    return await secondsOf(device, 5, () => record(made));
  };
  if (!isCpu(device)) {
    const time = await over(FEW_BYTES);
    if (time > ENOUGH) return { bytes: FEW_BYTES, time };
  }
  return { bytes: READ_BYTES, time: await over(READ_BYTES) };
}

/** GB/s of reading memory, all threads: the median of five passes; 0 where there is no probe. */
async function readSpeed(device: Device): Promise<number> {
  if (!device.supports(readProbe.name)) return 0;
  const make = (bytes: number): Tensor => written(device, bytes);
  const { bytes, time } = await pass(device, make, (big) => readProbe.run([big], []).dispose());
  return bytes / time / 1e9;
}

/** GB/s of copying memory, read and written bytes both counted; 0 where there is no probe. */
async function copySpeed(device: Device): Promise<number> {
  if (!device.supports(copyProbe.name)) return 0;
  const make = (bytes: number) => {
    const from = written(device, bytes);
    const to = Tensor.empty(device, [bytes / 4], "f32", "probe");
    const dispose = (): void => {
      from.dispose();
      to.dispose();
    };
    return { from, to, [Symbol.dispose]: dispose };
  };
  const { bytes, time } = await pass(device, make, ({ from, to }) => copyProbe.run([from, to], []));
  return (2 * bytes) / time / 1e9;
}

/** True for "cpu" and for its logical devices. */
function isCpu(device: Device): boolean {
  return /^cpu\b/.test(device.name);
}
