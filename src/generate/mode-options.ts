// Options of generate() that choose another way to search than the likeliest or a drawn token: names, checks and neutral values are
// transformers'.

import { isWhole, listOf } from "../core/checks.js";
import { such } from "../core/options.js";
import type { BeamConfig } from "./beam-config.js";

/** Layers that DoLa compares with the last one. */
export type DolaLayers = "low" | "high" | readonly number[];

const isLayers = (value: unknown): boolean =>
  value === "low" || value === "high" || (listOf(value, isWhole)?.length ?? 0) > 0;
const isNumber = (value: unknown): value is number => typeof value === "number" && Number.isFinite(value);

export const MODES = {
  /**
   * Classifier-free guidance (Sanchez et al. 2023): above 1 leads the text away from what the model would write after
   * `negative_prompt_ids`, below 1 towards it; 1 for none. Each step reads both texts.
   */
  guidance_scale: such<number | null>((value) => value === null || isNumber(value), "a number"),
  /**
   * Contrastive search (Su et al. 2022) among the `top_k` likeliest tokens: how much it counts that a token's hidden state is like
   * one of the text so far, against its probability. 0 for none, 0.6 is usual; each step reads `top_k` tokens.
   */
  penalty_alpha: such<number | null>(
    (value) => value === null || (isNumber(value) && value >= 0),
    "a number of at least 0",
  ),
  /**
   * DoLa (Chuang et al. 2024): a token's score is that of the last layer less that of an earlier one, of the lower or the upper half
   * of the layers ("low", "high") or of these, where 0 is the embedding. For each text the layer is taken that differs most.
   */
  dola_layers: such<DolaLayers | null>(
    (value) => value === null || isLayers(value),
    '"low", "high", or a list of numbers of layers',
  ),
};

/** Another way to search. */
export interface ModeConfig {
  /** Undefined without guidance. */
  readonly guidance_scale: number | undefined;
  /** Undefined without contrastive search. */
  readonly contrastive: { readonly top_k: number; readonly penalty_alpha: number } | undefined;
  /** Undefined without DoLa. */
  readonly dola: DolaLayers | undefined;
}

export interface ModeInputs {
  readonly guidance_scale: number | null | undefined;
  readonly penalty_alpha: number | null | undefined;
  readonly dola_layers: DolaLayers | null | undefined;
  readonly top_k: number;
  readonly do_sample: boolean;
  readonly beams: BeamConfig;
  readonly vocab: number;
}

/**
 * The mode that the options ask for.
 * @param refuse throws for options that do not go together
 */
export function modeOf(
  { guidance_scale: scale, penalty_alpha, dola_layers, do_sample, beams, vocab, ...inputs }: ModeInputs,
  refuse: (key: "penalty_alpha" | "top_k" | "dola_layers", message: string) => never,
): ModeConfig {
  const guidance_scale = scale === null || scale === 1 ? undefined : scale;
  const dola = dola_layers ?? undefined;
  if (dola) {
    const other =
      beams.num_beams > 1
        ? "num_beams"
        : guidance_scale !== undefined
          ? "guidance_scale"
          : penalty_alpha
            ? "penalty_alpha"
            : undefined;
    if (other) refuse("dola_layers", `dola_layers cannot be combined with ${other}`);
  }
  if (!penalty_alpha) return { guidance_scale, contrastive: undefined, dola };
  const other = do_sample
    ? "do_sample"
    : beams.num_beams > 1
      ? "num_beams"
      : guidance_scale === undefined
        ? undefined
        : "guidance_scale";
  if (other) refuse("penalty_alpha", `penalty_alpha cannot be combined with ${other}`);
  if (inputs.top_k === 0) refuse("top_k", "top_k must be a number of candidates above 0 with penalty_alpha, got 0");
  const top_k = Math.min(inputs.top_k, vocab);
  // One candidate is the likeliest token.
  return { guidance_scale, contrastive: top_k > 1 ? { top_k, penalty_alpha } : undefined, dola };
}

/** Rows of a session for each prompt. */
export function rowsOf({ beams, mode }: { readonly beams: BeamConfig; readonly mode: ModeConfig }): number {
  if (mode.contrastive) return mode.contrastive.top_k;
  const texts = beams.num_beams > 1 ? beams.num_beams : beams.num_return_sequences;
  return mode.guidance_scale === undefined ? texts : 2 * texts;
}

/** The option that asks for another way to search. */
export function modeOption({ guidance_scale, contrastive, dola }: ModeConfig): keyof typeof MODES | undefined {
  if (guidance_scale !== undefined) return "guidance_scale";
  return contrastive ? "penalty_alpha" : dola ? "dola_layers" : undefined;
}
