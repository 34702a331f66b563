// What generate() is told about its key-value cache.

import { checkOptions, OptionError } from "../core/errors.js";
import { type CacheDType, type CacheOptions, sameLayers } from "../nn/cache.js";
import type { Decoder } from "../nn/decoder.js";
import type { GenerationOptions } from "./config.js";

const CACHES = ["dynamic", "static", "quantized"];
const CACHE_DTYPES: Readonly<Record<string, CacheDType>> = { float32: "f32", bfloat16: "bf16", float16: "f16" };

/** What the caller says of the cache. (A model's own `cache_implementation` names a class of Python's, and is not asked.) */
export function cacheDTypeOf({
  cache_implementation,
  cache_config,
  cache_dtype,
}: GenerationOptions): CacheDType | undefined {
  if (cache_implementation !== undefined && !CACHES.includes(cache_implementation)) {
    throw new OptionError(
      `cache_implementation must be one of ${CACHES.join(", ")}, got ${JSON.stringify(cache_implementation)}`,
      {
        hint: 'leave it out, or use "quantized" for keys and values in 8 bits',
      },
    );
  }
  if (cache_dtype !== undefined && !Object.hasOwn(CACHE_DTYPES, cache_dtype)) {
    throw new OptionError(
      `cache_dtype must be one of ${Object.keys(CACHE_DTYPES).join(", ")}, got ${JSON.stringify(cache_dtype)}`,
      { hint: 'for 8 bits use cache_implementation: "quantized"' },
    );
  }
  if (cache_implementation !== "quantized") {
    if (cache_config !== undefined) {
      throw new OptionError("cache_config is for a quantized cache", { hint: 'add cache_implementation: "quantized"' });
    }
    return cache_dtype && CACHE_DTYPES[cache_dtype];
  }
  if (cache_dtype !== undefined) {
    throw new OptionError(`a quantized cache has no cache_dtype, got ${JSON.stringify(cache_dtype)}`, {
      hint: "leave out one of the two",
    });
  }
  if (cache_config === null) throw new OptionError("cache_config must be an object, got null");
  checkOptions("cache_config", cache_config, ["nbits"]);
  const nbits = cache_config?.nbits ?? 8;
  if (nbits !== 8) {
    throw new OptionError(`cache_config.nbits must be 8, got ${JSON.stringify(nbits)}`, {
      hint: "keys and values are kept in 8 bits or as numbers; use nbits: 8",
    });
  }
  return "i8";
}

/** Capacity of caches is a multiple of this: no kernel likes odd sizes, and nothing is lost. */
const CAPACITY_STEP = 16;

/** The cache of `rows` texts of up to `tokens` tokens. */
export function cacheShape(
  model: Pick<Decoder, "geometry">,
  rows: number,
  tokens: number,
  dtype: CacheDType,
): CacheOptions {
  const capacity = Math.ceil(tokens / CAPACITY_STEP) * CAPACITY_STEP;
  return { layers: sameLayers(model.geometry), rows, capacity, dtype };
}
