// Models for tests of behaviour: the embedded storyteller, and random ones of any size.

import { join } from "node:path";
import type { Device } from "../../src/core/device.js";
import { scope, Tensor } from "../../src/core/tensor.js";
import { fillRandomly } from "../../src/load/random.js";
import { buildModel } from "../../src/models/index.js";
import type { ConfigJson } from "../../src/nn/architecture.js";
import { type CacheDType, KVCache, layerShapes } from "../../src/nn/cache.js";
import type { CausalLM } from "../../src/nn/decoder.js";
import { layerDevices } from "../../src/nn/placement.js";
import type { FloatDType, Scheme } from "../../src/nn/weight.js";

export const STORYTELLER: string = join(import.meta.dirname, "..", "..", "models", "storyteller");

/** A llama with random weights. */
export async function randomModel(
  device: Device,
  fields: ConfigJson,
  dtype: FloatDType,
  scheme?: Scheme,
  seed = 1,
): Promise<CausalLM> {
  const config = { model_type: "llama", max_position_embeddings: 512, num_key_value_heads: 2, ...fields };
  const model = await buildModel(config, "causal-lm");
  model.name_tree();
  await fillRandomly(device, model, { dtype, scheme }, seed);
  return model;
}

/** Positions 0, 1, ... of real tokens, given rows of 0 and 1. */
function positionsOf(mask: readonly (readonly number[])[]): Int32Array {
  return Int32Array.from(
    mask.flatMap((row) => {
      let next = 0;
      return row.map((real) => (real ? next++ : 0));
    }),
  );
}

/**
 * Logits [B,T,vocab] of `ids`, computed with a cache in parts of the given lengths, or at once without a cache.
 * Rows are padded on the left where `mask` is 0.
 */
export async function logitsOf(
  device: Device,
  model: CausalLM,
  ids: readonly (readonly number[])[],
  options: { parts?: readonly number[]; mask?: readonly (readonly number[])[]; cache_dtype?: CacheDType } = {},
): Promise<Float32Array[]> {
  const B = ids.length;
  const T = ids[0]!.length;
  const { parts, mask = ids.map((row) => row.map(() => 1)) } = options;
  const { vocab } = model.geometry;
  const padded = mask.some((row) => row.includes(0));
  const all = positionsOf(mask);
  const layers = layerShapes(model.geometry);
  const cache =
    parts &&
    new KVCache(layerDevices(model, device), { layers, rows: B, capacity: T + 3, dtype: options.cache_dtype ?? "f32" });
  const out = ids.map(() => new Float32Array(T * vocab));
  try {
    let at = 0;
    for (const steps of parts ?? [T]) {
      const cut = <V>(rows: readonly (readonly V[])[]): V[] => rows.flatMap((row) => row.slice(at, at + steps));
      const where = cut(ids.map((_, b) => [...all.subarray(b * T, (b + 1) * T)]));
      const real = cut(mask);
      cache?.extend(ids.map((_, b) => real.slice(b * steps, (b + 1) * steps).filter((x) => x === 1).length));
      using logits = scope(() => {
        const positions = Tensor.from(device, Int32Array.from(where), [B, steps]);
        const given = { ids: Tensor.from(device, Int32Array.from(cut(ids)), [B, steps]), positions };
        if (!cache) {
          const hidden = padded ? Tensor.from(device, Uint8Array.from(real), [B, T]) : undefined;
          return model.forward({ ...given, mask: hidden });
        }
        const rows = real.map((x, i) => (x === 1 ? Math.floor(i / steps) : -1));
        const lanes = Tensor.from(device, Int32Array.of(...rows, ...where), [2, B, steps]);
        return model.forward({ ...given, lanes, cache });
      });
      const values = await logits.readFloats();
      out.forEach((row, b) => {
        row.set(values.subarray(b * steps * vocab, (b + 1) * steps * vocab), at * vocab);
      });
      at += steps;
    }
    return out;
  } finally {
    cache?.dispose();
  }
}
