// How many dims of a head rotate, where config.json says it as a share.

import { CONFIG_HINT, ConfigError } from "../core/errors.js";
import { show } from "../core/show.js";
import type { RopeConfig } from "./rope.js";

/**
 * `share` of the dims of a head, or what the scaling block says as `partial_rotary_factor`, which counts first.
 * @param key the share's name in config.json
 * @throws ConfigError for a share that is not above 0 and at most 1, or gives an odd number of dims
 */
export function rotaryDims(scaling: RopeConfig["scaling"], share: unknown, head_dim: number, key: string): number {
  const factor = scaling?.partial_rotary_factor ?? share;
  if (typeof factor !== "number" || !(factor > 0) || factor > 1) {
    throw new ConfigError(`config.json: ${key} must be above 0 and at most 1, got ${show(factor)}`, {
      hint: CONFIG_HINT,
    });
  }
  const dims = Math.trunc(head_dim * factor);
  if (dims % 2 !== 0 || dims === 0) {
    throw new ConfigError(
      `config.json: rotary positions turn pairs of dims, but ${factor} of a head of ${head_dim} is ${dims}`,
      { hint: CONFIG_HINT },
    );
  }
  return dims;
}
