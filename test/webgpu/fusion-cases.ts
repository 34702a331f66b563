// Cases of fusions.test.ts: shapes, devices, and the number of dispatches that each takes.

import type { WebGPUBackend } from "../../src/backends/webgpu/index.js";
import type { Device } from "../../src/core/device.js";
import { scope, Tensor } from "../../src/core/tensor.js";
import { denseScheme, type FloatDType, type Scheme } from "../../src/nn/weight.js";
import { kvAppend } from "../../src/ops/kv-append.js";
import { llmInt8Quantize } from "../../src/ops/llm-int8.js";
import { rope, ropeTable } from "../../src/ops/rope.js";
import { fourBitScheme } from "../../src/quant/four-bit.js";
import { llmInt8Scheme } from "../../src/quant/llm-int8.js";
import { flat } from "../support/devices.js";

/** Numbers from -1 to 1 that do not repeat soon. */
export function values(n: number, seed: number): Float32Array {
  return Float32Array.from({ length: n }, (_, i) => ((i * seed) % 199) / 99 - 1);
}

export function int8Weight(device: Device, n: number, K: number, threshold: number) {
  const codes = Tensor.empty(device, [n, K], "i8", "codes");
  const scb = Tensor.empty(device, [n], "f32", "scb");
  scope(() => llmInt8Quantize(Tensor.from(device, values(n * K, 31 + n), [n, K]), codes, scb, 0));
  return { codes, scb, seen: Tensor.from(device, new Uint8Array(K), [K]), threshold };
}

// Few rows and many, and rows that end inside a word of codes and of the bitmap; columns 3 and 41 hold outliers.
export const NORMS = [
  { op: "rms_norm", M: 1, K: 64, threshold: 6, dispatches: 2, apart: 4 },
  { op: "rms_norm", M: 3, K: 64, threshold: 0, dispatches: 2 },
  { op: "rms_norm", M: 12, K: 96, threshold: 6, dispatches: 4 },
  { op: "rms_norm", M: 2, K: 70, threshold: 6, dispatches: 4 },
  { op: "layer_norm", M: 2, K: 160, threshold: 6, dispatches: 2 },
  { op: "layer_norm without bias", M: 1, K: 70, threshold: 6, dispatches: 4 },
];

interface GateCase {
  readonly name: string;
  readonly scheme: Scheme;
  readonly M: number;
  readonly N: number;
  readonly limits: "adapter" | "default";
  /** With fusion; without it, three unless `apart` says otherwise. */
  readonly dispatches: number;
  readonly apart?: number;
}
const dense = (dtype: FloatDType) => ({ name: dtype, scheme: denseScheme(dtype) });
const nf4 = (double_quant: boolean) => ({
  name: double_quant ? "nf4 with double quantization" : "nf4",
  scheme: fourBitScheme({ kind: "nf4", blocksize: 64, double_quant, compute: "f32" }),
});

const int8 = (threshold: number) => ({ name: `int8, outliers from ${threshold}`, scheme: llmInt8Scheme(threshold) });

// Results that do not fill the last workgroup. In 8 bits, a dispatch quantizes the rows first; without fusion, products
// quantize a single row themselves. From nine rows of x on, products use tiles, which do not fuse.
export const GATES: readonly GateCase[] = [
  { ...dense("f32"), M: 1, N: 8, limits: "adapter", dispatches: 1 },
  { ...dense("bf16"), M: 3, N: 7, limits: "default", dispatches: 1 },
  { ...dense("f16"), M: 5, N: 1, limits: "adapter", dispatches: 1 },
  { ...nf4(false), M: 1, N: 7, limits: "default", dispatches: 1 },
  { ...nf4(false), M: 2, N: 6, limits: "adapter", dispatches: 1 },
  { ...nf4(true), M: 1, N: 6, limits: "adapter", dispatches: 3 },
  { ...dense("bf16"), M: 9, N: 8, limits: "adapter", dispatches: 3 },
  { ...int8(0.9), M: 1, N: 7, limits: "default", dispatches: 2 },
  { ...int8(0), M: 3, N: 6, limits: "adapter", dispatches: 2, apart: 5 },
];

// Two rows are quantized before the product; so is a row too long for the bitmap in a workgroup.
export const ROWS = [
  { K: 64, N: 5, threshold: 0.9, dispatches: 1 },
  { K: 2080, N: 6, threshold: 0.99, dispatches: 1 },
  { K: 176, N: 4, threshold: 0, dispatches: 1 },
  { K: 16400, N: 1, threshold: 0.99, dispatches: 2 },
  { K: 70, N: 3, threshold: 0.9, dispatches: 2 },
];

// A cache of codes needs a workgroup per row, and default limits allow fewer bindings: there, rotations are one dispatch
// and appends another. The places of the tokens are computed once, before them.
export const APPENDS = [
  { dtype: "f32", limits: "adapter", count: 2 },
  { dtype: "f16", limits: "adapter", count: 2 },
  { dtype: "bf16", limits: "adapter", count: 2 },
  { dtype: "bf16", limits: "default", count: 3 },
  { dtype: "i8", limits: "adapter", count: 3 },
  { dtype: "i8", limits: "default", count: 3 },
] as const;

/** Rotates queries and keys, and appends keys and values to fresh caches of `dtype`. */
export function rotationsAndAppends(own: WebGPUBackend, on: Device, dtype: (typeof APPENDS)[number]["dtype"]) {
  const positions = Tensor.from(on, Int32Array.of(3, 4, 9, 7), [2, 2]);
  const frequencies = flat(on, Float32Array.of(1, 0.1));
  const table = ropeTable(positions, frequencies, 1);
  const q = Tensor.from(on, values(4 * 4 * 6, 7), [2, 2, 4, 6]);
  const k = Tensor.from(on, values(4 * 2 * 8, 11), [2, 2, 2, 8]);
  const v = Tensor.from(on, values(4 * 2 * 8, 13), [2, 2, 2, 8]);
  const fresh = () => {
    const cache = Tensor.empty(on, [2, 2, 3, 8], dtype, "cache");
    const scales = dtype === "i8" ? Tensor.empty(on, [2, 2, 3], "f32", "scales") : undefined;
    cache.writeBytes(new Uint8Array(cache.nbytes));
    scales?.write(new Float32Array(12));
    return { cache, scales };
  };
  // Two rows of texts, in pages 1 and 0 of three tokens.
  const pages = Tensor.from(on, Int32Array.of(3, 1, 3, 0), [2, 2]);
  const append = async (lanes: Tensor, together: boolean): Promise<[number, Promise<Uint8Array>[]]> => {
    const [keys, places] = [fresh(), fresh()];
    const before = own.statistics.dispatches;
    const done = (): void => {
      if (!together) on.flush();
    };
    const turned = [rope(q, table)];
    done();
    turned.push(rope(k, table));
    done();
    const from = on.enter("first");
    kvAppend(turned[1]!, lanes, pages, keys.cache, keys.scales);
    done();
    on.enter("second");
    kvAppend(v, lanes, pages, places.cache, places.scales);
    on.enter(from);
    on.flush();
    const dispatches = own.statistics.dispatches - before;
    const written = [keys.cache, keys.scales, places.cache, places.scales].filter((tensor) => tensor !== undefined);
    const reads = [...turned, ...written].map((tensor) => tensor.readBytes());
    await Promise.allSettled(reads);
    for (const tensor of [...turned, ...written]) tensor.dispose();
    return [dispatches, reads];
  };
  const dispose = (): void => {
    for (const tensor of [positions, frequencies, table, q, k, v, pages]) tensor.dispose();
  };
  return { append, [Symbol.dispose]: dispose };
}
