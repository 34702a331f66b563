// What an example of supervised fine-tuning becomes: options with the names and defaults of TRL's SFTConfig.

import { choice, flag, type Options, such, text } from "../../core/options.js";
import { isObject } from "./json-lines.js";

export const PACKING_STRATEGIES = ["bfd", "bfd_split", "wrapped"] as const;
export type PackingStrategy = (typeof PACKING_STRATEGIES)[number];

export const SFT = {
  /** Longest text, in tokens; null for none. Longer ones are cut. Default 1024. */
  max_length: such<number | null>(
    (value) => value === null || (Number.isSafeInteger(value) && (value as number) > 1),
    "a whole number above 1, or null",
    { value: "<n>", help: "longest text in tokens; longer ones are cut (default: 1024, or what the model reads)" },
  ),
  /** What is left of a text that is too long: its beginning, the default, or its end. */
  truncation_mode: choice(["keep_start", "keep_end"], {
    value: "<name>",
    help: "what is left of a text that is too long (default: keep_start)",
  }),
  /** Put several texts into each row of at most `max_length`. Default false. */
  packing: flag({ help: "put several texts into each row; none sees another" }),
  /**
   * How: "bfd" (default) fills rows with whole texts, best fit by decreasing length; "bfd_split" goes on with what is cut off as a text
   * of its own; "wrapped" makes one text of all and cuts it, so that texts see the ones before.
   */
  packing_strategy: choice(PACKING_STRATEGIES, { value: "<name>", help: "how texts are packed (default: bfd)" }),
  /** Texts of a batch stand one behind the other, as packed ones do, instead of in rows that are filled up. Default false. */
  padding_free: flag(),
  /** Rows that are filled up get a multiple of so many tokens. */
  pad_to_multiple_of: such<number | null>(
    (value) => value === null || (Number.isSafeInteger(value) && (value as number) > 0),
    "a whole number above 0, or null",
  ),
  /** Learn completions alone. By default true for examples with a prompt and a completion. */
  completion_only_loss: flag({
    help: "learn completions alone, as is the default for a prompt and a completion",
    help_off: "learn prompts too",
  }),
  /** Learn what the assistant says alone, as the `{% generation %}` blocks of the chat template tell. Default false. */
  assistant_only_loss: flag({ help: "learn only what the assistant says (needs a template with {% generation %})" }),
  /** Field of plain texts; default "text". */
  dataset_text_field: text({ value: "<name>", help: "field of plain texts (default: text)" }),
  /** The token that ends a text or a completion; by default the tokenizer's. */
  eos_token: text({ value: "<token>", help: "token that ends a text (default: the tokenizer's)" }),
  /** The text of a chat template, instead of the tokenizer's. */
  chat_template: text({ value: "<file>", help: "file of a chat template, instead of the tokenizer's" }),
  /** Variables of the chat template; an example's own come first. */
  chat_template_kwargs: such<Readonly<Record<string, unknown>>>(isObject, "an object"),
};
export interface SFTOptions extends Options<typeof SFT> {}
