// Token healing (transformers' token_healing, after guidance): a prompt that ends within a word is cut by the tokenizer where no text of the
// training was. So the last token of each prompt is chosen anew among those that begin with it.

import { OptionError } from "../core/errors.js";
import type { PreTrainedTokenizer } from "../tokenizer/api.js";
import { isTokenizer } from "./streamers.js";

/** What tokens that begin with the last one gain, and the last one itself beside: transformers' numbers. */
const [EXTENDS, STAYS] = [10, 1];

/** The likeliest token after a text, with these biases. */
export type NextToken = (
  ids: readonly number[],
  bias: readonly (readonly [readonly number[], number])[],
) => Promise<number>;

/**
 * The prompts, stripped of white space at their ends, with the last token of each chosen anew. The first token of a text (bos) is not
 * looked at for that.
 * @throws OptionError without the tokenizer
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
  const beginnings = new Beginnings(tokenizer);
  const rows: number[][] = [];
  for (const prompt of prompts) {
    const text = tokenizer.decode(prompt, { skip_special_tokens: true }) as string;
    const ids = tokenizer.encode(text.trim());
    rows.push(ids);
    const tail = ids.at(-1);
    const { bos_token_id: bos } = tokenizer;
    if (tail === undefined || tokenizer.backend.special_ids.has(tail)) continue;
    const before = ids.slice(0, -1).filter((id) => id !== bos);
    const context = before.length > 0 ? before : bos === null ? [] : [bos];
    const candidates = beginnings.of(tail);
    if (context.length === 0 || candidates.length < 2) continue;
    ids[ids.length - 1] = await next(
      context,
      candidates.map((id) => [[id], id === tail ? EXTENDS + STAYS : EXTENDS] as const),
    );
  }
  return rows;
}

/** Rows of ids as a batch, padded on the left. */
export function inputsOf(rows: readonly (readonly number[])[], pad: number) {
  const longest = rows.reduce((most, { length }) => Math.max(most, length), 1);
  const filled = (row: readonly number[], value: number): number[] => [
    ...new Array<number>(longest - row.length).fill(value),
    ...row,
  ];
  return {
    input_ids: rows.map((row) => filled(row, pad)),
    attention_mask: rows.map((row) =>
      filled(
        row.map(() => 1),
        0,
      ),
    ),
  };
}

/** Tokens in the order of their letters. */
class Beginnings {
  readonly #tokenizer: PreTrainedTokenizer;
  readonly #sorted: readonly (readonly [token: string, id: number])[];

  constructor(tokenizer: PreTrainedTokenizer) {
    this.#tokenizer = tokenizer;
    this.#sorted = [...tokenizer.get_vocab()].sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0));
  }

  /** Ids of all tokens that begin with this one, itself included. */
  of(id: number): number[] {
    const token = this.#tokenizer.backend.id_to_token(id)!;
    let [low, high] = [0, this.#sorted.length];
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.#sorted[middle]![0] < token) low = middle + 1;
      else high = middle;
    }
    const found: number[] = [];
    for (let at = low; at < this.#sorted.length && this.#sorted[at]![0].startsWith(token); at++) {
      found.push(this.#sorted[at]![1]);
    }
    return found;
  }
}
