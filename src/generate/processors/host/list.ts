// The processors that a generation config asks for, in the order of transformers' generate().

import { isOf, listOf } from "../../../core/checks.js";
import { entriesOf, OptionError } from "../../../core/errors.js";
import { show } from "../../../core/show.js";
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
  readonly renormalize_logits?: boolean | null;
  readonly eos_token_id?: number | readonly number[] | null;
  readonly max_length?: number | null;
  readonly num_beams?: number | null;
}

/** What the processors must know of a call. */
export interface LogitsInputs {
  /** Tokens of the prompt. */
  readonly input_ids_seq_length: number;
  /** The encoder's text, or the prompt of a model without encoder. */
  readonly encoder_input_ids?: readonly (readonly number[])[];
}

/**
 * The processors of a generation config.
 * @throws OptionError for values that a processor refuses
 */
export function getLogitsProcessor(config: ProcessorConfig, inputs: LogitsInputs): LogitsProcessorList {
  const read = <T extends object>(what: string, given: T, keys: readonly string[]): T =>
    Object.fromEntries(entriesOf(what, given, keys)) as T;
  return processorsOf(
    read("getLogitsProcessor", config, FIELDS),
    read("getLogitsProcessor: inputs", inputs, ["input_ids_seq_length", "encoder_input_ids"]),
  );
}

const FIELDS: readonly (keyof ProcessorConfig)[] = [
  "sequence_bias",
  "encoder_repetition_penalty",
  "repetition_penalty",
  "no_repeat_ngram_size",
  "encoder_no_repeat_ngram_size",
  "bad_words_ids",
  "min_length",
  "min_new_tokens",
  "forced_bos_token_id",
  "forced_eos_token_id",
  "remove_invalid_values",
  "exponential_decay_length_penalty",
  "suppress_tokens",
  "begin_suppress_tokens",
  "do_sample",
  "temperature",
  "top_k",
  "top_p",
  "min_p",
  "typical_p",
  "epsilon_cutoff",
  "eta_cutoff",
  "renormalize_logits",
  "eos_token_id",
  "max_length",
  "num_beams",
];

function processorsOf(config: ProcessorConfig, inputs: LogitsInputs): LogitsProcessorList {
  const { encoder_input_ids: encoder = [] } = inputs;
  const prompt = wholeOf("input_ids_seq_length", inputs.input_ids_seq_length, 0);
  const eos = config.eos_token_id ?? undefined;
  const ends = eos === undefined ? [] : idsOf("eos_token_id", eos);
  const beams = wholeOf("num_beams", config.num_beams ?? 1, 1);
  const made: RowProcessor[] = [];
  /** Makes a processor if a field has a value that is not neutral. */
  const add = <T>(value: T | null | undefined, neutral: T | undefined, make: (value: T) => RowProcessor): void => {
    if (value !== undefined && value !== null && value !== neutral) made.push(make(value));
  };
  const whereEnds = <T>(value: T | null | undefined, neutral: T, make: (value: T) => RowProcessor): void => {
    if (ends.length > 0) add(value, neutral, make);
  };
  add(config.sequence_bias, undefined, (bias) => new SequenceBiasLogitsProcessor(bias));
  add(config.encoder_repetition_penalty, 1, (p) => new EncoderRepetitionPenaltyLogitsProcessor(p, encoder));
  add(config.repetition_penalty, 1, (p) => new RepetitionPenaltyLogitsProcessor(p));
  add(config.no_repeat_ngram_size, 0, (n) => new NoRepeatNGramLogitsProcessor(n));
  add(config.encoder_no_repeat_ngram_size, 0, (n) => new EncoderNoRepeatNGramLogitsProcessor(n, encoder));
  add(config.bad_words_ids, undefined, (words) => new NoBadWordsLogitsProcessor(words, eos));
  whereEnds(config.min_length, 0, (least) => new MinLengthLogitsProcessor(least, ends));
  whereEnds(config.min_new_tokens, 0, (least) => new MinNewTokensLengthLogitsProcessor(prompt, least, ends));
  add(config.forced_bos_token_id, undefined, (id) => new ForcedBOSTokenLogitsProcessor(id));
  const { max_length } = config;
  add(config.forced_eos_token_id, undefined, (ids) => new ForcedEOSTokenLogitsProcessor(max_length ?? 20, ids));
  add(config.remove_invalid_values, false, () => new InfNanRemoveLogitsProcessor());
  if (ends.length > 0) {
    add(config.exponential_decay_length_penalty, undefined, (p) => new ExponentialDecayLengthPenalty(p, ends, prompt));
  }
  add(config.suppress_tokens, undefined, (ids) => new SuppressTokensLogitsProcessor(ids));
  const first = prompt > 1 || (config.forced_bos_token_id ?? undefined) === undefined ? prompt : prompt + 1;
  add(config.begin_suppress_tokens, undefined, (ids) => new SuppressTokensAtBeginLogitsProcessor(ids, first));
  if (config.do_sample) {
    const keep = { min_tokens_to_keep: beams > 1 ? Math.max(2, ends.length + 1) : 1 };
    add(config.temperature, 1, (t) => new TemperatureLogitsWarper(t));
    add(config.top_k === undefined ? 50 : config.top_k, 0, (k) => new TopKLogitsWarper(k, keep));
    add(config.top_p, 1, (p) => new TopPLogitsWarper(p, keep));
    add(config.min_p, 0, (p) => new MinPLogitsWarper(p, keep));
    add(config.typical_p, 1, (p) => new TypicalLogitsWarper(p, keep));
    add(config.epsilon_cutoff, 0, (e) => new EpsilonLogitsWarper(e, keep));
    add(config.eta_cutoff, 0, (e) => new EtaLogitsWarper(e, keep));
  }
  add(config.renormalize_logits, false, () => new LogitNormalization());
  return new LogitsProcessorList(made);
}
