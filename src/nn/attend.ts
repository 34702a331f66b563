// Attention as layers of models ask for it: over the tokens of the pass, over a cache, over an encoder's output.

import type { Tensor } from "../core/tensor.js";
import { attention } from "../ops/attention.js";
import type { Pass } from "./pass.js";

export interface AttendOptions {
  readonly scale: number;
  readonly slopes?: Tensor;
  readonly window?: number;
  readonly softcap?: number;
}

/**
 * Causal attention of `q[B,T,H,D]` over `k, v[B,T,G,D]` and what the cache holds: [B,T,H*D].
 * With a cache, k and v are appended to layer `layer` of it first.
 */
export function attend(pass: Pass, layer: number, q: Tensor, k: Tensor, v: Tensor, options: AttendOptions): Tensor {
  const [batch = 0, steps = 0, heads = 0] = q.shape;
  const { cache, mask, segments } = pass.input;
  const kv = cache?.append(layer, k, v);
  const keys = kv?.k ?? k.permute(0, 2, 1, 3); // [B,G,S,D]
  const values = kv?.v ?? v.permute(0, 2, 1, 3);
  const { device } = q;
  const compute = cache ? pass.attention.compute : undefined;
  const own = {
    mask: pass.at(device, mask),
    segments: pass.at(device, segments),
    scales: kv?.scales,
    cursor: cache?.cursorOn(device),
    compute,
  };
  const y = attention(q, keys, values, { ...options, ...own });
  return y.view(batch, steps, heads * v.shape[3]!);
}

/** Attention of `q[B,T,H,D]` in which every token sees all tokens of its row (or segment) that the mask leaves: [B,T,H*D]. */
export function attendAll(pass: Pass, q: Tensor, k: Tensor, v: Tensor, options: AttendOptions): Tensor {
  const [batch = 0, steps = 0, heads = 0] = q.shape;
  const { mask, segments } = pass.input;
  const [keys, values] = [k.permute(0, 2, 1, 3), v.permute(0, 2, 1, 3)]; // [B,G,S,D]
  const own = { mask: pass.at(q.device, mask), segments: pass.at(q.device, segments), causal: false };
  const y = attention(q, keys, values, { ...options, ...own });
  return y.view(batch, steps, heads * v.shape[3]!);
}
