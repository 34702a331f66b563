// Streamers: they get token ids as they are generated and turn them into text.

import { checkOptions, OptionError } from "../core/errors.js";
import type { PreTrainedTokenizer } from "../tokenizer/api.js";
import { StreamDecoder } from "../tokenizer/stream.js";

/** Gets the prompt's ids first, then each new one; `end` after the last. */
export interface Streamer {
  put(ids: readonly number[]): void;
  end(): void;
}

export interface TextStreamerOptions {
  /** Leave out the prompt. */
  skip_prompt?: boolean;
  skip_special_tokens?: boolean;
  /** Gets each piece of text; standard output by default, where there is one. */
  write?: (text: string) => void;
}

/** @throws OptionError in a runtime without standard output */
function standardOutput(): (text: string) => void {
  const { process } = globalThis as { process?: { stdout?: { write(text: string): unknown } } };
  const stdout = process?.stdout;
  if (!stdout) throw new OptionError("TextStreamer: `write` is needed where there is no standard output");
  return (text) => void stdout.write(text);
}

/** Writes text as soon as it is certain: never a part of a character. */
export class TextStreamer implements Streamer {
  readonly #decoder: StreamDecoder;
  readonly #write: (text: string) => void;
  #skip: boolean;

  /** @throws OptionError for an unknown option or one of the wrong type */
  constructor(tokenizer: PreTrainedTokenizer, options: TextStreamerOptions = {}) {
    checkOptions("TextStreamer", options, ["skip_prompt", "skip_special_tokens", "write"]);
    for (const [key, type] of [
      ["skip_prompt", "boolean"],
      ["skip_special_tokens", "boolean"],
      ["write", "function"],
    ] as const) {
      const value: unknown = options[key];
      if (value === undefined || typeof value === type) continue;
      throw new OptionError(`TextStreamer: ${key} must be a ${type}, got ${value === null ? "null" : typeof value}`, {
        details: { option: key },
      });
    }
    this.#decoder = new StreamDecoder(tokenizer, { skip_special_tokens: options.skip_special_tokens ?? false });
    this.#write = options.write ?? standardOutput();
    this.#skip = options.skip_prompt ?? false;
  }

  put(ids: readonly number[]): void {
    if (this.#skip) {
      this.#skip = false;
      return;
    }
    this.#emit(this.#decoder.push([...ids]));
  }

  end(): void {
    this.#emit(this.#decoder.end());
  }

  #emit(text: string): void {
    if (text !== "") this.#write(text);
  }
}
