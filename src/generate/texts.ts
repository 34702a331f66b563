// The steps of stream() with their text: whole characters only, with the spaces that the prompt's end asks for.

import type { PreTrainedTokenizer } from "../tokenizer/api.js";
import { StreamDecoder } from "../tokenizer/stream.js";
import type { Step } from "./loop.js";

/** A step of `stream` that was given a tokenizer. */
export interface TextStep extends Step {
  /** The new text of the first row; may be empty while a character is unfinished. All of them together are the row's text. */
  readonly text: string;
  /** The same for each row. */
  readonly texts: readonly string[];
}

/**
 * The steps with the text that each makes final.
 * @param prompts the ids before the first step, by row: decoders that begin in the middle of a text would lose its first space
 * @param skip leave special tokens out
 */
export async function* withTexts(
  steps: AsyncGenerator<Step>,
  tokenizer: PreTrainedTokenizer,
  prompts: readonly (readonly number[])[],
  skip: boolean,
): AsyncGenerator<TextStep> {
  const rows = prompts.map((prompt) => {
    const decoder = new StreamDecoder(tokenizer, { skip_special_tokens: skip });
    decoder.push(prompt);
    return { decoder, ended: false };
  });
  for await (const step of steps) {
    const texts = rows.map((row, r) => {
      if (row.ended) return "";
      const text = row.decoder.push([step.token_ids[r]!]);
      row.ended = step.finished[r]!;
      return row.ended ? text + row.decoder.end() : text;
    });
    yield { ...step, text: texts[0]!, texts };
  }
}
