// The run of `octavo generate`: prompts as token ids, and the texts that grow from them, with their times.

import { setImmediate } from "node:timers/promises";
import { OptionError } from "../core/errors.js";
import type { Step } from "../generate/loop.js";
import type { ModelInputs } from "../generate/model.js";
import type { PreTrainedTokenizer } from "../tokenizer/api.js";
import type { Row } from "./report.js";

export type Inputs = ModelInputs & { input_ids: number[][]; attention_mask: number[][] };

/**
 * @param add_special_tokens false for texts that have their own
 * @throws OptionError for an empty prompt where the tokenizer has no token to begin with
 */
export function encode(tokenizer: PreTrainedTokenizer, prompts: readonly string[], add_special_tokens = true): Inputs {
  // Decoders are often published without a padding token; padding is masked, so any token will do.
  if (tokenizer.pad_token === null && tokenizer.eos_token !== null) tokenizer.pad_token = tokenizer.eos_token;
  const padding = prompts.length > 1;
  const { input_ids, attention_mask } = tokenizer([...prompts], { padding, add_special_tokens });
  if (input_ids[0]!.length > 0) return { input_ids, attention_mask: attention_mask! };
  const first = tokenizer.bos_token_id ?? tokenizer.eos_token_id;
  if (first === null) throw new OptionError("the prompt is empty");
  return { input_ids: [[first]], attention_mask: [[1]] };
}

/** One generation over all rows: the growing texts, and the times. */
export class Run {
  readonly rows: readonly (Row & { readonly decoder: ReturnType<PreTrainedTokenizer["streamDecoder"]> })[];
  /** Seconds from the start to the first tokens and to the last. */
  first_s: number | undefined;
  last_s = 0;
  steps = 0;
  /** Tokens that prompt lookup had guessed. */
  guessed = 0;
  readonly #write: (text: string) => void;

  constructor(
    tokenizer: PreTrainedTokenizer,
    inputs: Inputs,
    prompts: readonly string[],
    write: (text: string) => void,
  ) {
    this.#write = write;
    this.rows = inputs.input_ids.map((ids, r) => {
      const decoder = tokenizer.streamDecoder({ skip_special_tokens: true });
      const real = ids.filter((_, t) => inputs.attention_mask[r]![t] === 1);
      // The decoder sees the prompt too: whether the first new word begins with a space depends on it.
      const echo = decoder.push(real);
      return { decoder, echo, prompt: prompts[r]!, prompt_tokens: real.length, text: "", token_ids: [], ended: false };
    });
  }

  async over(steps: AsyncIterable<Step>): Promise<void> {
    const begin = performance.now();
    try {
      for await (const { token_ids, finish_reasons, guessed } of steps) {
        this.last_s = (performance.now() - begin) / 1000;
        this.first_s ??= this.last_s;
        this.steps++;
        if (guessed) this.guessed++;
        // Yields to the event loop, or signals would not arrive on a device that runs synchronously.
        await setImmediate();
        this.rows.forEach((row, r) => {
          if (row.ended) return;
          row.token_ids.push(token_ids[r]!);
          row.ended = finish_reasons[r] === "eos" || finish_reasons[r] === "stop";
          this.#emit(row, row.decoder.push(token_ids[r]!));
        });
      }
    } finally {
      for (const row of this.rows) this.#emit(row, row.decoder.end());
    }
  }

  #emit(row: Row, text: string): void {
    if (text === "") return;
    row.text += text;
    this.#write(text);
  }
}
