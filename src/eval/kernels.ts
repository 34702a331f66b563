// Speed of single kernels on the shapes of a model, in GB/s of weights read or in GOP/s. Weights are random; each measurement
// runs over several copies, so that caches do not hold them.

import type { Device } from "../core/device.js";
import { scope, Tensor } from "../core/tensor.js";
import { type CacheDType, cacheBytesPerToken, KVCache, layerShapes } from "../nn/cache.js";
import { denseScheme, type Scheme, type Weight } from "../nn/weight.js";
import { attention } from "../ops/attention.js";
import { fourBitScheme } from "../quant/four-bit.js";
import { llmInt8Scheme } from "../quant/llm-int8.js";
import { o4Scheme } from "../quant/o4.js";
import { beside, CACHED, type Share, type Unit } from "./machine.js";
import { median } from "./speed.js";
import { limitOf } from "./units.js";

export interface KernelSpeed {
  readonly kernel: string;
  /** "1x2048x5632" and the like: rows, K, N. */
  readonly shape: string;
  readonly microseconds: number;
  /** GB/s of weights or keys and values. */
  readonly bandwidth: number;
  /** GOP/s, a multiply-add counting two. */
  readonly operations: number;
  /** Its limit: memory bandwidth for few rows, else a unit; null if that is not measured (units.ts). */
  readonly limit: "read" | Unit | null;
  /** The limit in GB/s or GOP/s, the best and the worst measurement; 0 if there is none. */
  readonly most: number;
  readonly least: number;
  /** Its own GB/s or GOP/s as a share of `most`; 0 without one, null where it is `noisy`: above it. */
  readonly share: Share["share"];
  readonly noisy: boolean;
}

export const KERNEL_SCHEMES: Readonly<Record<string, () => Scheme>> = {
  f32: () => denseScheme("f32"),
  f16: () => denseScheme("f16"),
  bf16: () => denseScheme("bf16"),
  "bf16 f32": () => denseScheme("bf16", true, "f32"),
  int8: () => llmInt8Scheme(6),
  nf4: () => fourBitScheme({ kind: "nf4", blocksize: 64, double_quant: false, compute: "f32" }),
  "nf4 dq": () => fourBitScheme({ kind: "nf4", blocksize: 64, double_quant: true, compute: "f32" }),
  "nf4 bf16": () => fourBitScheme({ kind: "nf4", blocksize: 64, double_quant: false, compute: "bf16" }),
  "nf4 int8": () => fourBitScheme({ kind: "nf4", blocksize: 64, double_quant: false, compute: "int8" }),
  o4: () => o4Scheme("f32"),
  "o4 int8": () => o4Scheme("int8"),
};

let pool = new Float32Array(0);

/** A cheap sequence with the spread of real weights; the values do not affect the time of a kernel. */
export function values(count: number): Float32Array {
  if (pool.length < count) {
    pool = new Float32Array(count);
    for (let i = 0; i < count; i++) pool[i] = (((i * 40503) >>> 4) % 2001) / 50000 - 0.02;
  }
  return pool.subarray(0, count);
}

export function makeWeight(device: Device, scheme: Scheme, outputs: number, inputs: number): Weight {
  const builder = scheme.begin(device, [outputs, inputs], "bench");
  const step = Math.ceil(Math.min(outputs, (1 << 20) / inputs) / builder.granularity) * builder.granularity;
  using piece = Tensor.from(device, values(step * inputs), [step, inputs]); // all pieces are equal
  for (let at = 0; at < outputs; at += step) {
    const rows = piece.narrow(0, 0, Math.min(step, outputs - at));
    builder.put(rows, at);
    rows.dispose();
  }
  return builder.finish();
}

/** Times one product of `rows` rows with a matrix; enough copies of the matrix to exceed `past` bytes. */
export async function linearSpeed(
  device: Device,
  name: string,
  rows: number,
  inputs: number,
  outputs: number,
  past = 1 << 28,
): Promise<KernelSpeed> {
  const scheme = KERNEL_SCHEMES[name]!();
  const copies = Math.max(1, Math.min(64, Math.ceil(past / scheme.bytes([outputs, inputs]))));
  const weights = Array.from({ length: copies }, () => makeWeight(device, scheme, outputs, inputs));
  const x = Tensor.from(
    device,
    values(rows * inputs).map((v) => v * 50),
    [rows, inputs],
  ).keep();
  const calls = rows === 1 ? Math.max(copies, 20) : 2;
  const what = { kernel: name, shape: `${rows}x${inputs}x${outputs}`, limit: limitOf(device, name, rows) };
  const { nbytes: bytes } = weights[0]!;
  const work = { bytes, all: bytes * copies, operations: 2 * rows * inputs * outputs };
  const found = await speed(device, what, work, () =>
    timed(device, calls, (n) => weights[n % copies]!.linear(x).dispose()),
  );
  for (const weight of weights) weight.dispose();
  x.dispose();
  return found;
}

/** Times attention of `steps` new tokens after `context` cached ones. */
export async function attentionSpeed(
  device: Device,
  shape: {
    batch: number;
    steps: number;
    context: number;
    heads: number;
    groups: number;
    head_dim: number;
    dtype: CacheDType;
  },
): Promise<KernelSpeed> {
  const { batch, steps, context, heads, groups, head_dim, dtype } = shape;
  const keys = context + steps;
  const lanesFrom = (first: number, count: number): Int32Array =>
    Int32Array.from({ length: 2 * batch * count }, (_, i) =>
      i < batch * count ? Math.floor(i / count) : first + (i % count),
    );
  const last = Tensor.from(device, lanesFrom(context, steps), [2, batch, steps]).keep();
  const q = Tensor.from(device, values(batch * steps * heads * head_dim), [batch, steps, heads, head_dim]).keep();
  const bytes = batch * keys * cacheBytesPerToken({ layers: 1, groups, head_dim }, dtype);
  const copies = Math.max(1, Math.min(32, Math.ceil((1 << 27) / bytes)));
  const cache = new KVCache(device, {
    layers: layerShapes({ layers: copies, groups, head_dim }),
    rows: batch,
    capacity: keys,
    dtype,
  });
  cache.extend(new Array<number>(batch).fill(keys));
  const filled = scope(() => {
    const rows = Tensor.from(device, values(batch * keys * groups * head_dim), [batch, keys, groups, head_dim]);
    const all = Tensor.from(device, lanesFrom(0, keys), [2, batch, keys]);
    return Array.from({ length: copies }, (_, layer) => cache.append(layer, rows, rows, all));
  });
  const name = `attention ${dtype}`;
  const visible = steps * context + (steps * (steps + 1)) / 2;
  const work = { bytes, all: bytes * copies, operations: 4 * batch * heads * head_dim * visible };
  const what = { kernel: name, shape: `${batch}x${steps}+${context}`, limit: limitOf(device, name, steps) };
  const compute = dtype === "bf16" ? "bf16" : "f32";
  const found = await speed(device, what, work, () =>
    timed(device, steps === 1 ? Math.max(copies, 20) : 2, (n) => {
      const { k, v, scales, table } = filled[n % copies]!;
      attention(q, k, v, { scales, lanes: last, table, scale: head_dim ** -0.5, compute }).dispose();
    }),
  );
  for (const owned of [last, q, cache]) owned.dispose();
  return found;
}

/** Times a kernel beside its limit; `time` gives the microseconds of a call. `all` are the bytes of all copies. */
async function speed(
  device: Device,
  { kernel, shape, limit = null }: { kernel: string; shape: string; limit: KernelSpeed["limit"] | undefined },
  work: { readonly bytes: number; readonly all: number; readonly operations: number },
  time: () => Promise<number>,
): Promise<KernelSpeed> {
  const of = (count: number, microseconds: number): number => count / microseconds / 1e3;
  const counted = limit === "read" ? work.bytes : work.operations;
  const cached = limit === "read" && work.all < CACHED;
  const { made, ...share } = await beside(device, limit ?? undefined, time, (us) => ({
    speed: of(counted, us),
    cached,
  }));
  const [bandwidth, operations] = [of(work.bytes, made), of(work.operations, made)];
  return { kernel, shape, microseconds: made, bandwidth, operations, limit, ...share };
}

/** Microseconds above which a single call is long enough to time. */
const SLOW = 100_000;

/**
 * Microseconds of one call: the median of five rounds of `calls` calls, after a warm-up round. Slow calls run only twice.
 */
async function timed(device: Device, calls: number, record: (n: number) => void): Promise<number> {
  const round = async (count: number): Promise<number> => {
    await device.synchronize();
    const start = performance.now();
    for (let n = 0; n < count; n++) record(n);
    await device.synchronize();
    return ((performance.now() - start) * 1000) / count;
  };
  if ((await round(1)) > SLOW) return round(1);
  await round(calls);
  const rounds: number[] = [];
  for (let n = 0; n < 5; n++) rounds.push(await round(calls));
  return median(rounds);
}
