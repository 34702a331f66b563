// fill-mask: the likeliest tokens at a text's masks.

import { OptionError } from "../core/errors.js";
import { type Options, such } from "../core/options.js";
import { show } from "../core/show.js";
import { scope } from "../core/tensor.js";
import type { PreTrainedEncoder } from "../generate/encoder-model.js";
import { softmax } from "../generate/processors/host/base.js";
import { warnOnce } from "../generate/warn.js";
import type { PreTrainedTokenizer } from "../tokenizer/api.js";
import {
  asText,
  inBatches,
  isText,
  isTexts,
  kind,
  listed,
  type Parts,
  passedOn,
  TOKENIZER_CALL,
  tokenizing,
  topK,
} from "./kinds.js";

/** A token at a mask. */
export interface Filled {
  readonly score: number;
  readonly token: number;
  readonly token_str: string;
  /** The text with the token; with several masks the others are still there. */
  readonly sequence: string;
}

const FILL = {
  /** So many tokens for each mask; 5 by default. */
  top_k: topK(),
  /** Only these words: of one that is several tokens the first. */
  targets: such<string | readonly string[]>(
    (value) => isText(value) || isTexts(value, 1),
    "a word, or a list of words",
  ),
  truncation: TOKENIZER_CALL.truncation,
  max_length: TOKENIZER_CALL.max_length,
  /** More options of the tokenizer's call. */
  tokenizer_kwargs: tokenizing(),
};
export interface FillMaskOptions extends Options<typeof FILL> {}

/** Ids of the words that may be filled in. */
function targetIds(tokenizer: PreTrainedTokenizer, targets: string | readonly string[]): number[] {
  const ids = [targets].flat().map((word) => {
    const whole = tokenizer.backend.token_to_id(word);
    if (whole !== undefined) return whole;
    const [first] = tokenizer(word, { add_special_tokens: false, truncation: true, max_length: 1 }).input_ids;
    if (first === undefined)
      throw new OptionError(`targets: ${show(word)} has no token`, { details: { option: "targets" } });
    warnOnce(
      `fill-mask target ${word}`,
      `fill-mask: ${show(word)} is not one token; ${show(tokenizer.backend.id_to_token(first))} is taken for it`,
    );
    return first;
  });
  return [...new Set(ids)];
}

export const fillMask = kind({
  models: ["masked-lm"],
  needs: ["tokenizer"],
  calls: FILL,
  async run({ model, tokenizer, batch_size }: Parts<PreTrainedEncoder>, inputs, options) {
    const { top_k = 5, targets, tokenizer_kwargs, ...how } = options;
    const { items, many } = listed(inputs, asText, "a text");
    const mask = tokenizer.mask_token_id;
    if (mask === null) throw new OptionError("this tokenizer has no mask token");
    const wanted = targets === undefined ? undefined : targetIds(tokenizer, targets);
    const found = await inBatches(
      items,
      batch_size,
      (text) => text.length,
      async (batch) => {
        const { input_ids, attention_mask, token_type_ids } = tokenizer([...batch], {
          padding: true,
          ...how,
          ...passedOn("tokenizer_kwargs", tokenizer_kwargs),
        });
        const places = input_ids.map((ids, row) => {
          const at = [...ids.keys()].filter((t) => ids[t] === mask);
          if (at.length > 0) return at;
          throw new OptionError(`no ${tokenizer.mask_token} in ${show(batch[row])}`);
        });
        const { logits, ...others } = model.forward({ input_ids, attention_mask, token_type_ids });
        try {
          return await Promise.all(
            places.map(async (at, row) => {
              // Of a vocabulary of many thousand tokens only the masks' rows are read.
              const real = attention_mask![row]!;
              const ids = input_ids[row]!;
              const filled = at.map(async (t): Promise<Filled[]> => {
                const own = scope(() => logits.select(0, row).narrow(0, t, 1));
                let scores: Float32Array;
                try {
                  scores = await own.readFloats();
                } finally {
                  own.dispose();
                }
                const shares = softmax(scores);
                const candidates = wanted ?? [...shares.keys()];
                const best = candidates
                  .map((token) => ({ token, score: shares[token]! }))
                  .sort((a, b) => b.score - a.score)
                  .slice(0, top_k ?? undefined);
                return best.map(({ token, score }) => ({
                  score,
                  token,
                  token_str: tokenizer.decode([token]),
                  sequence: tokenizer.decode(
                    ids.map((id, n) => (n === t ? token : id)).filter((_, n) => real[n] === 1),
                    { skip_special_tokens: at.length === 1 },
                  ),
                }));
              });
              const each = await Promise.all(filled);
              return each.length === 1 ? each[0]! : each;
            }),
          );
        } finally {
          for (const tensor of [logits, ...Object.values(others).flat()]) tensor.dispose();
        }
      },
    );
    return many ? found : found[0];
  },
});
