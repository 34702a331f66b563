// Collators with transformers' names: they make batches of examples, padded, with labels. Each is called with examples, and depends on
// nothing but them.

import { Callable } from "../../core/callable.js";
import { numbersIn } from "../../core/checks.js";
import { OptionError } from "../../core/errors.js";
import { number, type Options, readOptions, such } from "../../core/options.js";
import { show } from "../../core/show.js";
import { DataCollatorWithFlattening, type FlattenedBatch, type FlatteningFeature } from "../../generate/flattening.js";
import { shiftedRight } from "../../generate/seq2seq-inputs.js";
import { IGNORED } from "../../ops/cross-entropy.js";
import type { PreTrainedTokenizer } from "../../tokenizer/api.js";
import {
  allHave,
  collatorOptions,
  type Fields,
  labelsOf,
  needed,
  numbersOf,
  PADDING,
  type PaddingOptions,
  padRows,
  padTokens,
  readFeatures,
  rounded,
} from "./collator-options.js";
import type { Feature } from "./types.js";

type Collate<T = Fields> = (features: readonly Feature[]) => T;
const Collator = Callable as new () => Collate;

/** Fills rows to one length; labels are one number for each example, or alike in length. */
export class DataCollatorWithPadding extends Collator {
  readonly #options: PaddingOptions;

  /** `new DataCollatorWithPadding(tokenizer, { pad_to_multiple_of })`, or all of it in one object. @throws OptionError */
  constructor(first: PreTrainedTokenizer | PaddingOptions, second?: PaddingOptions) {
    super();
    const call = "DataCollatorWithPadding";
    this.#options = readOptions(call, PADDING, collatorOptions(call, first, second));
    needed(call, this.#options.tokenizer);
  }

  /** @throws OptionError for what are no examples */
  _call(features: readonly Feature[]): Fields {
    const call = "DataCollatorWithPadding";
    const { label, label_ids, ...made } = padTokens(call, readFeatures(call, features), this.#options);
    const labels = label ?? label_ids;
    return labels === undefined ? made : { ...made, labels };
  }
}

const LABELLED = {
  ...PADDING,
  /** What fills labels. Default -100, which does not count. */
  label_pad_token_id: number(Number.isSafeInteger, "a whole number"),
};
export interface TokenClassificationOptions extends Options<typeof LABELLED> {}

/** Fills tokens, and labels that are one number for each token. */
export class DataCollatorForTokenClassification extends Collator {
  readonly #options: TokenClassificationOptions;

  /** @throws OptionError */
  constructor(first: PreTrainedTokenizer | TokenClassificationOptions, second?: TokenClassificationOptions) {
    super();
    const call = "DataCollatorForTokenClassification";
    this.#options = readOptions(call, LABELLED, collatorOptions(call, first, second));
    needed(call, this.#options.tokenizer);
  }

  /** @throws OptionError for what are no examples */
  _call(features: readonly Feature[]): Fields {
    const call = "DataCollatorForTokenClassification";
    const { tokenizer, label_pad_token_id = IGNORED } = this.#options;
    const read = readFeatures(call, features);
    const name = read.some((one) => one.has("label")) ? "label" : "labels";
    const made = padTokens(call, read, this.#options, [name]);
    if (!allHave(call, name, read)) return made;
    const rows = read.map((one, row) => labelsOf(call, name, one, row));
    const { length } = (made.input_ids as number[][])[0]!;
    return { ...made, labels: padRows(rows, length, label_pad_token_id, tokenizer!.padding_side) };
  }
}

/** What a collator asks of an encoder-decoder. */
interface WithConfig {
  readonly config: object;
}

const SEQ2SEQ = {
  ...LABELLED,
  /** The model: it gets `decoder_input_ids`, the labels one place later behind its first token. */
  model: such<WithConfig>(
    (value) =>
      (typeof value === "object" || typeof value === "function") &&
      value !== null &&
      typeof (value as WithConfig).config === "object",
    "a model",
  ),
};
export interface Seq2SeqCollatorOptions extends Options<typeof SEQ2SEQ> {}

/** Fills tokens, and labels of any other length. */
export class DataCollatorForSeq2Seq extends Collator {
  readonly #options: Seq2SeqCollatorOptions;

  /** @throws OptionError */
  constructor(first: PreTrainedTokenizer | Seq2SeqCollatorOptions, second?: Seq2SeqCollatorOptions) {
    super();
    const call = "DataCollatorForSeq2Seq";
    this.#options = readOptions(call, SEQ2SEQ, collatorOptions(call, first, second));
    needed(call, this.#options.tokenizer);
  }

  /** @throws OptionError for what are no examples */
  _call(features: readonly Feature[]): Fields {
    const call = "DataCollatorForSeq2Seq";
    const { tokenizer, model, padding = true, max_length, pad_to_multiple_of } = this.#options;
    const { label_pad_token_id = IGNORED } = this.#options;
    const read = readFeatures(call, features);
    const name = read.some((one) => one.has("label")) ? "label" : "labels";
    const made = padTokens(call, read, this.#options, [name]);
    if (!allHave(call, name, read)) return made;
    const rows = read.map((one, row) => numbersOf(call, name, one.get(name), row));
    const longest = Math.max(...rows.map((row) => row.length));
    const pads = padding !== false && padding !== "do_not_pad";
    const most = padding === "max_length" && max_length !== undefined ? max_length : longest;
    const length = pads ? Math.max(longest, rounded(most, pad_to_multiple_of)) : longest;
    if (!pads && rows.some((row) => row.length !== length)) {
      throw new OptionError(`${call}: labels of other lengths need padding: true`, { details: { option: "padding" } });
    }
    const labels = padRows(rows, length, label_pad_token_id, tokenizer!.padding_side);
    return { ...made, labels, ...(model ? { decoder_input_ids: decoderIds(call, model, labels) } : {}) };
  }
}

/** What the decoder reads for labels. @throws OptionError for a model that has no token to begin with */
function decoderIds(call: string, { config }: WithConfig, labels: readonly number[][]): number[][] {
  try {
    return shiftedRight(config, labels);
  } catch (error) {
    if (!(error instanceof OptionError)) throw error;
    const message = `${call}: ${error.message.split("\n")[0]}`;
    throw new OptionError(message, {
      details: { option: "model" },
      hint: "pass an encoder-decoder as model, or none",
      cause: error,
    });
  }
}

const isId = (value: number): boolean => Number.isSafeInteger(value) && value >= 0;
const template = () =>
  such<string | readonly number[]>(
    (value) => (typeof value === "string" && value !== "") || (numbersIn(value, isId)?.length ?? 0) > 0,
    "text or its tokens",
  );

const COMPLETION = {
  ...PADDING,
  /** What stands before a completion, as text or as tokens: "### Answer:". */
  response_template: template(),
  /** What stands before each of several prompts in a text; what is between it and the next response is not learned. */
  instruction_template: template(),
};
export interface CompletionCollatorOptions extends Options<typeof COMPLETION> {}

/**
 * Labels completions alone: what is behind the last `response_template` of a text, or between each of them and the next
 * `instruction_template`. A text without the template counts nothing. (TRL's, of versions before its data sets told completions apart.)
 */
export class DataCollatorForCompletionOnlyLM extends Collator {
  readonly #options: CompletionCollatorOptions;
  readonly #response: readonly number[];
  readonly #instruction: readonly number[] | undefined;

  /** @throws OptionError */
  constructor(options: CompletionCollatorOptions) {
    super();
    const call = "DataCollatorForCompletionOnlyLM";
    this.#options = readOptions(call, COMPLETION, options);
    const tokenizer = needed(call, this.#options.tokenizer);
    const { response_template, instruction_template } = this.#options;
    const idsOf = (given: string | readonly number[]): readonly number[] =>
      typeof given === "string" ? tokenizer.encode(given, { add_special_tokens: false }) : given;
    if (response_template === undefined) {
      throw new OptionError(`${call}: it needs a response_template`, { details: { option: "response_template" } });
    }
    this.#response = idsOf(response_template);
    this.#instruction = instruction_template === undefined ? undefined : idsOf(instruction_template);
  }

  /** @throws OptionError for what are no examples */
  _call(features: readonly Feature[]): Fields {
    const call = "DataCollatorForCompletionOnlyLM";
    const read = readFeatures(call, features);
    const made = padTokens(call, read, this.#options, ["labels"]);
    const rows = read.map((one, row) => this.#labels(numbersOf(call, "input_ids", one.get("input_ids"), row)));
    const { length } = (made.input_ids as number[][])[0]!;
    return { ...made, labels: padRows(rows, length, IGNORED, this.#options.tokenizer!.padding_side) };
  }

  #labels(ids: readonly number[]): number[] {
    const responses = placesOf(this.#response, ids);
    const labels = ids.map(() => IGNORED);
    if (this.#instruction === undefined) {
      const last = responses.at(-1);
      return last === undefined ? labels : ids.map((id, at) => (at < last ? IGNORED : id));
    }
    const instructions = placesOf(this.#instruction, ids).map((end) => end - this.#instruction!.length);
    for (const begin of responses) {
      const end = instructions.find((at) => at >= begin) ?? ids.length;
      for (let at = begin; at < end; at++) labels[at] = ids[at]!;
    }
    return labels;
  }
}

/** Where some tokens end in a text, each time that they stand there. */
function placesOf(tokens: readonly number[], ids: readonly number[]): number[] {
  const ends: number[] = [];
  for (let at = 0; at + tokens.length <= ids.length; at++) {
    if (tokens.every((id, i) => ids[at + i] === id)) ends.push(at + tokens.length);
  }
  return ends;
}

/**
 * Puts packed examples, `{ input_ids, labels, seq_lengths }`, into one row without padding, whose texts do not see each other:
 * DataCollatorWithFlattening for the texts in them.
 */
export class DataCollatorForPackedTexts extends (Callable as new () => Collate<FlattenedBatch>) {
  readonly #flatten: DataCollatorWithFlattening = new DataCollatorWithFlattening();

  /** @throws OptionError for what are no packed examples */
  _call(features: readonly Feature[]): FlattenedBatch {
    const call = "DataCollatorForPackedTexts";
    const texts = readFeatures(call, features).flatMap((one, row): FlatteningFeature[] => {
      const [ids, lengths] = ["input_ids", "seq_lengths"].map((name) => numbersOf(call, name, one.get(name), row));
      const labels = one.get("labels") === undefined ? ids! : numbersOf(call, "labels", one.get("labels"), row);
      const total = lengths!.reduce((sum, length) => sum + length, 0);
      if (total !== ids!.length || labels.length !== ids!.length || !lengths!.every((one) => isId(one))) {
        throw new OptionError(`${call}: example ${row} has ${ids!.length} tokens, and texts of ${show(lengths)}`);
      }
      let end = 0;
      return lengths!.map((length) => {
        const begin = end;
        end += length;
        return { input_ids: ids!.slice(begin, end), labels: labels.slice(begin, end) };
      });
    });
    return this.#flatten(texts);
  }
}
