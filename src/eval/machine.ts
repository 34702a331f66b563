// What this machine can do at most, measured: the lines that kernels and models are drawn beside.

import type { Device } from "../core/device.js";
import { Tensor } from "../core/tensor.js";
import { Op } from "../ops/op.js";
import { median } from "./speed.js";

export interface MachineLimits {
  /** GB/s of reading memory, all threads. */
  readonly read: number;
  /** GFLOP/s of f32 multiply-adds on registers. */
  readonly f32: number;
  /** GOP/s of 8-bit dot products on registers. */
  readonly int8: number;
  /** GFLOP/s of bf16 dot products on registers, or 0 where there are none. */
  readonly bf16: number;
}

/** Larger than any cache that we know, per thread. */
const READ_BYTES = 1 << 28;
const PIECES = 64;
const ROUNDS = 100_000;

function unmeasured(): string {
  return "a probe has no reference";
}

const readProbe = new Op({ signature: "probe_read: x[N]:f32 -> y[1]:f32", reference: unmeasured });
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

/** Measures a native device; takes about a second. Devices without the probes give zeros. */
export async function measureMachine(device: Device): Promise<MachineLimits> {
  const unit = async (name: string): Promise<number> => {
    if (!device.supports(name)) return 0;
    const probe = unitProbe(name);
    using result = Tensor.empty(device, [2], "f32", "probe");
    const time = await seconds(3, async () => {
      probe.run([result], [PIECES, ROUNDS]);
      await result.read();
    });
    const [, operations = 0] = await result.readFloats();
    return (operations * PIECES * ROUNDS) / time / 1e9;
  };
  return {
    read: await readSpeed(device),
    f32: await unit("probe_f32"),
    int8: await unit("probe_int8"),
    bf16: await unit("probe_bf16"),
  };
}

/** GB/s of reading memory, all threads: the median of five passes; 0 where there is no probe. */
export async function readSpeed(device: Device): Promise<number> {
  if (!device.supports(readProbe.name)) return 0;
  using big = Tensor.empty(device, [READ_BYTES / 4], "f32", "probe");
  // Every page must be written: untouched ones are all the same page of zeros, which sits in the caches.
  const piece = new Uint8Array(1 << 24).fill(1);
  for (let at = 0; at < READ_BYTES; at += piece.length) big.writeBytes(piece, at);
  const time = await seconds(5, async () => {
    const sum = readProbe.run([big], []);
    await sum.read();
    sum.dispose();
  });
  return READ_BYTES / time / 1e9;
}
