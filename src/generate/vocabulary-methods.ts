// The method of loaded models that changes the number of their tokens, after a tokenizer got new ones.

import { OctavoError, OptionError } from "../core/errors.js";
import { flag, type Options, readOptions, whole } from "../core/options.js";
import { show } from "../core/show.js";
import { resizeVocabulary } from "../load/resize.js";
import type { ConfigJson } from "../nn/architecture.js";
import type { Model } from "../nn/model.js";
import type { Embedding } from "../nn/module.js";
import { Called } from "./called.js";

const RESIZE = {
  /** The number is raised to a multiple of this. */
  pad_to_multiple_of: whole(1),
  /** New rows are drawn around the mean of the old ones (default); else around zero, as wide as the config says. */
  mean_resizing: flag(),
};
export interface ResizeTokensOptions extends Readonly<Options<typeof RESIZE>> {}

/** Most tokens: ids are 32-bit numbers. */
const MOST = 2 ** 31 - 1;
/** The deviation of new rows where the config names none, as in transformers. */
const DEVIATION = 0.02;

export abstract class VocabularyMethods extends Called {
  abstract readonly module: Model;
  abstract readonly config: ConfigJson;
  #resized: number | undefined;

  /** @throws OctavoError after dispose() */
  abstract checkUsable(): void;
  /** @throws OctavoError while something reads the weights, or they lie elsewhere */
  protected abstract checkIdle(method: string): void;

  /** The number of tokens, if it is no longer that of the files. */
  protected get resized(): number | undefined {
    return this.#resized;
  }

  /** From here on the model has another number of tokens than its files. */
  protected retokened(tokens: number): void {
    this.#resized = tokens;
    Object.assign(this.config, { vocab_size: tokens });
  }

  /**
   * Gives the embeddings, the output embeddings and their biases one row for each of `new_num_tokens` tokens; tied ones stay tied. Rows
   * that stay keep their values, and new ones are drawn as in transformers (`manual_seed` seeds them).
   * @param new_num_tokens such as `tokenizer.size`; by default as many as there are
   * @returns the embeddings of input ids
   * @throws OptionError; OctavoError while something uses the model, for models without tokens, and for embeddings that are codes or
   * have adapters; OutOfMemoryError
   */
  resize_token_embeddings(new_num_tokens?: number | null, options: ResizeTokensOptions = {}): Embedding {
    const method = "resize_token_embeddings";
    const { pad_to_multiple_of: multiple = 1, mean_resizing: mean = true } = readOptions(method, RESIZE, options);
    const given = new_num_tokens ?? undefined;
    if (given !== undefined && !(Number.isInteger(given) && given > 0 && given <= MOST)) {
      throw new OptionError(`${method}: new_num_tokens must be a whole number above 0, got ${show(given)}`);
    }
    this.checkUsable();
    this.checkIdle(method);
    const vocabulary = this.module.vocabulary();
    if (!vocabulary) {
      throw new OctavoError(
        "ERR_UNSUPPORTED",
        `${method}: ${this.module.class_name} has no table of tokens, or more than one`,
      );
    }
    const { words, geometry } = vocabulary;
    const tokens = Math.ceil((given ?? geometry.vocab) / multiple) * multiple;
    if (tokens > MOST) throw new OptionError(`${method}: ${tokens} tokens are more than ${MOST}`);
    if (tokens === geometry.vocab) return words;
    const { initializer_range, init_std } = this.config;
    const deviation = [initializer_range, init_std].find((value) => typeof value === "number") ?? DEVIATION;
    resizeVocabulary(this.module, vocabulary, tokens, { mean, deviation });
    this.retokened(tokens);
    return words;
  }
}
