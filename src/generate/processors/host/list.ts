// The processors that a generation config asks for, in the order of transformers' generate().

import { isOf, listOf } from "../../../core/checks.js";
import { entriesOf, OptionError } from "../../../core/errors.js";
import { show } from "../../../core/show.js";
import type { PrefixAllowedTokens } from "../host-processor.js";
import { idsOf, RowProcessor, wholeOf } from "./base.js";
import {
  EncoderNoRepeatNGramLogitsProcessor,
  EncoderRepetitionPenaltyLogitsProcessor,
  ExponentialDecayLengthPenalty,
  ForcedBOSTokenLogitsProcessor,
  ForcedEOSTokenLogitsProcessor,
  InfNanRemoveLogitsProcessor,
  MinLengthLogitsProcessor,
  MinNewTokensLengthLogitsProcessor,
  NoBadWordsLogitsProcessor,
  NoRepeatNGramLogitsProcessor,
  PrefixConstrainedLogitsProcessor,
  RepetitionPenaltyLogitsProcessor,
  SequenceBiasLogitsProcessor,
  SuppressTokensAtBeginLogitsProcessor,
  SuppressTokensLogitsProcessor,
} from "./text.js";
import {
  EpsilonLogitsWarper,
  EtaLogitsWarper,
  LogitNormalization,
  MinPLogitsWarper,
  TemperatureLogitsWarper,
  TopKLogitsWarper,
  TopPLogitsWarper,
  TypicalLogitsWarper,
} from "./warpers.js";
import { type Watermarking, watermarkProcessor } from "./watermark.js";

/** Processors one after the other. */
export class LogitsProcessorList extends RowProcessor {
  readonly processors: readonly RowProcessor[];

  constructor(processors: readonly RowProcessor[] = []) {
    super();
    const list = listOf(processors, (one): one is RowProcessor => isOf(one, RowProcessor));
    if (!list) {
      throw new OptionError(`LogitsProcessorList takes a list of logits processors, got ${show(processors)}`);
    }
    this.processors = list;
  }

  change(scores: Float32Array, ids: readonly number[], row: number): void {
    for (const processor of this.processors) processor.change(scores, ids, row);
  }

  [Symbol.iterator](): Iterator<RowProcessor> {
    return this.processors[Symbol.iterator]();
  }
}

/** The fields of a GenerationConfig that have a processor. Null, undefined and neutral values ask for none. */
export interface ProcessorConfig {
  readonly sequence_bias?: readonly (readonly [readonly number[], number])[] | null;
  readonly encoder_repetition_penalty?: number | null;
  readonly repetition_penalty?: number | null;
  readonly no_repeat_ngram_size?: number | null;
  readonly encoder_no_repeat_ngram_size?: number | null;
  readonly bad_words_ids?: readonly (readonly number[])[] | null;
  readonly min_length?: number | null;
  readonly min_new_tokens?: number | null;
  readonly forced_bos_token_id?: number | null;
  readonly forced_eos_token_id?: number | readonly number[] | null;
  readonly remove_invalid_values?: boolean | null;
  readonly exponential_decay_length_penalty?: readonly [number, number] | null;
  readonly suppress_tokens?: readonly number[] | null;
  readonly begin_suppress_tokens?: readonly number[] | null;
  readonly do_sample?: boolean | null;
  readonly temperature?: number | null;
  readonly top_k?: number | null;
  readonly top_p?: number | null;
  readonly min_p?: number | null;
  readonly typical_p?: number | null;
  readonly epsilon_cutoff?: number | null;
  readonly eta_cutoff?: number | null;
  readonly watermarking_config?: Watermarking | null;
  readonly renormalize_logits?: boolean | null;
  readonly eos_token_id?: number | readonly number[] | null;
  readonly max_length?: number | null;
  readonly num_beams?: number | null;
}

/** What the processors must know of a call. */
export interface LogitsInputs {
  /** Tokens of the prompt. */
  readonly input_ids_seq_length: number;
  /** Which ids may follow. */
  readonly prefix_allowed_tokens_fn?: PrefixAllowedTokens | undefined;
  /** The encoder's text, or the prompt of a model without encoder. */
  readonly encoder_input_ids?: readonly (readonly number[])[];
  /** Tokens of the vocabulary: only for `watermarking_config`. */
  readonly vocab_size?: number;
}

/**
 * The processors of a generation config.
 * @throws OptionError for values that a processor refuses
 */
export function getLogitsProcessor(config: ProcessorConfig, inputs: LogitsInputs): LogitsProcessorList {
  const read = <T extends object>(what: string, given: T, keys: readonly string[]): T =>
    Object.fromEntries(entriesOf(what, given, keys)) as T;
  return processorsOf(
    read("getLogitsProcessor", config, Object.keys(NEUTRAL)),
    read("getLogitsProcessor: inputs", inputs, [
      "input_ids_seq_length",
      "encoder_input_ids",
      "prefix_allowed_tokens_fn",
      "vocab_size",
    ]),
  );
}

/** The values that ask for nothing, beside null; undefined where there is none. */
export const NEUTRAL: Readonly<Record<keyof ProcessorConfig, number | boolean | undefined>> = {
  sequence_bias: undefined,
  encoder_repetition_penalty: 1,
  repetition_penalty: 1,
  no_repeat_ngram_size: 0,
  encoder_no_repeat_ngram_size: 0,
  bad_words_ids: undefined,
  min_length: 0,
  min_new_tokens: 0,
  forced_bos_token_id: undefined,
  forced_eos_token_id: undefined,
  remove_invalid_values: false,
  exponential_decay_length_penalty: undefined,
  suppress_tokens: undefined,
  begin_suppress_tokens: undefined,
  do_sample: false,
  temperature: 1,
  top_k: 0,
  top_p: 1,
  min_p: 0,
  typical_p: 1,
  epsilon_cutoff: 0,
  eta_cutoff: 0,
  watermarking_config: undefined,
  renormalize_logits: false,
  eos_token_id: undefined,
  max_length: undefined,
  num_beams: 1,
};

function processorsOf(config: ProcessorConfig, inputs: LogitsInputs): LogitsProcessorList {
  const { encoder_input_ids: encoder = [], prefix_allowed_tokens_fn: allowed } = inputs;
  const prompt = wholeOf("input_ids_seq_length", inputs.input_ids_seq_length, 0);
  const eos = config.eos_token_id ?? undefined;
  const ends = eos === undefined ? [] : idsOf("eos_token_id", eos);
  const beams = wholeOf("num_beams", config.num_beams ?? 1, 1);
  const made: RowProcessor[] = [];
  /** Makes a processor if a field has a value that is not neutral. */
  const add = <K extends keyof ProcessorConfig>(
    key: K,
    make: (value: NonNullable<ProcessorConfig[K]>) => RowProcessor,
    value = config[key],
  ): void => {
    if (value !== undefined && value !== null && value !== NEUTRAL[key]) made.push(make(value));
  };
  const whereEnds: typeof add = (key, make) => {
    if (ends.length > 0) add(key, make);
  };
  add("sequence_bias", (bias) => new SequenceBiasLogitsProcessor(bias));
  add("encoder_repetition_penalty", (p) => new EncoderRepetitionPenaltyLogitsProcessor(p, encoder));
  add("repetition_penalty", (p) => new RepetitionPenaltyLogitsProcessor(p));
  add("no_repeat_ngram_size", (n) => new NoRepeatNGramLogitsProcessor(n));
  add("encoder_no_repeat_ngram_size", (n) => new EncoderNoRepeatNGramLogitsProcessor(n, encoder));
  add("bad_words_ids", (words) => new NoBadWordsLogitsProcessor(words, eos));
  whereEnds("min_length", (least) => new MinLengthLogitsProcessor(least, ends));
  whereEnds("min_new_tokens", (least) => new MinNewTokensLengthLogitsProcessor(prompt, least, ends));
  if (allowed !== undefined) made.push(new PrefixConstrainedLogitsProcessor(allowed, beams));
  add("forced_bos_token_id", (id) => new ForcedBOSTokenLogitsProcessor(id));
  const { max_length } = config;
  add("forced_eos_token_id", (ids) => new ForcedEOSTokenLogitsProcessor(max_length ?? 20, ids));
  add("remove_invalid_values", () => new InfNanRemoveLogitsProcessor());
  whereEnds("exponential_decay_length_penalty", (p) => new ExponentialDecayLengthPenalty(p, ends, prompt));
  add("suppress_tokens", (ids) => new SuppressTokensLogitsProcessor(ids));
  const first = prompt > 1 || (config.forced_bos_token_id ?? undefined) === undefined ? prompt : prompt + 1;
  add("begin_suppress_tokens", (ids) => new SuppressTokensAtBeginLogitsProcessor(ids, first));
  if (config.do_sample) {
    const keep = { min_tokens_to_keep: beams > 1 ? Math.max(2, ends.length + 1) : 1 };
    add("temperature", (t) => new TemperatureLogitsWarper(t));
    add("top_k", (k) => new TopKLogitsWarper(k, keep), config.top_k === undefined ? 50 : config.top_k);
    add("top_p", (p) => new TopPLogitsWarper(p, keep));
    add("min_p", (p) => new MinPLogitsWarper(p, keep));
    add("typical_p", (p) => new TypicalLogitsWarper(p, keep));
    add("epsilon_cutoff", (e) => new EpsilonLogitsWarper(e, keep));
    add("eta_cutoff", (e) => new EtaLogitsWarper(e, keep));
  }
  add("watermarking_config", (own) => watermarkProcessor(wholeOf("vocab_size", inputs.vocab_size, 1), own));
  add("renormalize_logits", () => new LogitNormalization());
  return new LogitsProcessorList(made);
}
