// DataCollatorWithFlattening: several texts in one row, without padding, by transformers' names. `forward` takes what it gives, and
// no text sees another one.

import { Callable } from "../core/callable.js";
import { listOf, numbersIn } from "../core/checks.js";
import { entriesOf, OptionError } from "../core/errors.js";
import { flag, number, type Options, readOptions } from "../core/options.js";
import { show } from "../core/show.js";

const isId = (value: number): boolean => Number.isSafeInteger(value);

const FLATTENING = {
  /** Give `position_ids`, which begin again with each text. Default true. */
  return_position_ids: flag(),
  /** The label of the first token of each text, which no token of the text before predicts. Default -100. */
  separator_id: number(isId, "a whole number"),
  /** Give `cu_seq_lens_q`, `cu_seq_lens_k`, `max_length_q` and `max_length_k`. Default false. */
  return_flash_attn_kwargs: flag(),
  /** Give `seq_idx`: the number of each token's text. Default false. */
  return_seq_idx: flag(),
  /** The position of each text's first token. Default 0. */
  position_ids_start: number((value) => isId(value) && value >= 0, "a whole number of at least 0"),
};

export interface FlatteningOptions extends Options<typeof FLATTENING> {}

/** One text: its ids, and what its tokens are to be predicted as, by default the ids. */
export interface FlatteningFeature {
  readonly input_ids: ArrayLike<number>;
  readonly labels?: ArrayLike<number>;
}

/** Texts in one row, [1,T]. */
export interface FlattenedBatch {
  input_ids: number[][];
  labels: number[][];
  position_ids?: number[][];
  seq_idx?: number[][];
  cu_seq_lens_q?: number[];
  cu_seq_lens_k?: number[];
  max_length_q?: number;
  max_length_k?: number;
}

type Collate = (features: readonly FlatteningFeature[]) => FlattenedBatch;

/** Called with texts, it gives them as one row: `new DataCollatorWithFlattening()([{ input_ids: [1, 2] }, { input_ids: [3] }])`. */
export class DataCollatorWithFlattening extends (Callable as new () => Collate) {
  readonly #options: FlatteningOptions;

  /** @throws OptionError */
  constructor(options: FlatteningOptions = {}) {
    super();
    this.#options = readOptions("DataCollatorWithFlattening", FLATTENING, options);
  }

  /** @throws OptionError for what are no texts, or labels of another length */
  _call(features: readonly FlatteningFeature[]): FlattenedBatch {
    const { return_position_ids = true, separator_id = -100, position_ids_start = 0 } = this.#options;
    const texts = readFeatures(features);
    const ends = [0];
    for (const { ids } of texts) ends.push(ends.at(-1)! + ids.length);
    const longest = texts.reduce((most, { ids }) => Math.max(most, ids.length), 0);
    const row = (of: (text: Text, index: number) => readonly number[]): number[][] => [texts.flatMap(of)];
    return {
      input_ids: row(({ ids }) => ids),
      labels: row(({ ids, labels }) => (ids.length === 0 ? [] : [separator_id, ...(labels ?? ids).slice(1)])),
      ...(return_position_ids ? { position_ids: row(({ ids }) => ids.map((_, at) => position_ids_start + at)) } : {}),
      ...(this.#options.return_seq_idx ? { seq_idx: row(({ ids }, n) => ids.map(() => n)) } : {}),
      ...(this.#options.return_flash_attn_kwargs
        ? { cu_seq_lens_q: ends, cu_seq_lens_k: [...ends], max_length_q: longest, max_length_k: longest }
        : {}),
    };
  }
}

interface Text {
  readonly ids: readonly number[];
  readonly labels: readonly number[] | undefined;
}

/** @throws OptionError */
function readFeatures(features: unknown): readonly Text[] {
  const call = "DataCollatorWithFlattening";
  const list = listOf(features, (one): one is object => typeof one === "object" && one !== null);
  if (!list || list.length === 0) {
    throw new OptionError(`${call}: it takes a list of texts, each with input_ids, got ${show(features)}`);
  }
  const texts = list.map((feature, n): Text => {
    const fields = new Map(entriesOf(`${call}: text ${n}`, feature));
    const ids = numbersIn(fields.get("input_ids"), isId);
    if (!ids) throw new OptionError(`${call}: input_ids of text ${n} are ${show(fields.get("input_ids"))}`);
    if (fields.get("labels") === undefined) return { ids, labels: undefined };
    const labels = numbersIn(fields.get("labels"), isId);
    if (labels?.length === ids.length) return { ids, labels };
    throw new OptionError(`${call}: text ${n} has ${ids.length} input_ids, and labels ${show(fields.get("labels"))}`);
  });
  const labelled = texts.filter(({ labels }) => labels !== undefined).length;
  if (labelled === 0 || labelled === texts.length) return texts;
  throw new OptionError(`${call}: ${labelled} of ${texts.length} texts have labels`);
}
