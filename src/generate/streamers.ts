// Streamers: receive token ids as they are generated and turn them into text.

import { isWhole, listOf } from "../core/checks.js";
import { OptionError } from "../core/errors.js";
import { callback, flag, type Options, readOptions } from "../core/options.js";
import { show } from "../core/show.js";
import type { PreTrainedTokenizer } from "../tokenizer/api.js";
import { StreamDecoder } from "../tokenizer/stream.js";

/** Receives the prompt's ids first, then each new one; `end` after the last. */
export interface Streamer {
  put(ids: readonly number[]): void;
  end(): void;
}

const TEXT_STREAMER = {
  /** Omit the prompt. */
  skip_prompt: flag(),
  /** Omit special tokens. */
  skip_special_tokens: flag(),
  /** Receives each piece of text; default: standard output, if there is one. */
  write: callback<(text: string) => void>(),
};

export interface TextStreamerOptions extends Options<typeof TEXT_STREAMER> {}

/** @throws OptionError in a runtime without standard output */
function standardOutput(): (text: string) => void {
  const { process } = globalThis as { process?: { stdout?: { write(text: string): unknown } } };
  const stdout = process?.stdout;
  if (!stdout) throw new OptionError("TextStreamer: `write` is needed where there is no standard output");
  return (text) => void stdout.write(text);
}

/** True for what has a tokenizer's engine: a loaded tokenizer is a function. */
export function isTokenizer(value: unknown): boolean {
  try {
    return typeof (value as PreTrainedTokenizer).backend.id_to_token === "function";
  } catch {
    return false; // nothing with members, or with members that cannot be read
  }
}

/** Writes text as soon as it is final: never a part of a character. */
export class TextStreamer implements Streamer {
  readonly #decoder: StreamDecoder;
  readonly #write: (text: string) => void;
  #skip: boolean;

  /** @throws OptionError for an unknown option or one of the wrong type */
  constructor(tokenizer: PreTrainedTokenizer, given: TextStreamerOptions = {}) {
    if (!isTokenizer(tokenizer)) {
      throw new OptionError(`TextStreamer: the first argument must be a tokenizer, got ${show(tokenizer)}`, {
        hint: "await AutoTokenizer.from_pretrained(name) gives one",
      });
    }
    const options = readOptions("TextStreamer", TEXT_STREAMER, given);
    this.#decoder = new StreamDecoder(tokenizer, { skip_special_tokens: options.skip_special_tokens ?? false });
    this.#write = options.write ?? standardOutput();
    this.#skip = options.skip_prompt ?? false;
  }

  /** @throws OptionError for what is no list of ids */
  put(ids: readonly number[]): void {
    const list = listOf(ids, isWhole);
    if (!list) throw new OptionError(`TextStreamer: put takes a list of token ids, got ${show(ids)}`);
    if (this.#skip) {
      this.#skip = false;
      return;
    }
    this.#emit(this.#decoder.push(list));
  }

  end(): void {
    this.#emit(this.#decoder.end());
  }

  #emit(text: string): void {
    if (text !== "") this.#write(text);
  }
}
