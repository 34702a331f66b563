// Fields of transformers' generation_config.json that Octavo does not support: those that would change the text, which
// config.ts rejects, and those that have no effect.

import { listOf } from "../core/checks.js";
import { checkedLater, type Entry } from "../core/options.js";

/** The neutral value of a field. */
export type Neutral = number | boolean | null;

/** Fields that would change the text, with their neutral value (beside null) and the feature they enable. */
export const UNSUPPORTED = {
  token_healing: [false, "token healing"],
} as const satisfies Readonly<Record<string, readonly [neutral: Neutral, what: string]>>;

export type UnsupportedField = keyof typeof UNSUPPORTED;

export const UNSUPPORTED_FIELDS = Object.keys(UNSUPPORTED) as readonly UnsupportedField[];

/** The fields as entries of a table of options. */
export const UNSUPPORTED_OPTIONS = Object.fromEntries(
  UNSUPPORTED_FIELDS.map((field) => [field, checkedLater<Neutral>()]),
) as Readonly<Record<UnsupportedField, Entry<Neutral>>>;

/** True if a value is neutral. */
export function isNeutral(field: UnsupportedField, value: unknown): boolean {
  return value === null || value === UNSUPPORTED[field][0] || listOf(value, (_): _ is never => false) !== undefined;
}

/** Fields without effect here: caches, return formats, settings of beams, drafts or encoders, and metadata. */
export const WITHOUT_EFFECT: ReadonlySet<string> = new Set([
  "use_cache",
  "prefill_chunk_size",
  "compile_config",
  "disable_compile",
  "return_legacy_cache",
  "low_memory",
  "continuous_batching_config",
  "output_attentions",
  "output_hidden_states",
  "assistant_early_exit",
  "assistant_lookbehind",
  "target_lookbehind",
  "is_assistant",
  "max_matching_ngram_size",
  "bos_token_id",
  "decoder_start_token_id",
  "generation_kwargs",
  "transformers_version",
  "_from_model_config",
  // Of models of sound: read by speech.ts and transcribe.ts.
  "alignment_heads",
  "compression_ratio_threshold",
  "condition_on_prev_tokens",
  "forced_decoder_ids",
  "is_multilingual",
  "lang_to_id",
  "language",
  "logprob_threshold",
  "max_initial_timestamp_index",
  "no_speech_threshold",
  "no_timestamps_token_id",
  "prev_sot_token_id",
  "return_timestamps",
  "task",
  "task_to_id",
]);
