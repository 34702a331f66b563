// Perplexity of a text, in windows that overlap.

import { throwIfAborted } from "../core/errors.js";
import { callback, type Options, readOptions, signal } from "../core/options.js";
import type { PreTrainedModel } from "../generate/model.js";
import { checkCausal, holding, textWindows, WINDOWS, windowLogits, windowLogprobs } from "./text-windows.js";

const PERPLEXITY = {
  ...WINDOWS,
  signal: signal(),
  /** Called with the finished share, 0 to 1. */
  progress: callback<(done: number) => void>(),
};
export interface PerplexityOptions extends Readonly<Options<typeof PERPLEXITY>> {}

export interface Perplexity {
  /** Number of predicted tokens. */
  readonly tokens: number;
  /** Mean negative log-likelihood, nats per token. */
  readonly loss: number;
  readonly perplexity: number;
  /** Standard error of `perplexity`, from the spread of the tokens' losses. */
  readonly standard_error: number;
}

/**
 * Perplexity of token ids under a model. The first token is context only.
 * @throws OptionError for fewer than two tokens, a stride larger than the window, and wrong options; AbortError
 */
export async function perplexity(
  model: PreTrainedModel,
  ids: ArrayLike<number>,
  given: PerplexityOptions = {},
): Promise<Perplexity> {
  checkCausal("perplexity", model);
  const options = readOptions("perplexity", PERPLEXITY, given);
  const { tokens, windows } = textWindows("perplexity", ids, options);
  let sum = 0;
  let squares = 0;
  await holding([model], async () => {
    for (const window of windows) {
      throwIfAborted(options.signal, "evaluation");
      using logits = windowLogits(model, window.ids, options.cache_dtype);
      for (const value of await windowLogprobs(logits, window)) {
        sum -= value;
        squares += value * value;
      }
      options.progress?.(window.done);
    }
  });
  const loss = sum / tokens;
  const variance = Math.max(0, squares / tokens - loss * loss);
  return { tokens, loss, perplexity: Math.exp(loss), standard_error: Math.exp(loss) * Math.sqrt(variance / tokens) };
}
