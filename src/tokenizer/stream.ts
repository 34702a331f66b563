// Turns a stream of token ids into text as soon as it is final: never half a UTF-8 character, spaces as in a full decode,
// in linear time. Not here: stop strings and printing (generate/).

import { readOptions } from "../core/options.js";
import { cleanUp, type Tokenizer } from "./engine.js";
import { DECODE, type DecodeOptions } from "./options.js";

/** Options of a StreamDecoder: those of `decode`. */
export interface StreamDecoderOptions extends DecodeOptions {}

/** A tokenizer, or an object around one, such as PreTrainedTokenizer. */
export type StreamSource = Tokenizer | { readonly backend: Tokenizer; readonly clean_up_tokenization_spaces: boolean };

/** Number of bytes of an unfinished character at the end of UTF-8 bytes: 0 to 3. */
function unfinished(bytes: readonly number[]): number {
  for (let back = 1; back <= Math.min(3, bytes.length); back++) {
    const byte = bytes[bytes.length - back]!;
    if (byte < 0x80) return 0;
    if (byte >= 0xc0) return (byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : 2) > back ? back : 0;
  }
  return 0;
}

/**
 * The last position where the text may be cut without splitting a clean-up. A clean-up's input begins with a space, holds
 * only these characters and is at most six long (" n ' t" becomes "n't" in two steps).
 */
function safeCut(text: string): number {
  for (let cut = text.length; cut > 0; cut--) {
    for (let back = 1; ; back++) {
      const char = text[cut - back];
      if (char === " ") break;
      if (char === undefined || back === 6 || !".?!,'ntmsver".includes(char)) return cut;
    }
  }
  return 0;
}

/**
 * Decodes ids as they arrive: `push` returns the text that is now final, `end` the rest. The concatenation equals `decode` of
 * all ids together. (Only difference: with byte-fallback vocabularies, invalid UTF-8 bytes also destroy the valid characters
 * right before them in a full decode; here those were already returned.)
 */
export class StreamDecoder {
  readonly #tokenizer: Tokenizer;
  readonly #skip: boolean;
  readonly #cleanUp: boolean;
  readonly #utf8 = new TextDecoder("utf-8", { ignoreBOM: true }); // byte-level vocabularies
  #window: number[] = []; // other vocabularies: ids of the last pushes that returned text, then the unread ones
  #read = 0; // ids of the window whose text was returned
  #bytes: number[] = []; // byte tokens at the end of the window
  #held = ""; // text that clean-up may still change

  /** @throws OptionError for unknown options and wrong values */
  constructor(source: StreamSource, given: StreamDecoderOptions = {}) {
    const options = readOptions("StreamDecoder", DECODE, given);
    this.#tokenizer = "backend" in source ? source.backend : source;
    this.#skip = options.skip_special_tokens === true;
    const usual = "backend" in source && source.clean_up_tokenization_spaces;
    this.#cleanUp = this.#tokenizer.cleans && (options.clean_up_tokenization_spaces ?? usual);
  }

  /** Adds the next id or ids; returns the text they complete, possibly none. */
  push(ids: number | Iterable<number>): string {
    let text = "";
    for (const id of typeof ids === "number" ? [ids] : ids) {
      if (this.#skip && this.#tokenizer.special_ids.has(id)) continue;
      if (this.#tokenizer.id_to_token(id) === undefined) continue;
      text += this.#tokenizer.byte_level
        ? this.#utf8.decode(this.#tokenizer.token_bytes(id), { stream: true })
        : this.#pushWindow(id);
    }
    return this.#clean(text, false);
  }

  /** Returns what is left (an unfinished character becomes U+FFFD, as in `decode`); then ready for a new stream. */
  end(): string {
    const text = this.#tokenizer.byte_level ? this.#utf8.decode() : this.#advance();
    this.#window = [];
    this.#read = 0;
    this.#bytes = [];
    return this.#clean(text, true);
  }

  #pushWindow(id: number): string {
    this.#window.push(id);
    const bytes = this.#tokenizer.token_bytes(id);
    if (bytes === undefined) this.#bytes = [];
    else {
      this.#bytes = [...this.#bytes.slice(-3), ...bytes];
      if (unfinished(this.#bytes) > 0) return "";
    }
    return this.#advance();
  }

  /** Text of the unread ids: the window's text minus that of the ids already returned, which keeps spaces correct. */
  #advance(): string {
    const before = this.#tokenizer.decode(this.#window.slice(0, this.#read));
    const all = this.#tokenizer.decode(this.#window);
    // New bytes can invalidate a run of byte tokens whose text was already returned: then decode the new ids alone.
    const text = all.startsWith(before)
      ? all.slice(before.length)
      : this.#tokenizer.decode(this.#window.slice(this.#read));
    if (text === "") return "";
    this.#window = this.#window.slice(this.#read);
    this.#read = this.#window.length;
    return text;
  }

  #clean(text: string, last: boolean): string {
    if (!this.#cleanUp) return text;
    const held = this.#held + text;
    const at = last ? held.length : safeCut(held);
    this.#held = held.slice(at);
    return cleanUp(held.slice(0, at));
  }
}
