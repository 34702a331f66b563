// Prompt lookup decoding (Saxena 2023): guesses the next tokens from an earlier place in the text where the same words
// stood, and checks all guesses in one pass over the weights. Exact: the tokens are those of greedy decoding. Pays where
// the text repeats itself (summaries, code, edits), because a pass costs about the same for one token as for a few.

import type { Device } from "../core/device.js";
import { OptionError, throwIfAborted } from "../core/errors.js";
import { scope, Tensor } from "../core/tensor.js";
import { KVCache } from "../nn/cache.js";
import type { CausalLM } from "../nn/decoder.js";
import { layerDevices } from "../nn/placement.js";
import { copyInto } from "../ops/copy.js";
import { argmax } from "../ops/sampling.js";
import type { GenerationConfig } from "./config.js";
import { type Batch, positionsOf } from "./inputs.js";
import { cacheShape, type LoopOptions, type Step } from "./loop.js";
import { prefill } from "./prefill.js";

/** @throws OptionError where guesses could change what is generated */
export function checkLookup(config: GenerationConfig, batch: Batch): void {
  const problem =
    batch.rows > 1
      ? "a batch of more than one prompt"
      : config.do_sample
        ? "do_sample"
        : config.repetition_penalty !== 1
          ? "repetition_penalty"
          : undefined;
  if (problem) throw new OptionError(`prompt_lookup_num_tokens does not go together with ${problem}`);
}

/**
 * At most `count` tokens that followed the last place where the text's last `ngram` tokens (or fewer) stood before.
 */
export function guess(text: readonly number[], count: number, ngram: number): number[] {
  for (let n = Math.min(ngram, text.length - 1); n > 0; n--) {
    for (let start = text.length - n - 1; start >= 0; start--) {
      let same = 0;
      while (same < n && text[start + same] === text[text.length - n + same]) same++;
      if (same === n) return text.slice(start + n, start + n + count);
    }
  }
  return [];
}

/** Greedy decoding of one row with guesses; a step may give several tokens, one after the other. */
export async function* lookupSteps(
  device: Device,
  model: CausalLM,
  batch: Batch,
  options: LoopOptions,
): AsyncGenerator<Step> {
  const { config, signal } = options;
  const stop = (): void => throwIfAborted(signal, "generation");
  stop();
  const width = config.prompt_lookup_num_tokens;
  const cached = cacheShape(model, 1, batch.steps + config.max_new_tokens + width, options.cache_dtype);
  const { capacity } = cached;
  using cache = new KVCache(layerDevices(model, device), cached);
  const mask = batch.mask && new Uint8Array(capacity).fill(1);
  if (mask) mask.set(batch.mask!);
  using masked = mask && Tensor.from(device, mask, [1, capacity], "u8", "mask").keep();
  const best = (ids: Tensor, positions: Tensor, last: boolean): Tensor => {
    const logits = model.forward({ ids, positions, mask: masked, cache }, { logits_to_keep: last ? 1 : 0 });
    return argmax(logits.view(-1, logits.shape.at(-1)!));
  };
  /** The likeliest token after each of `tokens`, the first of which stands at `from`. */
  const run = async (tokens: Int32Array, from: number): Promise<Int32Array> => {
    const shape = [1, tokens.length];
    using likeliest = scope(() => {
      const ids = Tensor.from(device, tokens, shape);
      const positions = tokens.map((_, i) => from + i);
      return best(ids, Tensor.from(device, positions, shape), false);
    });
    return (await likeliest.read()) as Int32Array;
  };

  using first = Tensor.empty(device, [1], "i32", "first token").keep();
  const into = { cache, mask: masked, signal, piece: options.piece };
  await prefill(device, model, batch, into, (ids, positions) => copyInto(best(ids, positions, true), first));
  let next = (await first.read())[0]!;
  let position = positionsOf(batch).at(-1)!;
  const text = [...batch.ids].filter((_, t) => batch.mask === undefined || batch.mask[t] === 1);
  const eos = new Set(config.eos_token_ids);
  for (let made = 0; made < config.max_new_tokens; ) {
    // `next` is certain, and not in the cache yet.
    const drafts = guess([...text, next], Math.min(width, config.max_new_tokens - made - 1), LONGEST_MATCH);
    const last = made + 1 >= config.max_new_tokens || eos.has(next);
    let accepted: number[] = [];
    let after = next;
    if (!last) {
      const tokens = Int32Array.of(next, ...drafts);
      const likeliest = await run(tokens, position + 1);
      let right = 0;
      while (right < drafts.length && likeliest[right] === drafts[right]) right++;
      accepted = drafts.slice(0, right);
      after = likeliest[right]!;
      cache.rewind(drafts.length - right);
    }
    for (const [i, id] of [next, ...accepted].entries()) {
      stop();
      text.push(id);
      position++;
      made++;
      const finished = eos.has(id);
      yield { token_ids: [id], finished: [finished], guessed: i > 0 };
      if (finished) return;
    }
    if (last) return;
    next = after;
  }
}

/** Tokens that must agree before a guess is made; shorter agreements are tried when this many do not. */
const LONGEST_MATCH = 3;
