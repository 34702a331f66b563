// The key-value caches of decoders. Keys and values lie in pages; a table on the device says which pages a row has, and
// lanes, which every pass brings along, say which row and position each of its tokens is. So rows have lengths of their
// own, and a row can be forked, rewound or replaced while the others go on, inside the same recording.
//
//   KVCache     of self-attention: contiguous (a page per row), paged (a pool that rows share, copy on write), and rings
//               of pages for the layers that have a window
//   CrossCache  of cross-attention: written once per text

import { bitsOf, torchName } from "../core/dtype.js";
import type { Tensor } from "../core/tensor.js";
import type { FloatDType } from "./weight.js";

export { CrossCache, type CrossCacheOptions } from "./cache/cross.js";
export { type CacheOptions, cacheBytes, KVCache } from "./cache/kv.js";

/** What one layer keeps of a token. */
export interface LayerShape {
  /** Key-value heads. */
  readonly groups: number;
  /** Size of a key, and of a value. */
  readonly k_dim: number;
  readonly v_dim: number;
  /** Keys that a token sees, itself included; absent where it sees all. Such a layer keeps no more than it needs. */
  readonly window?: number;
}

/** Numbers, or codes per token and head with their absmax in f32. */
export type CacheDType = FloatDType | "i8";

/** What attention reads of one layer. */
export interface CachedLayer {
  /** [P,G,S,D]: P pages of S tokens. */
  readonly k: Tensor;
  /** [P,G,S,E] */
  readonly v: Tensor;
  /** f32[2,P,G,S]: of codes, for keys and values. */
  readonly scales: Tensor | undefined;
  /** i32[R,C]: the pages of each row. */
  readonly table: Tensor;
}

/** A cache of self-attention as a model and a decode loop see it. Everything but `append` is done by the host. */
export interface Cache extends Disposable {
  readonly rows: number;
  /** Tokens that a row can hold. */
  readonly capacity: number;
  readonly dtype: CacheDType;
  /** Bytes on the device, tables included. */
  readonly nbytes: number;
  /** Tokens that a row holds. */
  length(row: number): number;
  /**
   * Makes room for `counts[row]` more tokens in each row, and counts them as held. Called before the pass (or the replay)
   * whose lanes append them. Nothing changes if it throws.
   * @throws ShapeError for more tokens than a row can hold; OutOfMemoryError when no page is free
   */
  extend(counts: readonly number[]): void;
  /**
   * Records that `k[B,T,G,D]` and `v[B,T,G,E]` are written to layer `layer` at `lanes[2,B,T]` (ops/kv-append.ts).
   * @returns the whole cache of that layer
   */
  append(layer: number, k: Tensor, v: Tensor, lanes: Tensor): CachedLayer;
  /** Row `to` becomes what row `from` is; what it held is forgotten. */
  fork(from: number, to: number): void;
  /** Row r becomes what row `parents[r]` was, for all rows at once (beams). */
  reorder(parents: readonly number[]): void;
  /** Forgets the last `count` tokens of a row. @throws ShapeError */
  rewind(row: number, count: number): void;
  /** Forgets a row; its pages serve others. */
  free(row: number): void;
  dispose(): void;
}

/** The dtype of the cache of a model whose weights are in `dtype`, where nothing else is asked for. */
export function cacheDType(dtype: FloatDType): FloatDType {
  return dtype === "f32" ? "f32" : "bf16";
}

/** The name of a cache's dtype as options and reports have it. */
export function cacheName(dtype: CacheDType): "float32" | "bfloat16" | "float16" | "int8" {
  return dtype === "i8" ? "int8" : torchName(dtype);
}

/** Bytes that keys and values of one token take in one layer, scales included. */
export function layerBytesPerToken({ groups, k_dim, v_dim }: LayerShape, dtype: CacheDType): number {
  return groups * (((k_dim + v_dim) * bitsOf(dtype)) / 8 + (dtype === "i8" ? 8 : 0));
}

/** Layers that are all alike. */
export function sameLayers(sizes: { layers: number; groups: number; head_dim: number }): LayerShape[] {
  const { layers, groups, head_dim } = sizes;
  return Array.from({ length: layers }, () => ({ groups, k_dim: head_dim, v_dim: head_dim }));
}

/** Bytes that keys and values of one token take in all of a model's layers, scales included. */
export function cacheBytesPerToken(
  sizes: { layers: number; groups: number; head_dim: number },
  dtype: CacheDType,
): number {
  const { layers, groups, head_dim } = sizes;
  return layers * layerBytesPerToken({ groups, k_dim: head_dim, v_dim: head_dim }, dtype);
}
