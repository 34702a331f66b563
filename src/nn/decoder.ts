// What all decoder-only language models share: what goes into a forward pass, attention over new or cached keys, and the
// description of an architecture that the loader works with. Model files hold only what is theirs.

import type { Device } from "../core/device.js";
import { scope, Tensor } from "../core/tensor.js";
import { attention } from "../ops/attention.js";
import { contiguous } from "../ops/copy.js";
import type { Compute } from "../ops/linear.js";
import type { KVCache } from "./cache.js";
import { Module } from "./module.js";

export interface DecoderInput {
  /** i32[B,T] */
  readonly ids: Tensor;
  /** i32[B,T]: position of each token in its own text (padding not counted). */
  readonly positions: Tensor;
  /** u8[B,S]: 0 hides a key; S is T, or the capacity of the cache. Absent: every key is real. */
  readonly mask?: Tensor;
  /** i32[B,S]: packed texts in a row; a token sees those of its own number. Absent: one text a row. */
  readonly segments?: Tensor;
  readonly cache?: KVCache;
}

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
export function attend(
  input: DecoderInput,
  layer: number,
  q: Tensor,
  k: Tensor,
  v: Tensor,
  options: AttendOptions,
): Tensor {
  const [batch = 0, steps = 0, heads = 0] = q.shape;
  const { cache, mask, segments } = input;
  const kv = cache?.append(layer, k, v);
  const keys = kv?.k ?? k.permute(0, 2, 1, 3); // [B,G,S,D]
  const values = kv?.v ?? v.permute(0, 2, 1, 3);
  const own = { mask, segments, scales: kv?.scales, cursor: cache?.cursor, compute: cache?.shape.compute };
  const y = attention(q, keys, values, { ...options, ...own });
  return y.view(batch, steps, heads * v.shape[3]!);
}

/** Sizes that caches, plans and benchmarks need of a decoder. */
export interface DecoderGeometry {
  readonly layers: number;
  readonly heads: number;
  readonly groups: number;
  readonly head_dim: number;
  readonly hidden: number;
  readonly vocab: number;
  /** Longest text the position encoding allows; Infinity where there is no such limit. */
  readonly max_positions: number;
}

/** A decoder with a language-model head. */
export abstract class CausalLM extends Module {
  abstract readonly geometry: DecoderGeometry;

  /** What attention over a cache in bf16 may be computed in, as dense products are; set when the weights are there. */
  compute: Compute = "f32";

  /** Records the decoder: hidden states after the last norm, [B,T,hidden]. Appends to the cache, and moves its cursor. */
  abstract hidden(input: DecoderInput): Tensor;

  /** Records the head: [..,hidden] -> logits [..,vocab]. */
  abstract head(hidden: Tensor): Tensor;

  /** Device constants that a forward needs (inverse frequencies, slopes); made when the weights are there. */
  abstract prepare(device: Device): void;

  /** Logits of all positions, or of the last one of each row: [B,T,vocab] or [B,vocab]. */
  forward(input: DecoderInput, options: { last?: boolean } = {}): Tensor {
    return scope(() => {
      const hidden = this.hidden(input);
      return this.head(options.last ? contiguous(hidden.select(1, hidden.shape[1]! - 1)) : hidden);
    });
  }
}

/** The fields of a config.json, unchecked. */
export type ConfigJson = Readonly<Record<string, unknown>>;

/** What index.ts of the models lists: everything the loader needs to know of one `model_type`. */
export interface Architecture {
  readonly model_type: string;
  /** Builds the tree from config.json; allocates nothing. Throws ConfigError. */
  build(config: ConfigJson): CausalLM;
  /** Prefix that checkpoints of the bare model leave out ("transformer."). */
  readonly prefix: string;
  /** Tensors of published files that are not parameters and are passed over. */
  readonly ignore: readonly RegExp[];
}

/** Slopes of ALiBi (Press et al. 2022) for any number of heads, as BLOOM and Falcon have them. */
export function alibiSlopes(heads: number): Float32Array {
  const floor = 2 ** Math.floor(Math.log2(heads));
  const ladder = (n: number): number[] => {
    const base = 2 ** -(2 ** -(Math.log2(n) - 3));
    return Array.from({ length: n }, (_, i) => base ** (i + 1));
  };
  const slopes = ladder(floor);
  if (floor < heads) {
    const odd = ladder(2 * floor).filter((_, i) => i % 2 === 0);
    slopes.push(...odd.slice(0, heads - floor));
  }
  return Float32Array.from(slopes);
}

/** Puts a constant on a device, replacing an earlier one. */
export function constant(device: Device, before: Tensor | undefined, values: Float32Array): Tensor {
  before?.dispose();
  return Tensor.from(device, values, [values.length], "f32", "constant").keep();
}
