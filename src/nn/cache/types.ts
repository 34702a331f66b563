// Types that all caches share: the shape of a layer, the inputs of attention, and the operations of a decode loop.

import { bitsOf } from "../../core/dtype.js";
import type { Tensor } from "../../core/tensor.js";
import type { FloatDType } from "../weight.js";

/** What one layer keeps of a token. */
export interface LayerShape {
  /** Key-value heads. */
  readonly groups: number;
  /** Size of a key, and of a value. */
  readonly k_dim: number;
  readonly v_dim: number;
  /** Keys that a token sees, itself included; absent where it sees all. Such a layer keeps only what the window needs. */
  readonly window?: number;
}

/** Floats, or 8-bit codes with an f32 absmax per token and head. */
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

/** A cache of self-attention as a model and a decode loop see it. Everything but `append` happens on the host. */
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
  /** Row `to` becomes a copy of row `from`; its old contents are forgotten. */
  fork(from: number, to: number): void;
  /** Row r becomes what row `parents[r]` was, for all rows at once (beams). */
  reorder(parents: readonly number[]): void;
  /** Forgets the last `count` tokens of a row. @throws ShapeError */
  rewind(row: number, count: number): void;
  /** Forgets a row; its pages can be reused. */
  free(row: number): void;
  dispose(): void;
}

/** Bytes that keys and values of one token take in one layer, scales included. */
export function layerBytesPerToken({ groups, k_dim, v_dim }: LayerShape, dtype: CacheDType): number {
  return groups * (((k_dim + v_dim) * bitsOf(dtype)) / 8 + (dtype === "i8" ? 8 : 0));
}
