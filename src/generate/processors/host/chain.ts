// The processors of a call: what its options ask for, divided between the device and processors of a decode session on the host.

import { OptionError } from "../../../core/errors.js";
import { rowsPerPrompt } from "../../beam-config.js";
import type { GenerationConfig } from "../../config.js";
import { LayerContrast } from "../../dola.js";
import type { Constraint } from "../../grammar/constraint.js";
import { Guidance } from "../../guidance.js";
import { modeOption } from "../../mode-options.js";
import type { Kept, ScoreRecord } from "../../scores.js";
import type { TextEdits } from "../edited.js";
import type { HostProcessor, PrefixAllowedTokens } from "../host-processor.js";
import type { TokenMasks } from "../masked.js";
import { hasPenalties } from "../penalties.js";
import { suppresses } from "../suppressed.js";
import { getLogitsProcessor, type LogitsProcessorList, type ProcessorConfig } from "./list.js";
import { editsOf, type TextOptions } from "./text-edits.js";
import { WatermarkLogitsProcessor, watermarkProcessor } from "./watermark.js";

/** A call's options with the part that the host does taken out, and that part. */
export interface HostPart {
  /** For the device. */
  readonly config: GenerationConfig;
  readonly processors: readonly HostProcessor[];
  /** What may follow, if the host does nothing else: then the device does it. */
  readonly masks?: TokenMasks | undefined;
  /** What texts change in the scores of single tokens, if the device makes these changes. */
  readonly edits?: TextEdits | undefined;
}

interface OwnProcessors {
  readonly logits_processor?: readonly HostProcessor[] | undefined;
  readonly prefix_allowed_tokens_fn?: PrefixAllowedTokens | undefined;
  /** Scores to keep: then the host does everything. */
  readonly kept?: Kept | undefined;
  readonly assistant_model?: unknown;
  /** What the texts are. It comes after all that may change what is likely, and before the temperature. */
  readonly constraint?: Constraint | undefined;
}

const OF_THE_ENCODER = ["encoder_repetition_penalty", "encoder_no_repeat_ngram_size"] as const;

/**
 * Divides the options of a call between device and host. The device does it all, told by the host which tokens a text forbids or
 * favours, unless scores are the host's: of beams, of drafts, of several rows, kept ones. The host then does the penalties as well,
 * because they precede most of it.
 * @param own the caller's processors, and the function that says which ids may follow
 * @param encoder the texts of an encoder, none of one that reads sound; by default the prompts
 * @throws OptionError for options about the encoder's text if it reads sound
 */
export function onHost(
  config: GenerationConfig,
  { logits_processor = [], prefix_allowed_tokens_fn: allowed, kept, assistant_model, constraint }: OwnProcessors,
  encoder?: readonly (readonly number[])[],
): HostPart {
  const { host = {}, beams, do_sample, max_new_tokens, mode } = config;
  const { num_beams } = beams;
  // Guesses are checked several at a time: what depends on the tokens before is then the host's.
  const drafting = assistant_model !== undefined || config.prompt_lookup_num_tokens > 0;
  const penalized = hasPenalties(config) || suppresses(config);
  const masking = constraint ? [constraint.processor(num_beams > 1)] : [];
  if (config.host === undefined && !allowed && !kept && !(drafting && penalized)) {
    if (logits_processor.length === 0) return { config, processors: [], masks: constraint };
    return { config, processors: [...logits_processor, ...masking] };
  }
  const guided = mode.guidance_scale === undefined ? [] : [new Guidance(mode.guidance_scale)];
  const contrast = mode.dola ? [new LayerContrast(config.vocab_size)] : [];
  // Where tokens are chosen by scores of the host's, or by those of two rows, the device has none of the penalties.
  const counted = num_beams > 1 || drafting || modeOption(mode) !== undefined;
  for (const option of OF_THE_ENCODER) {
    if (encoder?.length === 0 && host[option] !== undefined) {
      throw new OptionError(`${option} needs an encoder that reads text; this model's reads sound`, {
        details: { option },
      });
    }
  }
  const marks = host.watermarking_config ? watermarkProcessor(config.vocab_size, host.watermarking_config) : undefined;
  const green =
    marks instanceof WatermarkLogitsProcessor && marks.config.seeding_scheme === "lefthash" ? marks : undefined;
  // The first token that is suppressed is another one where one is forced before it.
  const begins = host.forced_bos_token_id !== undefined && config.begin_suppress_tokens.length > 0;
  const hostOnly = counted || kept || allowed || begins || host.remove_invalid_values || (marks && !green);
  if (!hostOnly) {
    const { typical_p, epsilon_cutoff, eta_cutoff, watermarking_config: _, renormalize_logits: __, ...texts } = host;
    // Scores that are log-probabilities again are drawn from as they were.
    const device: GenerationConfig = {
      ...config,
      ...{
        host: undefined,
        typical_p: typical_p ?? 1,
        epsilon_cutoff: epsilon_cutoff ?? 0,
        eta_cutoff: eta_cutoff ?? 0,
      },
      marked: green !== undefined,
    };
    const edits = editsOf(texts as TextOptions, config, encoder, green);
    if (logits_processor.length === 0) return { config: device, processors: [], masks: constraint, edits };
    return { config: device, processors: [...logits_processor, ...masking], edits };
  }
  const some = (ids: readonly number[]): readonly number[] | null => (ids.length > 0 ? ids : null);
  const { typical_p, epsilon_cutoff, eta_cutoff, watermarking_config, renormalize_logits, ...rest } = host;
  const text: ProcessorConfig = {
    ...rest,
    repetition_penalty: config.repetition_penalty,
    suppress_tokens: some(config.suppress_tokens),
    begin_suppress_tokens: some(config.begin_suppress_tokens),
    eos_token_id: some(config.eos_token_ids),
  };
  // A watermark follows the temperature, and what drops tokens.
  const own = [typical_p, epsilon_cutoff, eta_cutoff, watermarking_config].some((value) => value !== undefined);
  const warps = do_sample && (own || kept !== undefined || num_beams > 1);
  const { temperature, top_k, top_p, min_p } = config;
  const warpers: ProcessorConfig = warps
    ? {
        do_sample,
        temperature,
        top_k,
        top_p,
        min_p,
        typical_p,
        epsilon_cutoff,
        eta_cutoff,
        watermarking_config,
        renormalize_logits,
        num_beams,
      }
    : { watermarking_config, renormalize_logits };
  const at = (own: ProcessorConfig, prefix?: PrefixAllowedTokens): HostProcessor => {
    const lists = new Map<number, LogitsProcessorList>();
    return {
      process(logits, { row, ids, prompt }) {
        let list = lists.get(row);
        if (!list) {
          const item = Math.floor(row / rowsPerPrompt(beams));
          const texts = encoder ? encoder.slice(item, item + 1) : [ids.slice(0, prompt)];
          const prefix_allowed_tokens_fn: PrefixAllowedTokens | undefined = prefix && ((_, text) => prefix(item, text));
          const { vocab_size } = config;
          const inputs = {
            input_ids_seq_length: prompt,
            encoder_input_ids: texts,
            prefix_allowed_tokens_fn,
            vocab_size,
          };
          list = getLogitsProcessor({ ...own, max_length: prompt + max_new_tokens }, inputs);
          lists.set(row, list);
        }
        list.change(logits, ids, 0);
      },
    };
  };
  const device: GenerationConfig = {
    ...config,
    repetition_penalty: 1,
    presence_penalty: 0,
    frequency_penalty: 0,
    suppress_tokens: [],
    begin_suppress_tokens: [],
    ...(warps ? { temperature: 1, top_k: 0, top_p: 1, min_p: 0 } : {}),
  };
  const last = warps || watermarking_config || renormalize_logits ? [at(warpers)] : [];
  // Beams keep their scores themselves: theirs are log-probabilities.
  const [first, end] = num_beams > 1 ? [] : [kept?.logits, kept?.scores];
  const ends = (record: ScoreRecord | undefined): HostProcessor[] => (record ? [record.processor] : []);
  const processors = [
    ...ends(first),
    ...guided,
    ...contrast,
    at(text, allowed),
    penaltiesOf(config),
    ...logits_processor,
    ...masking,
    ...last,
    ...ends(end),
  ];
  return { config: device, processors };
}

/** Presence and frequency penalties, as the device applies them otherwise. */
function penaltiesOf({ presence_penalty, frequency_penalty }: GenerationConfig): HostProcessor {
  return {
    process(logits, { ids, prompt }) {
      if (presence_penalty === 0 && frequency_penalty === 0) return;
      const counts = new Map<number, number>();
      for (const id of ids.slice(prompt)) counts.set(id, (counts.get(id) ?? 0) + 1);
      for (const [id, count] of counts) logits[id] = logits[id]! - (presence_penalty + count * frequency_penalty);
    },
  };
}
