// AutoConfig: the config.json of a model, without its weights.

import { type Options, readOptions, signal } from "../core/options.js";
import { readConfigJson } from "../load/index.js";
import { SOURCE } from "../load/options.js";
import type { Platform } from "../load/platform.js";
import { architectureOf } from "../models/index.js";
import type { ConfigJson } from "../nn/architecture.js";
import { nameOf } from "./pretrained.js";
import { PYTHON } from "./python.js";

/** Options of AutoConfig.from_pretrained. */
export const CONFIG_FROM_PRETRAINED = {
  ...SOURCE,
  /** Aborts the load with an AbortError. */
  signal: signal(),
  /** Only false: nothing in a model's files is ever executed. */
  trust_remote_code: PYTHON.trust_remote_code,
};

export type ConfigOptions = Options<typeof CONFIG_FROM_PRETRAINED>;

export interface AutoConfigs {
  /**
   * The fields of a model's config.json as they are written, of a model that is found as `AutoModel` finds it.
   * @throws OptionError, NotFoundError, FormatError, NetworkError, AbortError; UnsupportedModelError, ConfigError for a model of a
   * kind that Octavo does not know
   */
  from_pretrained(model: string | URL, options?: ConfigOptions): Promise<ConfigJson & { readonly model_type: string }>;
}

export function autoConfig(platform: Platform): AutoConfigs {
  return {
    async from_pretrained(which, given = {}) {
      const { signal, trust_remote_code: _, ...place } = readOptions("from_pretrained", CONFIG_FROM_PRETRAINED, given);
      const source = await platform.source(nameOf(which), { ...place, signal });
      try {
        const config = await readConfigJson(source);
        await architectureOf(config); // known, and model_type is text
        return config as ConfigJson & { readonly model_type: string };
      } finally {
        await source.close();
      }
    },
  };
}
