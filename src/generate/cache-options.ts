// The options of generate() for the key-value cache.

import type { Device } from "../core/device.js";
import { OctavoError, OptionError } from "../core/errors.js";
import { type Options, option, readOptions, such } from "../core/options.js";
import * as z from "../core/schema.js";
import { show } from "../core/show.js";
import { isOn } from "../load/names.js";
import { type CacheDType, type CacheOptions, layerShapes } from "../nn/cache.js";
import type { Decoder } from "../nn/decoder.js";

const CACHES = ["dynamic", "static", "quantized", "offloaded", "offloaded_static", "sliding_window", "hybrid"] as const;
const CACHE_DTYPES = { float32: "f32", bfloat16: "bf16", float16: "f16" } as const satisfies Record<string, CacheDType>;
const CACHE_DTYPE_NAMES = Object.keys(CACHE_DTYPES) as (keyof typeof CACHE_DTYPES)[];

/** Fields of `cache_config`. */
const CACHE_CONFIG = {
  /** Bits of a code. */
  nbits: option<number>(z.literal(8), "8", {
    hint: "keys and values are stored in 8 bits or as floats; use nbits: 8",
  }),
};

export const CACHE = {
  /**
   * "quantized" stores keys and values as 8-bit codes, one scale per token and head; the others store floats. "offloaded" ones lie in
   * the computer's memory, as all do on a device that computes on the CPU. Layers that see a window keep no more than it needs, by any
   * name.
   */
  cache_implementation: option(z.literal(CACHES), `one of ${CACHES.join(", ")}`, {
    hint: 'leave it out, or use "quantized" for keys and values in 8 bits',
  }),
  /** Of a quantized cache; `nbits` is 8. */
  cache_config: such<Options<typeof CACHE_CONFIG>>((value) => typeof value === "object" && value !== null, "an object"),
  /** Dtype of keys and values stored as floats; by default float32 for a float32 model and bfloat16 for others. */
  cache_dtype: option(z.literal(CACHE_DTYPE_NAMES), `one of ${CACHE_DTYPE_NAMES.join(", ")}`, {
    hint: 'for 8 bits use cache_implementation: "quantized"',
  }),
};

/**
 * The dtype that the caller asks for; undefined leaves it to the model. (A model's own `cache_implementation` names one of
 * Python's classes and is ignored.)
 * @throws OptionError for conflicting options
 */
export function cacheDTypeOf({
  cache_implementation,
  cache_config,
  cache_dtype,
}: Options<typeof CACHE>): CacheDType | undefined {
  if (cache_implementation !== "quantized") {
    if (cache_config !== undefined) {
      throw new OptionError("cache_config is for a quantized cache", { hint: 'add cache_implementation: "quantized"' });
    }
    return cache_dtype && CACHE_DTYPES[cache_dtype];
  }
  if (cache_dtype !== undefined) {
    throw new OptionError(`a quantized cache has no cache_dtype, got ${show(cache_dtype)}`, {
      hint: "leave out one of the two",
    });
  }
  readOptions("cache_config", CACHE_CONFIG, cache_config, "cache_config.");
  return "i8";
}

/** @throws OctavoError for a cache that is to lie elsewhere than on its device */
export function checkOffloadedCache(name: string | undefined, devices: Iterable<Device>): void {
  if (!name?.startsWith("offloaded")) return;
  for (const device of devices) {
    if (isOn(device.name, "cpu")) continue;
    throw new OctavoError("ERR_UNSUPPORTED", `cache_implementation: "${name}" on ${device.name}: caches lie on it`, {
      details: { option: "cache_implementation" },
      hint: 'cache_implementation: "quantized" takes half of the memory',
    });
  }
}

/** Capacity of caches is a multiple of this: kernels run best on round sizes, at little cost. */
const CAPACITY_STEP = 16;

/** The cache of `rows` texts of up to `tokens` tokens. */
export function cacheShape(
  model: Pick<Decoder, "geometry">,
  rows: number,
  tokens: number,
  dtype: CacheDType,
): CacheOptions {
  const capacity = Math.ceil(tokens / CAPACITY_STEP) * CAPACITY_STEP;
  return { layers: layerShapes(model.geometry), rows, capacity, dtype };
}
