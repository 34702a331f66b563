// With which values adapters begin, as a LoraConfig says it (`init_lora_weights`, `loftq_config`). How they are computed is in adapter.ts and
// decompose.ts.

import { isWhole } from "../core/checks.js";
import { entriesOf, OptionError } from "../core/errors.js";
import { show } from "../core/show.js";

export const isRank = (value: unknown): boolean => isWhole(value) && value > 0 && value < 2 ** 31;

/** First values that are parts of the model's weights. */
export type Decomposition = "pissa" | `pissa_niter_${number}` | "olora" | "loftq";
export type InitLora = boolean | "gaussian" | Decomposition;

export function isDecomposition(value: unknown): value is Decomposition {
  return typeof value === "string" && /^(pissa|pissa_niter_\d{1,3}|olora|loftq)$/.test(value);
}

/** First values that PEFT has and this has not, and what they are called. */
export const OTHER_INITS: Readonly<Record<string, string>> = {
  eva: "EVA",
  corda: "CorDA",
  orthogonal: "an orthogonal beginning",
  mica: "MiCA",
  lora_ga: "LoRA-GA",
};

/** What LoftQ quantizes to, and how often. */
export interface LoftQOptions {
  readonly loftq_bits?: 4 | 8;
  readonly loftq_iter?: number;
}

/** PEFT's class for it: `loftq_config: new LoftQConfig({ loftq_bits: 4 })`. */
export class LoftQConfig implements LoftQOptions {
  readonly loftq_bits: 4 | 8;
  readonly loftq_iter: number;

  /** @throws OptionError */
  constructor(options: LoftQOptions = {}) {
    const given = Object.fromEntries(entriesOf("LoftQConfig", options, ["loftq_bits", "loftq_iter"]));
    if (!isLoftQ(given))
      throw new OptionError(`LoftQConfig: loftq_bits is 4 or 8, loftq_iter above 0, got ${show(options)}`);
    const { loftq_bits = 4, loftq_iter = 1 } = given as LoftQOptions;
    this.loftq_bits = loftq_bits;
    this.loftq_iter = loftq_iter;
  }
}

export function isLoftQ(value: unknown): boolean {
  if (value === null) return true;
  if (typeof value !== "object" || Array.isArray(value)) return false;
  const { loftq_bits: bits = 4, loftq_iter: times = 1, ...others } = value as Record<string, unknown>;
  return (bits === 4 || bits === 8) && isRank(times) && Object.keys(others).length === 0;
}
