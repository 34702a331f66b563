// Token healing (transformers' token_healing, after guidance): a prompt that ends within a word is cut by the tokenizer where no text of the
// training was. So the last token of each prompt is chosen anew among those that begin with it.

import { OptionError } from "../core/errors.js";
import type { PreTrainedTokenizer } from "../tokenizer/api.js";
import type { GenerateOptions } from "./options.js";
import { isTokenizer } from "./streamers.js";
import { warnOnce } from "./warn.js";

/** What tokens that begin with the last one gain, and the last one itself beside: transformers' numbers. */
const [EXTENDS, STAYS] = [10, 1];

/** The likeliest token after the text of a prompt, with these biases. */
export type NextToken = (
  ids: readonly number[],
  bias: readonly (readonly [readonly number[], number])[],
  prompt: number,
) => Promise<number>;

/** One token, the likeliest, whatever generation_config.json says of searching, beginnings and ends. */
export const ALONE = {
  max_new_tokens: 1,
  do_sample: false,
  token_healing: false,
  prompt_lookup_num_tokens: 0,
  num_beams: 1,
  num_return_sequences: 1,
  constraints: null,
  force_words_ids: null,
  guidance_scale: null,
  penalty_alpha: null,
  dola_layers: null,
  forced_bos_token_id: null,
  forced_eos_token_id: null,
  stop_strings: null,
} as const satisfies Partial<GenerateOptions>;

/**
 * Of a call that leaves its prompts as they are.
 * @param own the caller's token_healing
 * @param wanted whether the caller or generation_config.json asks for healing
 * @param why in words for users
 * @throws OptionError if the caller asked for it; a file's wish is left out, with a warning
 */
export function unhealed(
  own: boolean | undefined,
  wanted: boolean,
  why: string,
  hint?: string,
): { readonly token_healing: false } {
  if (own) throw new OptionError(why, { details: { option: "token_healing" }, hint });
  if (wanted) warnOnce(why, `${why}; that of generation_config.json is left out${hint ? ` (${hint})` : ""}`);
  return { token_healing: false };
}

/**
 * The prompts, stripped of white space at their ends, with the last token of each chosen anew. The first token of a text (bos) is not
 * looked at for that.
 * @throws OptionError without the tokenizer, and for a prompt without text
 */
export async function healed(
  prompts: readonly (readonly number[])[],
  given: PreTrainedTokenizer | undefined,
  next: NextToken,
): Promise<number[][]> {
  if (!isTokenizer(given)) {
    throw new OptionError("token_healing needs the tokenizer", {
      details: { option: "tokenizer" },
      hint: "pass tokenizer, as from AutoTokenizer.from_pretrained",
    });
  }
  const tokenizer = given!;
  const vocabulary = [...tokenizer.get_vocab()];
  const rows: number[][] = [];
  for (const [n, prompt] of prompts.entries()) {
    const text = tokenizer.decode(prompt, { skip_special_tokens: true }) as string;
    const ids = tokenizer.encode(text.trim());
    const tail = ids.at(-1);
    if (tail === undefined) {
      throw new OptionError(`token_healing: prompt ${n} is blank, so no token can be chosen anew`, {
        details: { option: "token_healing" },
        hint: "give it some text, or pass token_healing: false",
      });
    }
    rows.push(ids);
    const { bos_token_id: bos } = tokenizer;
    if (tokenizer.backend.special_ids.has(tail)) continue;
    const before = ids.slice(0, -1).filter((id) => id !== bos);
    const context = before.length > 0 ? before : bos === null ? [] : [bos];
    const beginning = tokenizer.backend.id_to_token(tail)!;
    const candidates = vocabulary.flatMap(([token, id]) => (token.startsWith(beginning) ? [id] : []));
    if (context.length === 0 || candidates.length < 2) continue;
    ids[ids.length - 1] = await next(
      context,
      candidates.map((id) => [[id], id === tail ? EXTENDS + STAYS : EXTENDS] as const),
      n,
    );
  }
  return rows;
}
