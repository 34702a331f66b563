// A tokenizer whose texts have the ids of one vocabulary, and what a model writes those of another (Marian). Special tokens have the first
// one's ids in both, as in Python.

import type { DecodeIdsOptions, EncodeTextOptions, Framed, IdDecoding, Tokenizer } from "./engine.js";
import type { JsonObject } from "./json-file.js";
import type { Placement } from "./placement.js";
import type { TokenBytes } from "./token-bytes.js";
import type { AddedToken } from "./tokenizer-json.js";

export class TwoVocabularies implements Tokenizer {
  readonly vocab_size: number;
  readonly size: number;
  readonly cleans: boolean;
  readonly marks_subwords: boolean;
  readonly special_ids: ReadonlySet<number>;
  readonly unk_token_id: number | undefined;
  readonly added_tokens: readonly AddedToken[];
  readonly #read: Tokenizer;
  readonly #written: Tokenizer;

  /**
   * @param read cuts texts
   * @param written knows the ids that a model writes
   */
  constructor(read: Tokenizer, written: Tokenizer) {
    this.#read = read;
    this.#written = written;
    this.vocab_size = read.vocab_size;
    this.size = read.size;
    this.cleans = written.cleans;
    this.marks_subwords = written.marks_subwords;
    this.special_ids = written.special_ids;
    this.unk_token_id = read.unk_token_id;
    this.added_tokens = read.added_tokens;
  }

  encode(text: string, options?: EncodeTextOptions): number[] {
    return this.#read.encode(text, options);
  }

  place(text: string, options?: Pick<EncodeTextOptions, "split_special_tokens">): Placement {
    return this.#read.place(text, options);
  }

  decode(ids: Iterable<number>, options?: DecodeIdsOptions): string {
    return this.#written.decode(ids, options);
  }

  decoding(options?: DecodeIdsOptions): IdDecoding {
    return this.#written.decoding(options);
  }

  join(tokens: readonly string[]): string {
    return this.#written.join(tokens);
  }

  frame(ids: readonly number[], pair?: readonly number[]): Framed {
    return this.#read.frame(ids, pair);
  }

  token_to_id(token: string): number | undefined {
    return this.#read.token_to_id(token);
  }

  id_to_token(id: number): string | undefined {
    return this.#written.id_to_token(id);
  }

  get_vocab(): Map<string, number> {
    return this.#read.get_vocab();
  }

  token_bytes(): TokenBytes {
    return this.#written.token_bytes();
  }

  withAddedTokens(added_tokens: readonly AddedToken[]): Tokenizer {
    return new TwoVocabularies(this.#read.withAddedTokens(added_tokens), this.#written.withAddedTokens(added_tokens));
  }

  withPostProcessor(post_processor: JsonObject): Tokenizer {
    return new TwoVocabularies(this.#read.withPostProcessor(post_processor), this.#written);
  }

  withText(normalizer: JsonObject, pre_tokenizer: JsonObject, post_processor: JsonObject): Tokenizer {
    return new TwoVocabularies(this.#read.withText(normalizer, pre_tokenizer, post_processor), this.#written);
  }
}
