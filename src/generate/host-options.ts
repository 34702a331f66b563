// Options of generate() for logits processors beside the penalties, and those of beams: names, checks and neutral values are transformers'.

import { isWhole, listOf } from "../core/checks.js";
import { checkedLater, flag, number, option, such, whole } from "../core/options.js";
import * as z from "../core/schema.js";
import { type BeamConstraint, forcedWords, problemWithConstraint } from "./constraints.js";
import { problemWithWatermark, type Watermarking } from "./processors/host/watermark.js";

const isIds = (value: unknown): value is readonly number[] => (listOf(value, isWhole)?.length ?? 0) > 0;
const areWords = (value: unknown): boolean => {
  const words = listOf(value, (one): one is readonly number[] => listOf(one, (_): _ is unknown => true) !== undefined);
  if (!words) return false;
  try {
    forcedWords(words);
    return true;
  } catch {
    return false;
  }
};
const orNone = (check: (value: unknown) => boolean) => (value: unknown) => value === null || check(value);

/** Processors; where each runs, `processors/host/chain.ts` decides. */
export const PROCESSORS = {
  /** Least tokens of a text, its prompt included. */
  min_length: whole(0),
  /** Least tokens that are generated. */
  min_new_tokens: whole(0),
  /** Keep tokens whose surprise is near to the mean, up to this probability; 1 for all. */
  typical_p: number((n) => n > 0 && n <= 1, "above 0 and at most 1"),
  /** Drop tokens below this probability; 0 for none. */
  epsilon_cutoff: number((n) => n >= 0 && n < 1, "at least 0 and below 1"),
  /** The same, lower where the distribution is flat. */
  eta_cutoff: number((n) => n >= 0 && n < 1, "at least 0 and below 1"),
  /** Above 1 favours tokens of the prompt, or of the encoder's text. */
  encoder_repetition_penalty: number((n) => n > 0 && Number.isFinite(n), "a number above 0"),
  /** So many tokens in a row do not occur twice; 0 for no limit. */
  no_repeat_ngram_size: whole(0),
  /** So many tokens in a row of the prompt, or of the encoder's text, are not generated; 0 for no limit. */
  encoder_no_repeat_ngram_size: whole(0),
  /** Token ids of words that are never generated. */
  bad_words_ids: such<readonly (readonly number[])[] | null>(
    orNone((value) => listOf(value, isIds) !== undefined),
    "a list of lists of token ids",
  ),
  /** Pairs of token ids and a number that is added to the logit of the last one where the others precede it. */
  sequence_bias: checkedLater<readonly (readonly [readonly number[], number])[] | null>(),
  /** The first token after a prompt of one token. */
  forced_bos_token_id: such<number | null>(
    orNone((value) => isIds([value])),
    "a token id",
  ),
  /** The last token of a text that gets as long as it may: an id, or several. */
  forced_eos_token_id: such<number | readonly number[] | null>(
    orNone((value) => isIds(value) || isIds([value])),
    "a token id, or a list of them",
  ),
  /** [start, factor]: the end gets likelier by the factor with each token after the start. */
  exponential_decay_length_penalty: such<readonly [number, number] | null>(
    orNone((value) => listOf(value, (n): n is number => typeof n === "number")?.length === 2),
    "a pair of numbers",
  ),
  /** NaN becomes 0 and infinities the largest numbers. */
  remove_invalid_values: flag(),
  /**
   * Marks the text, as a WatermarkDetector with the same config finds out (Kirchenbauer et al. 2023), or with `keys` as SynthID does
   * (Dathathri et al. 2024).
   */
  watermarking_config: such<Watermarking | null>(
    orNone((value) => problemWithWatermark(value) === undefined),
    "a WatermarkingConfig, a SynthIDTextWatermarkingConfig or the fields of one",
    { hint: problemWithWatermark },
  ),
  /** Scores are log-probabilities again after all processors. */
  renormalize_logits: flag(),
};

/** Beams. */
export const BEAMS = {
  /** Texts that are continued together; the one that is likeliest in all is taken. 1: no beam search. */
  num_beams: whole(1),
  /** Beams in so many groups, one after the other in each step; 1, the default, for none. */
  num_beam_groups: such<number | null>(
    orNone((value) => isWhole(value) && value > 0),
    "a whole number above 0",
  ),
  /** What a token of a group loses for each beam of earlier groups that has chosen it in the same step. */
  diversity_penalty: such<number | null>(
    orNone((value) => typeof value === "number" && value >= 0 && Number.isFinite(Math.fround(value))),
    "a number of at least 0",
  ),
  /** A text's score is divided by its length to this power: above 0 favours long texts. */
  length_penalty: number((n) => Number.isFinite(n), "a number"),
  /** true: stop when there are `num_beams` finished texts; false: when a better one is unlikely; "never": when there is none. */
  early_stopping: option<boolean | "never">(z.union([z.boolean(), z.literal("never")]), 'true, false or "never"'),
  /** Texts that are returned for each prompt: at most `num_beams`, or any number of samples. */
  num_return_sequences: whole(1),
  /** What each text must hold: PhrasalConstraint and DisjunctiveConstraint. Needs beams. */
  constraints: such<readonly BeamConstraint[] | null>(
    orNone((value) => listOf(value, (one): one is BeamConstraint => !problemWithConstraint(one)) !== undefined),
    "a list of PhrasalConstraint and DisjunctiveConstraint",
  ),
  /** Words that each text must hold: the ids of one, or lists of ids of which one occurs. Needs beams. */
  force_words_ids: such<readonly (readonly number[] | readonly (readonly number[])[])[] | null>(
    orNone(areWords),
    "a list of lists of token ids, or of lists of these of which none is the beginning of another",
  ),
};

export const HOST = { ...PROCESSORS, ...BEAMS };

/** What generate() returns. */
export const RETURNS = {
  /** An object with `sequences`, and `sequences_scores` of beams, instead of the sequences alone. */
  return_dict_in_generate: flag(),
  /**
   * With return_dict_in_generate: `scores` of all tokens in each step, after all processors, and `sequences_scores` of beams. All
   * processors then run on the host.
   */
  output_scores: flag(),
  /** With return_dict_in_generate: `logits` of each step, as the model gives them. */
  output_logits: flag(),
};

export type HostField = keyof typeof PROCESSORS;
export const HOST_FIELDS = Object.keys(PROCESSORS) as readonly HostField[];
/** Those that matter only where tokens are drawn. */
export const HOST_SAMPLING: ReadonlySet<HostField> = new Set(["typical_p", "epsilon_cutoff", "eta_cutoff"]);
