// Options of generate() about what ends texts beside their length and the ids that end them.

import { listOf } from "../core/checks.js";
import { number, such } from "../core/options.js";

const isText = (value: unknown): value is string => typeof value === "string" && value !== "";

/** Options that generation_config.json may hold. */
export const ENDING = {
  /**
   * Strings that end a text, as in transformers: it stops with the token that completes one, and is not cut. They need the
   * `tokenizer`.
   */
  stop_strings: such<string | readonly string[] | null>(
    (value) => value === null || isText(value) || (listOf(value, isText)?.length ?? 0) > 0,
    "a text, or a list of texts",
    { flag: "stop", value: "<text>", help: "end with the token that completes this text" },
  ),
  /** Seconds after which all texts end; each gets at least one token. */
  max_time: number((n) => n > 0 && n < Number.POSITIVE_INFINITY, "a number of seconds above 0", {
    value: "<s>",
    help: "end after this many seconds",
  }),
};
