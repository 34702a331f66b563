// Windows over a long text, as perplexity and divergence see it: each token is predicted once, with as much context as its window
// gives.

import { isWhole, numbersIn } from "../core/checks.js";
import { OptionError } from "../core/errors.js";
import { choice, whole } from "../core/options.js";
import { show } from "../core/show.js";
import { scope, Tensor } from "../core/tensor.js";
import { LoadedModel } from "../generate/base.js";
import { cacheShape } from "../generate/cache-options.js";
import { PreTrainedModel } from "../generate/model.js";
import { type CacheDType, KVCache } from "../nn/cache.js";
import { layerDevices } from "../nn/placement.js";
import { TextLengths } from "../nn/text-lengths.js";
import { tokenLogprobs } from "../ops/token-logprobs.js";

export const WINDOWS = {
  /** Tokens per window; by default 512. */
  window: whole(1),
  /** Tokens by which the window advances, by default 256; the others are context only. */
  stride: whole(1),
  /** Run each window through a key-value cache of this dtype, as generation does; default: no cache. */
  cache_dtype: choice<CacheDType>(["f32", "bf16", "f16", "i8"]),
};

export interface TextWindow {
  readonly ids: readonly number[];
  /** Its tokens from here on are predicted; those before are context. */
  readonly from: number;
  /** Finished share of the text after it, 0 to 1. */
  readonly done: number;
}

/** @throws OptionError unless it is a causal language model */
export function checkCausal(call: string, model: unknown): asserts model is PreTrainedModel {
  if (LoadedModel.is(model) && model instanceof PreTrainedModel) return;
  throw new OptionError(`${call}: the model must be a causal language model, got ${show(model)}`);
}

/** Holds models while their text is read: nothing may change their weights. @throws OctavoError after dispose() */
export async function holding<T>(models: readonly PreTrainedModel[], work: () => Promise<T>): Promise<T> {
  for (const model of models) model.checkUsable();
  for (const model of models) model.hold();
  try {
    return await work();
  } finally {
    for (const model of models) await model.release();
  }
}

/**
 * The windows of a text, whose first token is context only, and the number of tokens that they predict.
 * @throws OptionError for fewer than two tokens, and a stride that is not smaller than the window
 */
export function textWindows(
  call: string,
  ids: ArrayLike<number>,
  { window = 512, stride = 256 }: { readonly window?: number | undefined; readonly stride?: number | undefined },
): { readonly tokens: number; readonly windows: Generator<TextWindow> } {
  const list = numbersIn(ids, isWhole);
  if (!list) throw new OptionError(`${call}: ids must be a list of token ids, got ${show(ids)}`);
  if (list.length < 2) throw new OptionError(`${call} needs at least two tokens, got ${list.length}`);
  if (!(stride >= 1 && stride < window)) throw new OptionError(`stride must be from 1 to ${window - 1}, got ${stride}`);
  function* windows(): Generator<TextWindow> {
    let counted = 1; // tokens up to here have been predicted
    for (let start = 0; counted < list!.length; start += stride) {
      const end = Math.min(start + window, list!.length);
      yield { ids: list!.slice(start, end), from: counted - start, done: end / list!.length };
      counted = end;
    }
  }
  return { tokens: list.length - 1, windows: windows() };
}

/** Logits f32[1,T,vocab] of a window. */
export function windowLogits(model: PreTrainedModel, part: readonly number[], cache?: CacheDType): Tensor {
  model.checkUsable(); // it may have been disposed since the last window
  return cache ? cachedLogits(model, part, cache) : model.forward({ input_ids: [part] }).logits;
}

/** The rows of logits [1,T,vocab] that predict a window's tokens: row t predicts token t + 1. Call it in a scope. */
export function predictingRows(logits: Tensor, { from }: TextWindow): Tensor {
  const [, steps = 0, vocab = 0] = logits.shape;
  return logits.view(steps, vocab).narrow(0, from - 1, steps - from);
}

/** Log-probabilities of the tokens that a window predicts, in nats. */
export async function windowLogprobs(logits: Tensor, window: TextWindow): Promise<Float32Array> {
  using result = scope(() => {
    const next = Int32Array.from(window.ids.slice(window.from));
    return tokenLogprobs(predictingRows(logits, window), Tensor.from(logits.device, next, [next.length]));
  });
  return await result.readFloats();
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
