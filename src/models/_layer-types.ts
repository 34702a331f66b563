// Which layers see a window: the fields of config.json that Qwen, Gemma and SmolLM share.

import { CONFIG_HINT, ConfigError } from "../core/errors.js";
import * as z from "../core/schema.js";
import type { ConfigJson } from "../nn/architecture.js";

/** The types of all layers, one name each. */
export const layerTypes = z.array(z.literal(["full_attention", "sliding_attention"])).nullish();

interface Given {
  readonly num_hidden_layers: number;
  readonly layer_types?: z.infer<typeof layerTypes>;
}

/**
 * Whether each layer sees a window: as `layer_types` says, or else `usual`.
 * @throws ConfigError for a list of another length
 */
export function slidingLayers(given: Given, usual: (layer: number) => boolean): readonly boolean[] {
  const { layer_types, num_hidden_layers: layers } = given;
  if (!layer_types) return Array.from({ length: layers }, (_, layer) => usual(layer));
  if (layer_types.length === layers) return layer_types.map((type) => type === "sliding_attention");
  throw new ConfigError(`config.json: layer_types has ${layer_types.length} entries for ${layers} layers`, {
    hint: CONFIG_HINT,
  });
}

/** Blocks of rotary positions by the type of a layer. */
interface RopeBlocks {
  readonly full_attention?: unknown;
  readonly sliding_attention?: unknown;
}

/**
 * `rope_parameters` with a block for each type of layer, as transformers 5 writes them. @param model its name, for the message
 * @throws ConfigError for a block of another kind
 */
export function ropeBlocks({ rope_parameters }: ConfigJson, model: string): RopeBlocks {
  const blocks = (rope_parameters ?? {}) as RopeBlocks;
  const typed = typeof blocks === "object" && (blocks.full_attention ?? blocks.sliding_attention) !== undefined;
  if (typed || (typeof blocks === "object" && Object.keys(blocks).length === 0)) return blocks;
  throw new ConfigError(`config.json: rope_parameters of ${model} are full_attention and sliding_attention`, {
    hint: CONFIG_HINT,
  });
}

/**
 * The window of each layer. `size` is undefined where config.json turns windows off.
 * @throws ConfigError if a layer is to see a window that has no size
 */
export function windowOf(sliding: readonly boolean[], size: number | undefined): (layer: number) => number | undefined {
  if (size === undefined && sliding.includes(true)) {
    throw new ConfigError("config.json: layer_types names sliding layers, but there is no sliding_window in use", {
      hint: CONFIG_HINT,
    });
  }
  return (layer) => (sliding[layer] ? size : undefined);
}
