// DataCollatorForLanguageModeling: labels for models that predict the next token, or tokens that are hidden.

import { Callable } from "../../core/callable.js";
import { OptionError } from "../../core/errors.js";
import { flag, number, type Options, readOptions } from "../../core/options.js";
import { IGNORED } from "../../ops/cross-entropy.js";
import type { PreTrainedTokenizer } from "../../tokenizer/api.js";
import {
  allHave,
  collatorOptions,
  type Fields,
  labelsOf,
  needed,
  PADDING,
  padRows,
  padTokens,
  readFeatures,
} from "./collator-options.js";
import { integers, seedOption } from "./random.js";
import type { Feature } from "./types.js";

const isShare = (value: number): boolean => value >= 0 && value <= 1;

const LANGUAGE = {
  ...PADDING,
  /** Hide tokens, which are to be found (BERT). Default true, as in Python; false for models that predict the next token. */
  mlm: flag(),
  /** The share of tokens that are to be found; default 0.15. */
  mlm_probability: number((value) => value > 0 && value <= 1, "a number above 0, at most 1"),
  /** Of those, the share that is replaced by the mask token; default 0.8. */
  mask_replace_prob: number(isShare, "a number from 0 to 1"),
  /** Of those, the share that is replaced by any token; default 0.1. The rest stays as it is. */
  random_replace_prob: number(isShare, "a number from 0 to 1"),
  /**
   * Which tokens are hidden. Default 0. Beside it only the tokens of the batch decide: a resumed run hides the same ones, and another
   * epoch others, as its batches are others.
   */
  seed: seedOption(),
};
export interface LanguageModelingOptions extends Options<typeof LANGUAGE> {}

const CALL = "DataCollatorForLanguageModeling";

export class DataCollatorForLanguageModeling extends (Callable as new () => (features: readonly Feature[]) => Fields) {
  readonly #options: LanguageModelingOptions;

  /** @throws OptionError */
  constructor(first: PreTrainedTokenizer | LanguageModelingOptions, second?: LanguageModelingOptions) {
    super();
    this.#options = readOptions(CALL, LANGUAGE, collatorOptions(CALL, first, second));
    const { mlm = true, mask_replace_prob = 0.8, random_replace_prob = 0.1 } = this.#options;
    const tokenizer = needed(CALL, this.#options.tokenizer);
    if (mlm && tokenizer.mask_token_id === null) {
      throw new OptionError(`${CALL}: the tokenizer has no mask token`, {
        details: { option: "mlm" },
        hint: "mlm: false, for a model that predicts the next token",
      });
    }
    if (mask_replace_prob + random_replace_prob > 1) {
      throw new OptionError(`${CALL}: mask_replace_prob and random_replace_prob are more than 1 together`, {
        details: { option: "random_replace_prob" },
      });
    }
  }

  /**
   * A batch with labels. For the next token they are the ids, and -100 for padding; labels that examples have are kept. Where the padding
   * token also ends texts, only tokens that padding has added count as padding, unlike in Python, so that the end is learned.
   * @throws OptionError for what are no examples
   */
  _call(features: readonly Feature[]): Fields {
    const { tokenizer, mlm = true } = this.#options;
    const read = readFeatures(CALL, features);
    const { special_tokens_mask, ...made } = padTokens(CALL, read, this.#options, ["labels"]);
    const ids = made.input_ids as number[][];
    if (mlm) return { ...made, ...this.#hide(ids, special_tokens_mask as number[][] | undefined) };
    const { padding_side, pad_token_id, eos_token_id } = tokenizer!;
    if (allHave(CALL, "labels", read)) {
      const rows = read.map((one, row) => labelsOf(CALL, "labels", one, row));
      return { ...made, labels: padRows(rows, ids[0]!.length, IGNORED, padding_side) };
    }
    const mask = made.attention_mask as number[][];
    const ends = pad_token_id === eos_token_id;
    const padded = (id: number, row: number, at: number): boolean =>
      id === pad_token_id && (!ends || mask[row]![at] === 0);
    return { ...made, labels: ids.map((list, row) => list.map((id, at) => (padded(id, row, at) ? IGNORED : id))) };
  }

  #hide(ids: readonly number[][], special: readonly number[][] | undefined): Fields {
    const {
      tokenizer,
      mlm_probability = 0.15,
      mask_replace_prob = 0.8,
      random_replace_prob = 0.1,
      seed = 0,
    } = this.#options;
    const { mask_token_id, size } = tokenizer!;
    const never = new Set(tokenizer!.all_special_ids);
    const below = integers(seed, hashOf(ids));
    const share = (): number => below(2 ** 32) / 2 ** 32;
    const labels: number[][] = [];
    const input_ids = ids.map((row, n) => {
      labels.push(row.map(() => IGNORED));
      return row.map((id, at) => {
        // Each token draws the same number of times, so that one more special token does not change what follows.
        const [chosen, kind, any] = [share(), share(), below(size)];
        const kept = special ? special[n]![at] === 1 : never.has(id);
        if (kept || chosen >= mlm_probability) return id;
        labels[n]![at] = id;
        if (kind < mask_replace_prob) return mask_token_id!;
        return kind < mask_replace_prob + random_replace_prob ? any : id;
      });
    });
    return { input_ids, labels };
  }
}

/** A number below 2^32 for the tokens of a batch (FNV-1a). */
function hashOf(rows: readonly (readonly number[])[]): number {
  let hash = 0x811c9dc5;
  for (const row of rows) {
    for (const id of row) {
      for (let byte = 0; byte < 32; byte += 8) hash = Math.imul(hash ^ ((id >>> byte) & 0xff), 0x01000193);
    }
    hash = Math.imul(hash ^ 0xff, 0x01000193);
  }
  return hash >>> 0;
}
