// Attention layers in the shapes of models: fused ("flash") beside eager attention, which holds its weights, forward and with gradients;
// and what padding costs a prefill. Weights are random.

import type { Device } from "../core/device.js";
import { OutOfMemoryError } from "../core/errors.js";
import { scope, Tensor } from "../core/tensor.js";
import { GREEDY } from "../generate/config.js";
import { type Batch, promptsOf } from "../generate/inputs.js";
import { DecodeSession } from "../generate/session.js";
import type { CausalLM } from "../nn/decoder.js";
import { scaled_dot_product_attention } from "../nn/sdpa.js";
import { SDPBackend, sdpa_kernel } from "../nn/sdpa-kernel.js";
import type { Weight } from "../nn/weight.js";
import { contiguous } from "../ops/copy.js";
import { rope, ropeTable } from "../ops/rope.js";
import { KERNEL_SCHEMES, makeWeight, values } from "./kernels.js";
import { median } from "./speed.js";

/** Sizes of an attention layer. */
export interface LayerSizes {
  readonly hidden: number;
  readonly heads: number;
  /** Heads of keys and values. */
  readonly groups: number;
  readonly head_dim: number;
}

/** The models whose layers the documentation of BetterTransformer draws. */
export const ATTENTION_LAYERS: Readonly<Record<string, LayerSizes>> = {
  "Falcon-7b": { hidden: 4544, heads: 71, groups: 1, head_dim: 64 },
  "Llama-7b": { hidden: 4096, heads: 32, groups: 32, head_dim: 128 },
};

const KERNELS = {
  flash: [SDPBackend.FLASH_ATTENTION],
  eager: [SDPBackend.MATH],
} as const;
export type AttentionKernel = keyof typeof KERNELS;

/** One measurement of a layer. */
export interface LayerCost {
  readonly ms: number;
  /** The most bytes that the device held beside weights, input and the gradient of the output. */
  readonly bytes: number;
}

/** Why there is none. */
export interface NotMeasured {
  readonly skipped: "memory" | "time";
  /** The bytes that it would need at least, or the milliseconds that it would take. */
  readonly expected: number;
}

export interface LayerPoint {
  readonly layer: string;
  readonly sizes: LayerSizes;
  readonly tokens: number;
  readonly batch: number;
  readonly training: boolean;
}

/** A layer by both kernels. */
export interface LayerSpeed extends LayerPoint {
  readonly flash: LayerCost | NotMeasured;
  readonly eager: LayerCost | NotMeasured;
}

/** Milliseconds beyond which a layer is not measured. */
const TOO_LONG = 120_000;
/** Milliseconds from which one run is enough: in shorter ones new memory, which the system clears, counts. */
const LONG = 10_000;

/** Bytes that a layer holds at least: weights, input, projections, heads and result, and with gradients those of all of them. */
function leastBytes({ sizes, tokens, batch, training }: LayerPoint, kernel: AttentionKernel): number {
  const { hidden, heads, groups, head_dim } = sizes;
  const projected = (heads + 2 * groups) * head_dim;
  const weights = hidden * (projected + heads * head_dim);
  const rows = 4 * batch * tokens * (2 * hidden + 2 * projected);
  const matrix = 4 * tokens * tokens;
  // Of one head the causal order, the scores, the weights and what a step makes of them; with gradients the weights of all heads.
  const held = kernel === "eager" ? 4 * matrix + (training ? batch * heads * matrix : 0) : 0;
  return 2 * weights + rows + (training ? 4 * weights + rows : 0) + held;
}

/** Milliseconds that a layer will take at least, by what was measured of it before; 0 if nothing was. */
function expectedTime(point: LayerPoint, kernel: AttentionKernel, earlier: readonly LayerSpeed[]): number {
  const same = earlier.filter(({ layer, training }) => layer === point.layer && training === point.training);
  for (const one of same.reverse()) {
    const cost = one[kernel];
    const ms = "ms" in cost ? cost.ms : cost.skipped === "time" ? cost.expected : undefined;
    if (ms === undefined) continue;
    const longer = point.tokens / one.tokens;
    return ((ms * point.batch) / one.batch) * (kernel === "eager" ? longer * longer : longer);
  }
  return 0;
}

/**
 * Measures a point by both kernels, each on a device of its own, so that its peak of memory is its own.
 * @param free bytes that may be used
 * @param earlier what was measured before, from which times are expected
 */
export async function layerSpeed(
  open: () => Promise<Device>,
  point: LayerPoint,
  free: number,
  earlier: readonly LayerSpeed[] = [],
): Promise<LayerSpeed> {
  const by = async (kernel: AttentionKernel): Promise<LayerCost | NotMeasured> => {
    const needed = leastBytes(point, kernel);
    if (needed > free) return { skipped: "memory", expected: needed };
    const expected = expectedTime(point, kernel, earlier);
    if (expected > TOO_LONG) return { skipped: "time", expected };
    await using device = await open();
    try {
      return await layerCost(device, point, kernel);
    } catch (error) {
      if (error instanceof OutOfMemoryError) return { skipped: "memory", expected: needed };
      throw error;
    }
  };
  return { ...point, flash: await by("flash"), eager: await by("eager") };
}

/** Times a layer, its projections in bf16 and causal attention between them, on a device that holds nothing else. */
async function layerCost(
  device: Device,
  { sizes, tokens, batch, training }: LayerPoint,
  kernel: AttentionKernel,
): Promise<LayerCost> {
  const { hidden, heads, groups, head_dim } = sizes;
  const scheme = KERNEL_SCHEMES.bf16!();
  const weights = {
    into: makeWeight(device, scheme, (heads + 2 * groups) * head_dim, hidden),
    out: makeWeight(device, scheme, hidden, heads * head_dim),
  };
  const rows = (): Tensor =>
    Tensor.from(device, values(batch * tokens * hidden), [batch, tokens, hidden], "f32").keep();
  const x = rows();
  const dy = training ? rows() : undefined;
  await device.synchronize();
  const before = device.memory.live;
  const learned = dy ? [x, ...weights.into.trainable, ...weights.out.trainable] : [];
  const run = async (): Promise<number> => {
    const start = performance.now();
    for (const one of learned) one.requires_grad_();
    scope(() => {
      const y = sdpa_kernel(KERNELS[kernel], () => forward(weights, x, sizes));
      if (dy) y.backward(dy);
    });
    await device.synchronize();
    for (const one of learned) one.grad = undefined;
    return performance.now() - start;
  };
  const times = [await run()];
  const bytes = device.memory.peak - before;
  if (times[0]! < LONG) times.splice(0, 1, await run(), await run());
  for (const own of [x, dy, weights.into, weights.out]) own?.dispose();
  return { ms: median(times), bytes };
}

/** x[B,T,hidden] through projections, rotation, causal attention and the output's projection. */
function forward(
  weights: { readonly into: Weight; readonly out: Weight },
  x: Tensor,
  { heads, groups, head_dim }: LayerSizes,
): Tensor {
  const { device } = x;
  const [batch = 0, tokens = 0] = x.shape;
  const all = weights.into.linear(x).view(batch, tokens, heads + 2 * groups, head_dim);
  const positions = Int32Array.from({ length: batch * tokens }, (_, i) => i % tokens);
  const frequencies = Float32Array.from({ length: head_dim / 2 }, (_, r) => 10000 ** ((-2 * r) / head_dim));
  const table = ropeTable(
    Tensor.from(device, positions, [batch, tokens]),
    Tensor.from(device, frequencies, [head_dim / 2]),
  );
  const of = (from: number, count: number): Tensor => all.narrow(2, from, count);
  const [q, k, v] = [rope(of(0, heads), table), rope(of(heads, groups), table), of(heads + groups, groups)].map((one) =>
    one.permute(0, 2, 1, 3),
  ) as [Tensor, Tensor, Tensor];
  const y = scaled_dot_product_attention(q, k, v, { is_causal: true, enable_gqa: true });
  return weights.out.linear(contiguous(y.permute(0, 2, 1, 3)).view(batch, tokens, heads * head_dim));
}

/** What a prefill of a padded batch takes. */
export interface PaddedSpeed {
  /** Padding, as a share of the batch. */
  readonly padding: number;
  readonly tokens: number;
  readonly ms: number;
  /** Milliseconds of a real token beside those without padding. */
  readonly relative: number;
}

/** Shares of padding that the documentation of flash attention draws. */
export const PADDINGS: readonly number[] = [0, 0.3, 0.6, 0.8];

/** A batch on the host, padded on the left: one text is as long as the batch, the others share what else is real. */
export function paddedBatch(rows: number, steps: number, padding: number, vocab: number): Batch {
  const real = Math.round(rows * steps * (1 - padding));
  const others = rows > 1 ? Math.max(1, Math.floor((real - steps) / (rows - 1))) : 0;
  const ids = Int32Array.from({ length: rows * steps }, (_, i) => (i * 7919 + 13) % vocab);
  const mask = Uint8Array.from(ids, (_, i) => (i < steps || i % steps >= steps - others ? 1 : 0));
  return { rows, steps, ids, mask };
}

/**
 * Times prefills of [rows, steps] with each share of padding. Rounds go over all shares in turn, so that a busy moment of the machine
 * hits all alike; the medians count.
 */
export async function paddedSpeeds(
  device: Device,
  model: CausalLM,
  options: { readonly rows: number; readonly steps: number; readonly runs: number },
): Promise<PaddedSpeed[]> {
  const { rows, steps, runs } = options;
  const batches = PADDINGS.map((padding) => promptsOf(paddedBatch(rows, steps, padding, model.geometry.vocab)));
  const times = batches.map((): number[] => []);
  const config = { ...GREEDY, max_new_tokens: 1, eos_token_ids: [] };
  for (let run = 0; run <= runs; run++) {
    for (const [n, prompts] of batches.entries()) {
      using session = new DecodeSession(device, model, { rows, capacity: steps + 1, cache_dtype: "bf16" });
      await device.synchronize();
      const start = performance.now();
      await session.add(prompts.map((prompt, row) => ({ row, prompt, config })));
      await session.step();
      if (run > 0) times[n]!.push(performance.now() - start);
    }
  }
  const found = batches.map((prompts, n) => ({
    padding: PADDINGS[n]!,
    tokens: prompts.reduce((sum, { length }) => sum + length, 0),
    ms: median(times[n]!),
  }));
  const each = found[0]!.ms / found[0]!.tokens;
  return found.map((one) => ({ ...one, relative: one.ms / one.tokens / each }));
}
