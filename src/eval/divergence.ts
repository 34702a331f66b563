// How far a model's predictions are from those of another one, usually its own weights in f32: the Kullback-Leibler divergence of
// the next token, agreement on the likeliest one, and on request the error of the hidden states after each block.

import { OptionError, throwIfAborted } from "../core/errors.js";
import { callback, flag, type Options, readOptions, signal } from "../core/options.js";
import { listed } from "../core/show.js";
import { scope, type Tensor } from "../core/tensor.js";
import type { PreTrainedModel } from "../generate/model.js";
import type { CacheDType } from "../nn/cache.js";
import { logitsGap } from "./logits-gap.js";
import {
  checkCausal,
  holding,
  predictingRows,
  type TextWindow,
  textWindows,
  WINDOWS,
  windowLogits,
  windowLogprobs,
} from "./text-windows.js";

const DIVERGENCE = {
  ...WINDOWS,
  /** Also compare the hidden states after each block; not with a cache. */
  layers: flag(),
  signal: signal(),
  /** Called with the finished share, 0 to 1. */
  progress: callback<(done: number) => void>(),
};
export interface DivergenceOptions extends Readonly<Options<typeof DIVERGENCE>> {}

/** The hidden states after a block; those of the last one are normalised. */
export interface LayerError {
  readonly layer: string;
  /** |h' - h| / |h| over all tokens. */
  readonly error: number;
}

export interface Divergence {
  /** Number of predicted tokens. */
  readonly tokens: number;
  /** Mean over the tokens of KL(p || p'), in nats, where p is the reference's distribution, and its standard error. */
  readonly kl: number;
  readonly kl_standard_error: number;
  readonly kl_median: number;
  /** 99 of 100 tokens have less. */
  readonly kl_99: number;
  readonly kl_max: number;
  /** Share of the tokens for which both find the same one the likeliest, 0 to 1, and its standard error. */
  readonly same_top: number;
  readonly same_top_standard_error: number;
  readonly perplexity: number;
  readonly reference_perplexity: number;
  /** With `layers`: one for each block, in order. */
  readonly layers?: readonly LayerError[];
}

/**
 * Compares a model with a reference on a text, token by token. The first token is context only. Both see the same windows; only the
 * model runs through a cache.
 * @throws OptionError for models of different vocabularies or blocks, fewer than two tokens, and wrong options; AbortError
 */
export async function divergence(
  model: PreTrainedModel,
  reference: PreTrainedModel,
  ids: ArrayLike<number>,
  given: DivergenceOptions = {},
): Promise<Divergence> {
  checkCausal("divergence", model);
  checkCausal("divergence", reference);
  const options = readOptions("divergence", DIVERGENCE, given);
  const { cache_dtype, layers: perLayer = false } = options;
  if (perLayer && cache_dtype) throw new OptionError("divergence: layers are compared without a cache");
  checkAlike(model, reference);
  const text = textWindows("divergence", ids, options);
  return await holding([model, reference], () => compared(model, reference, text, options));
}

async function compared(
  model: PreTrainedModel,
  reference: PreTrainedModel,
  { tokens, windows }: ReturnType<typeof textWindows>,
  options: DivergenceOptions,
): Promise<Divergence> {
  const { cache_dtype, layers: perLayer = false } = options;
  const kls: number[] = [];
  const layers = [...blockPaths(model)].map((layer) => ({ layer, off: 0, norm: 0 }));
  let [same, loss, exactLoss] = [0, 0, 0];
  let first = true; // windows after it begin with tokens that were counted before
  for (const window of windows) {
    throwIfAborted(options.signal, "evaluation");
    using exact = run(reference, window, perLayer);
    using other = run(model, window, perLayer, cache_dtype);
    using rows = scope(() => predictingRows(exact.logits, window).alias());
    using otherRows = scope(() => predictingRows(other.logits, window).alias());
    const gap = await logitsGap(rows, otherRows);
    for (const kl of gap.kls) kls.push(kl);
    same += gap.same;
    for (const value of await windowLogprobs(other.logits, window)) loss -= value;
    for (const value of await windowLogprobs(exact.logits, window)) exactLoss -= value;
    for (const [n, sums] of (perLayer ? layers : []).entries()) {
      const [h, h2] = await Promise.all([exact, other].map(({ states }) => states[n + 1]!.readFloats()));
      if (h!.length !== h2!.length)
        throw new OptionError("divergence: the models' hidden states have different widths");
      const width = h!.length / window.ids.length;
      for (let i = (first ? 0 : window.from) * width; i < h!.length; i++) {
        sums.off += (h2![i]! - h![i]!) ** 2;
        sums.norm += h![i]! ** 2;
      }
    }
    first = false;
    options.progress?.(window.done);
  }
  const kl = kls.reduce((sum, one) => sum + one, 0) / tokens;
  const spread = kls.reduce((sum, one) => sum + (one - kl) ** 2, 0) / tokens;
  const sorted = kls.sort((a, b) => a - b);
  const share = same / tokens;
  return {
    tokens,
    kl,
    kl_standard_error: Math.sqrt(spread / tokens),
    kl_median: sorted[tokens >> 1]!,
    kl_99: sorted[Math.floor(0.99 * (tokens - 1))]!,
    kl_max: sorted.at(-1)!,
    same_top: share,
    same_top_standard_error: Math.sqrt((share * (1 - share)) / tokens),
    perplexity: Math.exp(loss / tokens),
    reference_perplexity: Math.exp(exactLoss / tokens),
    ...(perLayer
      ? { layers: layers.map(({ layer, off, norm }) => ({ layer, error: Math.sqrt(off / (norm || 1)) })) }
      : {}),
  };
}

/** Paths of the blocks, in order. */
function* blockPaths({ module }: PreTrainedModel): Generator<string> {
  const paths = new Map([...module.named_modules()].map(([path, one]) => [one, path]));
  for (const block of module.blocks.flat()) yield paths.get(block)!;
}

function checkAlike(model: PreTrainedModel, reference: PreTrainedModel): void {
  const shapes = [model, reference].map(({ module: { geometry, blocks } }) => [geometry.vocab, blocks.flat().length]);
  if (String(shapes[0]) === String(shapes[1])) return;
  const told = shapes.map(([vocab, blocks]) => `${blocks} blocks and a vocabulary of ${vocab}`);
  throw new OptionError(`divergence: the models must be alike, got ${listed(told)}`);
}

interface Outputs extends Disposable {
  readonly logits: Tensor;
  /** The embeddings and the states after each block, f32[1,T,hidden]. */
  readonly states: readonly Tensor[];
}

function run(model: PreTrainedModel, { ids }: TextWindow, states: boolean, cache?: CacheDType): Outputs {
  const made = states
    ? model.forward({ input_ids: [ids], output_hidden_states: true })
    : { logits: windowLogits(model, ids, cache) };
  const { logits, hidden_states = [] } = made as { logits: Tensor; hidden_states?: Tensor[] };
  return {
    logits,
    states: hidden_states,
    [Symbol.dispose]() {
      for (const tensor of [logits, ...hidden_states]) tensor.dispose();
    },
  };
}
