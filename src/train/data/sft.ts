// Data sets for supervised fine-tuning: examples of any of its formats become tokens with labels, cut and packed.

import { isOf, numbersIn } from "../../core/checks.js";
import { OptionError } from "../../core/errors.js";
import { readOptions } from "../../core/options.js";
import { show } from "../../core/show.js";
import { IGNORED } from "../../ops/cross-entropy.js";
import { PreTrainedTokenizer } from "../../tokenizer/api.js";
import { Dataset } from "./dataset.js";
import { type Tokens, tokensOf } from "./format.js";
import { IterableDataset } from "./iterable-dataset.js";
import { packed } from "./packing.js";
import { MAX_LENGTH } from "./prepared-sets.js";
import { SFT, type SFTOptions } from "./sft-options.js";
import type { Feature } from "./types.js";

/** Examples that are packed together. */
const TOGETHER = 1000;

const CALL = "prepare_sft_dataset";

/**
 * Examples as tokens with labels: `{ input_ids, labels }`, and `seq_lengths` where they are packed. Examples that have `input_ids`
 * already keep their tokens. Those of which nothing is left to learn are left out, unless they are packed.
 * @throws OptionError for examples of no format, with their number; what the chat template throws
 */
export function prepare_sft_dataset<D extends Dataset | IterableDataset>(
  dataset: D,
  tokenizer: PreTrainedTokenizer,
  options: SFTOptions = {},
): D extends Dataset ? Dataset : IterableDataset {
  const given = readOptions(CALL, SFT, options);
  if (!isOf(tokenizer, PreTrainedTokenizer)) {
    throw new OptionError(`${CALL}: expected a tokenizer, got ${show(tokenizer)}`);
  }
  const { max_length = MAX_LENGTH, packing = false, packing_strategy = "bfd" } = given;
  if (packing && max_length === null) {
    throw new OptionError(`${CALL}: packing needs a max_length`, { details: { option: "max_length" } });
  }
  const tokens = (example: Feature, index: number): Tokens => tokenized(example, tokenizer, given, `example ${index}`);
  // What is packed is cut by the packing, which keeps beginnings.
  const cut = (text: Tokens): Tokens => (packing ? text : truncated(text, max_length, given));
  const pack = (texts: readonly Tokens[]): readonly Tokens[] =>
    packing ? packed(texts, max_length!, packing_strategy) : texts.filter(learns);
  if (isOf(dataset, Dataset)) {
    const texts = dataset.to_list().map((example, i) => cut(tokens(example, i)));
    const rows: Tokens[] = [];
    for (let at = 0; at < texts.length; at += TOGETHER) {
      for (const row of pack(texts.slice(at, at + TOGETHER))) rows.push(row);
    }
    return Dataset.from_list(rows as readonly object[] as readonly Feature[]) as never;
  }
  if (!isOf(dataset, IterableDataset)) {
    throw new OptionError(`${CALL}: expected a Dataset or an IterableDataset, got ${show(dataset)}`, {
      hint: "Dataset.from_list(rows) makes one",
    });
  }
  return dataset.pipe(async function* (examples) {
    let texts: Tokens[] = [];
    let index = 0;
    for await (const example of examples) {
      texts.push(cut(tokens(example, index++)));
      if (packing && texts.length < TOGETHER) continue;
      yield* pack(texts) as readonly object[] as readonly Feature[];
      texts = [];
    }
    yield* pack(texts) as readonly object[] as readonly Feature[];
  }) as never;
}

/** The tokens of an example, made here or before. @throws OptionError */
function tokenized(example: Feature, tokenizer: PreTrainedTokenizer, options: SFTOptions, place: string): Tokens {
  if (example.input_ids === undefined) return tokensOf(example, tokenizer, options, place);
  const list = (name: string): number[] | undefined => {
    const value = example[name];
    if (value === undefined) return undefined;
    const numbers = numbersIn(value, Number.isSafeInteger);
    if (numbers && (name === "input_ids" || numbers.length === ids.length)) return numbers;
    throw new OptionError(`${place}: ${name} must be whole numbers, one for each token, got ${show(value)}`);
  };
  let ids: readonly number[] = [];
  ids = list("input_ids")!;
  const labels = list("labels") ?? ids;
  const masks = [
    options.completion_only_loss === false ? undefined : list("completion_mask"),
    options.assistant_only_loss ? list("assistant_masks") : undefined,
  ];
  return {
    input_ids: ids,
    labels: labels.map((label, at) => (masks.some((mask) => mask?.[at] === 0) ? IGNORED : label)),
  };
}

/** A text of at most `length` tokens. */
function truncated(text: Tokens, length: number | null, { truncation_mode = "keep_start" }: SFTOptions): Tokens {
  if (length === null || text.input_ids.length <= length) return text;
  const cut = (list: readonly number[]): readonly number[] =>
    truncation_mode === "keep_start" ? list.slice(0, length) : list.slice(-length);
  return { input_ids: cut(text.input_ids), labels: cut(text.labels) };
}

/** The first token of a text is not predicted, so its label does not count. */
function learns({ labels }: Tokens): boolean {
  return labels.some((label, at) => at > 0 && label !== IGNORED);
}
