// Turns a stream of token ids into text as soon as it is final: never half a UTF-8 character, spaces as in a full decode,
// in linear time. Not here: stop strings and printing (generate/).

import { OptionError } from "../core/errors.js";
import { readOptions } from "../core/options.js";
import { show } from "../core/show.js";
import type { IdDecoding, Tokenizer } from "./engine.js";
import { type IdList, readIds } from "./ids.js";
import { DECODE, type StreamDecodeOptions } from "./options.js";
import { StreamCleanUp } from "./replace.js";
import { Times } from "./timed.js";

/** Options of a StreamDecoder: those of `decode`, but for times. */
export interface StreamDecoderOptions extends StreamDecodeOptions {}

/** A tokenizer, or an object around one, such as PreTrainedTokenizer. */
export type StreamSource = Tokenizer | { readonly backend: Tokenizer; readonly clean_up_tokenization_spaces: boolean };

/** The tokenizer of a source, and whether it cleans up unless it is told. */
function readSource(source: StreamSource): { tokenizer: Tokenizer; cleans: boolean } {
  let cause: unknown;
  try {
    const around = "backend" in source;
    const tokenizer = around ? source.backend : source;
    if (typeof tokenizer.decoding === "function") {
      return { tokenizer, cleans: tokenizer.cleans && around && source.clean_up_tokenization_spaces };
    }
  } catch (error) {
    cause = error; // no object at all, or one that cannot be read
  }
  throw new OptionError(`StreamDecoder: expected a tokenizer, got ${show(source)}`, {
    cause,
    hint: "new StreamDecoder(await AutoTokenizer.from_pretrained(...))",
  });
}

/**
 * Decodes ids as they arrive: `push` returns the text that is now final, `end` the rest. The concatenation equals `decode` of
 * all ids together, however they are cut. In vocabularies with byte fallback a run of byte tokens is text only if all of it is
 * UTF-8, so its text comes with the token after it.
 */
export class StreamDecoder {
  readonly #begin: () => IdDecoding;
  readonly #cleanUp: StreamCleanUp | undefined;
  #decoding: IdDecoding;
  readonly #beginReading: () => (ids: readonly number[]) => readonly number[];
  #read: (ids: readonly number[]) => readonly number[];

  /** @throws OptionError for unknown options and wrong values, and for what is not a tokenizer */
  constructor(source: StreamSource, given: StreamDecoderOptions = {}) {
    const options = readOptions("StreamDecoder", DECODE, given);
    const { tokenizer, cleans } = readSource(source);
    const skip_special_tokens = options.skip_special_tokens === true;
    this.#begin = () => tokenizer.decoding({ skip_special_tokens });
    this.#decoding = this.#begin();
    const times = Times.of(tokenizer);
    this.#beginReading = () => times?.reader(skip_special_tokens) ?? ((ids) => ids);
    this.#read = this.#beginReading();
    const wanted = options.clean_up_tokenization_spaces ?? cleans;
    this.#cleanUp = tokenizer.cleans && wanted ? new StreamCleanUp() : undefined;
  }

  /**
   * Adds the next id or ids; returns the text they complete, possibly none.
   * @throws OptionError for what is not an integer or a list of integers; then none of them counts
   */
  push(ids: IdList): string {
    const text = this.#decoding.push(this.#read(readIds("StreamDecoder.push", ids)));
    return this.#cleanUp?.push(text, false) ?? text;
  }

  /** Returns what is left (an unfinished character becomes U+FFFD, as in `decode`); then ready for a new stream. */
  end(): string {
    const text = this.#decoding.end();
    this.#decoding = this.#begin();
    this.#read = this.#beginReading();
    return this.#cleanUp?.push(text, true) ?? text;
  }
}
