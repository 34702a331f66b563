// What a call's options say of texts, as changes of single tokens' scores that the device makes.

import { rowsPerPrompt } from "../../beam-config.js";
import type { GenerationConfig } from "../../config.js";
import type { TextChanges, TextEdits } from "../edited.js";
import { Edits } from "./edits.js";
import { getLogitsProcessor, type ProcessorConfig } from "./list.js";
import {
  EncoderRepetitionPenaltyLogitsProcessor,
  NoBadWordsLogitsProcessor,
  SequenceBiasLogitsProcessor,
} from "./text.js";
import { MARK, TextProcessor } from "./text-processor.js";
import type { WatermarkLogitsProcessor } from "./watermark.js";

/** Those that have such changes. */
export type TextOptions = Pick<
  ProcessorConfig,
  | "sequence_bias"
  | "encoder_repetition_penalty"
  | "no_repeat_ngram_size"
  | "encoder_no_repeat_ngram_size"
  | "bad_words_ids"
  | "min_length"
  | "min_new_tokens"
  | "forced_bos_token_id"
  | "forced_eos_token_id"
  | "exponential_decay_length_penalty"
>;

/** The processors of a row, before the penalties and behind them. */
interface RowProcessors {
  readonly early: readonly TextProcessor[];
  readonly late: readonly TextProcessor[];
  /** Of texts that do not change. */
  readonly fixed: Edits | undefined;
}

/**
 * @param encoder the texts of an encoder, none of one that reads sound; by default the prompts
 * @param green marks scores behind all other changes
 * @returns undefined if nothing changes
 */
export function editsOf(
  texts: TextOptions,
  { beams, max_new_tokens, eos_token_ids, vocab_size }: GenerationConfig,
  encoder: readonly (readonly number[])[] | undefined,
  green: WatermarkLogitsProcessor | undefined,
): TextEdits | undefined {
  if (Object.keys(texts).length === 0 && !green) return undefined;
  const rows = new Map<number, RowProcessors>();
  const changes = (list: readonly TextProcessor[], ids: readonly number[]): Edits | undefined => {
    if (list.length === 0) return undefined;
    const edits = new Edits(vocab_size);
    for (const processor of list) processor[MARK](edits, ids, 0);
    return edits;
  };
  const processorsOf = (row: number, prompt: readonly number[]): RowProcessors => {
    const item = Math.floor(row / rowsPerPrompt(beams));
    const list = getLogitsProcessor(
      {
        ...texts,
        eos_token_id: eos_token_ids.length > 0 ? eos_token_ids : null,
        max_length: prompt.length + max_new_tokens,
      },
      {
        input_ids_seq_length: prompt.length,
        encoder_input_ids: encoder ? encoder.slice(item, item + 1) : [prompt],
      },
    );
    const own = list.processors.filter((one): one is TextProcessor => one instanceof TextProcessor);
    const early = own.filter(isEarly);
    const fixed = early.every((one) => one instanceof EncoderRepetitionPenaltyLogitsProcessor);
    return { early, late: own.filter((one) => !isEarly(one)), fixed: fixed ? changes(early, prompt) : undefined };
  };
  return {
    of({ row, ids, prompt }): TextChanges {
      let own = rows.get(row);
      if (!own) rows.set(row, (own = processorsOf(row, ids.slice(0, prompt))));
      const { early, late, fixed } = own;
      return {
        early: fixed ?? changes(early, ids),
        late: changes(late, ids),
        green: green && { ids: isLong(ids, green) ? green.greenlist(ids) : NO_IDS, bias: green.config.bias },
      };
    },
  };
}

const NO_IDS = new Int32Array(0);

/** Shorter texts are not marked. */
const isLong = (ids: readonly number[], { config }: WatermarkLogitsProcessor): boolean =>
  ids.length >= config.context_width;

/** True for what transformers has before the repetition penalty. */
function isEarly(processor: TextProcessor): boolean {
  if (processor instanceof NoBadWordsLogitsProcessor) return false;
  return (
    processor instanceof SequenceBiasLogitsProcessor || processor instanceof EncoderRepetitionPenaltyLogitsProcessor
  );
}
