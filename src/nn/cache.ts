// The key-value caches of decoders. Keys and values lie in pages; a table on the device lists the pages of each row, and the
// lanes of each pass give the row and position of each token. So rows have lengths of their own, and a row can be forked,
// rewound or replaced while the others go on, inside the same recording.
//
//   KVCache     of self-attention: contiguous (a page per row), paged (a pool that rows share, copy on write), and rings
//               of pages for the layers that have a window
//   CrossCache  of cross-attention: written once per text

import { torchName } from "../core/dtype.js";
import { type CacheDType, type LayerShape, layerBytesPerToken } from "./cache/types.js";
import type { FloatDType } from "./weight.js";

export { CrossCache, type CrossCacheOptions } from "./cache/cross.js";
export { type CacheOptions, CHUNK, cacheBytes, KVCache } from "./cache/kv.js";
export type { Cache, CacheDType, CachedLayer, LayerShape } from "./cache/types.js";
export { layerBytesPerToken } from "./cache/types.js";

/** Default cache dtype of a model whose weights are in `dtype`. */
export function cacheDType(dtype: FloatDType): FloatDType {
  return dtype === "f32" ? "f32" : "bf16";
}

/** The name of a cache's dtype in options and reports. */
export function cacheName(dtype: CacheDType): "float32" | "bfloat16" | "float16" | "int8" {
  return dtype === "i8" ? "int8" : torchName(dtype);
}

/** Sizes of a model's layers; keys are as large as values unless `key_dim` says otherwise. */
interface LayerSizes {
  readonly layers: number;
  readonly groups: number;
  readonly head_dim: number;
  readonly key_dim?: number;
  readonly windows?: readonly (number | undefined)[];
}

function layerOf({ groups, head_dim, key_dim = head_dim }: LayerSizes): LayerShape {
  return { groups, k_dim: key_dim, v_dim: head_dim };
}

/** What each layer of a model keeps of a token. */
export function layerShapes(sizes: LayerSizes): LayerShape[] {
  return Array.from({ length: sizes.layers }, (_, layer) => {
    const window = sizes.windows?.[layer];
    return { ...layerOf(sizes), ...(window === undefined ? {} : { window }) };
  });
}

/** Bytes of one token's keys and values in all layers of a model, while it is in the windows of all; scales included. */
export function cacheBytesPerToken(sizes: LayerSizes, dtype: CacheDType): number {
  return sizes.layers * layerBytesPerToken(layerOf(sizes), dtype);
}
