// Options of generate() that choose another way to search than the likeliest or a drawn token: names, checks and neutral values are
// transformers'.

import { such } from "../core/options.js";
import type { BeamConfig } from "./config.js";

export const MODES = {
  /**
   * Classifier-free guidance (Sanchez et al. 2023): above 1 leads the text away from what the model would write after
   * `negative_prompt_ids`, below 1 towards it; 1 for none. Each step reads both texts.
   */
  guidance_scale: such<number | null>(
    (value) => value === null || (typeof value === "number" && Number.isFinite(value)),
    "a number",
  ),
};

/** Another way to search. */
export interface ModeConfig {
  /** Undefined without guidance. */
  readonly guidance_scale: number | undefined;
}

/** The mode that the options ask for. */
export function modeOf(given: (key: keyof typeof MODES) => number | null | undefined): ModeConfig {
  const guidance_scale = given("guidance_scale") ?? undefined;
  return { guidance_scale: guidance_scale === 1 ? undefined : guidance_scale };
}

/** Rows of a session for each prompt. */
export function rowsOf({ beams, mode }: { readonly beams: BeamConfig; readonly mode: ModeConfig }): number {
  const texts = beams.num_beams > 1 ? beams.num_beams : beams.num_return_sequences;
  return mode.guidance_scale === undefined ? texts : 2 * texts;
}
