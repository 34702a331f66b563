// Perplexity of a text: windows that overlap, each token counted once, with as much context as its window gives.

import { isWhole, numbersIn } from "../core/checks.js";
import { OptionError, throwIfAborted } from "../core/errors.js";
import { callback, choice, type Options, readOptions, signal, whole } from "../core/options.js";
import { show } from "../core/show.js";
import { scope, Tensor } from "../core/tensor.js";
import { LoadedModel } from "../generate/base.js";
import { cacheShape } from "../generate/cache-options.js";
import { PreTrainedModel } from "../generate/model.js";
import { type CacheDType, KVCache } from "../nn/cache.js";
import { layerDevices } from "../nn/placement.js";
import { TextLengths } from "../nn/text-lengths.js";
import { tokenLogprobs } from "../ops/token-logprobs.js";

const PERPLEXITY = {
  /** Tokens per window; by default 512. */
  window: whole(1),
  /** Tokens by which the window advances, by default 256; the others are context only. */
  stride: whole(1),
  /** Run each window through a key-value cache of this dtype, as generation does; default: no cache. */
  cache_dtype: choice<CacheDType>(["f32", "bf16", "f16", "i8"]),
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
  if (!LoadedModel.is(model) || !(model instanceof PreTrainedModel)) {
    throw new OptionError(`perplexity: the model must be a causal language model, got ${show(model)}`);
  }
  const options = readOptions("perplexity", PERPLEXITY, given);
  const { window = 512, stride = 256 } = options;
  const list = numbersIn(ids, isWhole);
  if (!list) throw new OptionError(`perplexity: ids must be a list of token ids, got ${show(ids)}`);
  if (list.length < 2) throw new OptionError(`perplexity needs at least two tokens, got ${list.length}`);
  if (!(stride >= 1 && stride < window)) throw new OptionError(`stride must be from 1 to ${window - 1}, got ${stride}`);
  let sum = 0;
  let squares = 0;
  let counted = 1; // tokens up to here have been predicted
  for (let start = 0; counted < list.length; start += stride) {
    throwIfAborted(options.signal, "evaluation");
    const end = Math.min(start + window, list.length);
    const part = list.slice(start, end);
    for (const value of await windowLogprobs(model, part, counted - start, options.cache_dtype)) {
      sum -= value;
      squares += value * value;
    }
    counted = end;
    options.progress?.(counted / list.length);
  }
  const tokens = list.length - 1;
  const loss = sum / tokens;
  const variance = Math.max(0, squares / tokens - loss * loss);
  return { tokens, loss, perplexity: Math.exp(loss), standard_error: Math.exp(loss) * Math.sqrt(variance / tokens) };
}

/** Log-probabilities of tokens `from` .. end of one window, given those before them. */
async function windowLogprobs(
  model: PreTrainedModel,
  part: readonly number[],
  from: number,
  cache_dtype: CacheDType | undefined,
): Promise<Float32Array> {
  const logits = cache_dtype ? cachedLogits(model, part, cache_dtype) : model.forward({ input_ids: [part] }).logits;
  const [, steps = 0, vocab = 0] = logits.shape;
  let result: Tensor | undefined;
  try {
    result = scope(() => {
      const rows = logits.view(steps, vocab).narrow(0, from - 1, steps - from); // [R,V]: row t predicts token t + 1
      const targets = Tensor.from(logits.device, Int32Array.from(part.slice(from)), [steps - from]);
      return tokenLogprobs(rows, targets);
    });
    return await result.readFloats();
  } finally {
    result?.dispose();
    logits.dispose();
  }
}

/** Logits [1,T,vocab] of tokens whose keys and values have gone through a cache. */
function cachedLogits({ device, module }: PreTrainedModel, part: readonly number[], dtype: CacheDType): Tensor {
  const shape = [1, part.length];
  using cache = new KVCache(layerDevices(module, device), {
    ...cacheShape(module, 1, part.length, dtype),
    chunk: part.length,
  });
  return scope(() => {
    const ids = Tensor.from(device, Int32Array.from(part), shape);
    const lanes = Tensor.from(
      device,
      Int32Array.from({ length: 2 * part.length }, (_, i) => Math.max(0, i - part.length)),
      [2, ...shape],
    );
    cache.extend([part.length]);
    using lengths = new TextLengths([part.length]);
    return module.forward({ ids, positions: lanes.select(0, 1), lanes, cache, lengths });
  });
}
