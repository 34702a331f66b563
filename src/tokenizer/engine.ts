// The interface of tokenizers inside Octavo, and its implementation for tokenizer.json. It cuts added and special tokens out
// of the text. Not here: batches, padding, truncation, Python's call signature (api.ts), reading folders (load.ts).

import { FormatError, OptionError } from "../core/errors.js";
import { show } from "../core/show.js";
import { AddedTokenCutter } from "./added-tokens.js";
import { ALIGNED, Aligned, type Form, PLAIN } from "./aligned.js";
import { buildDecoder, type Decoding } from "./decode.js";
import { buildFrame, type Frame } from "./frame.js";
import type { JsonObject } from "./json-file.js";
import type { Model } from "./model.js";
import { buildModel } from "./models.js";
import { buildNormalizer, type Normalized, type Normalizer } from "./normalize.js";
import { Placement, trimsOf } from "./placement.js";
import { buildPreTokenizer, type PreTokenizer } from "./pre-tokenize.js";
import { wellFormed } from "./text.js";
import { type TokenBytes, tokenBytes } from "./token-bytes.js";
import type { AddedToken, TokenizerJson } from "./tokenizer-json.js";

export { cleanUp } from "./replace.js";

export interface EncodeTextOptions {
  /** Add the tokens of the post-processor (BOS, [CLS] and the like). Default true. */
  readonly add_special_tokens?: boolean;
  /** Read special tokens in the text as plain text: for text that must not be trusted. Default false. */
  readonly split_special_tokens?: boolean;
}

/** Ids of one sequence or a pair with the special tokens around them. */
export interface Framed {
  readonly ids: number[];
  readonly token_type_ids: number[];
}

export interface DecodeIdsOptions {
  /** Omit special tokens. Default false. */
  readonly skip_special_tokens?: boolean;
}

/** Decodes ids as they come; see `Tokenizer.decoding`. */
export interface IdDecoding {
  /** Adds ids; gives the text that no later id can change. */
  push(ids: Iterable<number>): string;
  /** The rest of the text. Nothing may follow. */
  end(): string;
}

/** Tokens of a CTC model that are no characters. */
export interface Frames {
  readonly pad_token: string;
  readonly word_delimiter_token: string;
  /** What is written in place of the delimiter. */
  readonly content: string;
}

/** A tokenizer for one vocabulary. Immutable and synchronous; everything else is built on it. */
export interface Tokenizer {
  /** Tokens of the model itself, without added tokens. */
  readonly vocab_size: number;
  /** All tokens, added ones included: Python's `len(tokenizer)`. */
  readonly size: number;
  /**
   * True if `clean_up_tokenization_spaces` applies. It does not to BPE, as in Python since transformers 5: there each space of
   * the text is a token's own, and files set the option by mistake of a converter.
   */
  readonly cleans: boolean;
  /** True if tokens that go on with a word are marked ("##ing"), as WordPiece's are. */
  readonly marks_subwords: boolean;
  /** Tokens omitted by `skip_special_tokens`. */
  readonly special_ids: ReadonlySet<number>;
  readonly unk_token_id: number | undefined;
  /** Of the tokenizer of a CTC model: what its frames hold between tokens, and between words, and how that is written. */
  readonly frames?: Frames | undefined;
  encode(text: string, options?: EncodeTextOptions): number[];
  /** Ids without special tokens around them, and where in the text each token comes from. */
  place(text: string, options?: Pick<EncodeTextOptions, "split_special_tokens">): Placement;
  /** Text of `ids`; ids outside the vocabulary are skipped. */
  decode(ids: Iterable<number>, options?: DecodeIdsOptions): string;
  /** Begins to decode a text; its pieces together are what `decode` gives for all ids together. */
  decoding(options?: DecodeIdsOptions): IdDecoding;
  /** The text of tokens as they are written in the vocabulary, or of any others. */
  join(tokens: readonly string[]): string;
  /** Adds the special tokens around ids that were encoded without them. */
  frame(ids: readonly number[], pair?: readonly number[]): Framed;
  token_to_id(token: string): number | undefined;
  id_to_token(id: number): string | undefined;
  /** Every token with its id, added ones included. */
  get_vocab(): Map<string, number>;
  /** The bytes that each token adds to a text. @throws OctavoError where they depend on the tokens around it */
  token_bytes(): TokenBytes;
  /** Tokens that are cut out of texts, with their ids. */
  readonly added_tokens: readonly AddedToken[];
  /** The same tokenizer with these added tokens in place of its own. */
  withAddedTokens(added_tokens: readonly AddedToken[]): Tokenizer;
  /** The same tokenizer with other tokens around texts, in the form of a tokenizer.json's component. */
  withPostProcessor(post_processor: JsonObject): Tokenizer;
  /** The same vocabulary for texts that are prepared, cut and framed otherwise, each as a component of tokenizer.json. */
  withText(normalizer: JsonObject, pre_tokenizer: JsonObject, post_processor: JsonObject): Tokenizer;
}

/** Characters that normalizers may read while they normalize added tokens. */
const MOST_WORK = 1 << 28;

/** The engine over tokenizer.json. */
export class JsonTokenizer implements Tokenizer {
  readonly vocab_size: number;
  readonly size: number;
  readonly cleans: boolean;
  readonly marks_subwords: boolean;
  readonly special_ids: ReadonlySet<number>;
  readonly unk_token_id: number | undefined;
  readonly frames: Frames | undefined;
  readonly #json: TokenizerJson;
  readonly #normalize: Normalizer | null;
  readonly #preTokenize: PreTokenizer;
  readonly #model: Model;
  readonly #beginDecoding: () => Decoding;
  readonly #trims: ReturnType<typeof trimsOf>;
  readonly #added = new Map<string, number>(); // ids of added tokens
  readonly #tokens: Map<number, string>;
  #bytes: TokenBytes | undefined; // made on first use
  readonly #banned: ReadonlySet<number> | undefined; // special tokens, which text that is not trusted may not become
  readonly #raw: AddedTokenCutter; // tokens looked for before normalization
  readonly #normalized: AddedTokenCutter; // and after
  readonly #single: Frame;
  readonly #suffix: string | undefined;
  #pair: Frame | undefined; // made on first use: few tokenizers ever see a pair

  /**
   * @param json a checked tokenizer.json, with the added tokens of the other files already merged in
   * @param alike a tokenizer with the same model, whose other parts are taken as well where they are the same
   * @throws FormatError when a part cannot be built or the post-processor names a token that does not exist
   */
  constructor(json: TokenizerJson, alike?: JsonTokenizer) {
    const { file, added_tokens, vocab, scores, unk_token_id } = json;
    this.frames = json.decoder?.find(({ type }) => type === "Frames") as Frames | undefined;
    this.#json = json;
    const before = alike && alike.#json.normalizer === json.normalizer ? alike.#normalize : undefined;
    this.#normalize = before === undefined ? buildNormalizer(file, json.normalizer) : before;
    const cuts = alike && alike.#json.pre_tokenizer === json.pre_tokenizer ? alike.#preTokenize : undefined;
    this.#preTokenize = cuts ?? buildPreTokenizer(file, json.pre_tokenizer);
    this.#model = alike ? alike.#model : buildModel(json);
    const suffix = json.model.end_of_word_suffix;
    this.#suffix = typeof suffix === "string" && suffix !== "" ? suffix : undefined;
    this.#tokens = new Map();
    for (const [id, [token]] of scores.entries()) this.#tokens.set(id, token);
    for (const [token, id] of vocab) this.#tokens.set(id, token);
    this.vocab_size = this.#tokens.size;
    const special = new Set<number>();
    const omitted = new Set<number>();
    const raw: [string, AddedToken][] = [];
    const normalized: [string, AddedToken][] = [];
    const specials = new Set(added_tokens.filter((token) => token.special).map(({ content }) => content));
    this.#beginDecoding = buildDecoder(file, json.decoder, this.#suffix, specials);
    for (const token of added_tokens) {
      const normalize = token.normalized ? this.#normalize : null;
      const content = normalize === null ? token.content : normalize(token.content).text;
      this.#added.set(token.content, token.id);
      this.#tokens.set(token.id, content); // as in Python, the id stands for what is found in the text
      if (token.special) special.add(token.id);
      if (specials.has(content)) omitted.add(token.id);
      if (content !== "") (normalize === null ? raw : normalized).push([content, token]);
      if (normalize !== null && normalize.work > MOST_WORK) {
        throw new FormatError(`${file}: normalizer: makes the added tokens too long to be read`, {
          details: { file, key: "normalizer", expected: `at most ${MOST_WORK} characters` },
        });
      }
    }
    this.#raw = new AddedTokenCutter(raw, file);
    this.#normalized = new AddedTokenCutter(normalized, file);
    this.special_ids = omitted;
    this.size = this.#tokens.size;
    this.cleans = json.model.type !== "BPE";
    this.marks_subwords = json.model.type === "WordPiece";
    this.unk_token_id = unk_token_id;
    this.#banned = special.size === 0 ? undefined : special;
    this.#single = this.#makeFrame(false);
    this.#trims = trimsOf(json.post_processor);
  }

  /**
   * @throws OptionError when `text` is not a string
   * @throws FormatError when the text holds a piece that the vocabulary lacks and there is no unknown token, and when a
   * normalizer or pattern of the file cannot be applied to the text
   */
  encode(text: string, options: EncodeTextOptions = {}): number[] {
    if (typeof text !== "string") throw new OptionError(`tokenizer: text must be a string, got ${show(text)}`);
    const skip = options.split_special_tokens === true;
    const banned = skip ? this.#banned : undefined;
    const ids: number[] = [];
    this.#cut(wellFormed(text), PLAIN, this.#normalize, skip, (piece, token) => {
      if (token === undefined) this.#model.encode(piece, banned, ids);
      else ids.push(token.id);
    });
    const { before, after } = this.#single;
    if (options.add_special_tokens === false || before.length + after.length === 0) return ids;
    return [...before.map(([id]) => id), ...ids, ...after.map(([id]) => id)];
  }

  place(text: string, options: Pick<EncodeTextOptions, "split_special_tokens"> = {}): Placement {
    const skip = options.split_special_tokens === true;
    const banned = skip ? this.#banned : undefined;
    const known = wellFormed(text);
    const { model, unk_token_id } = this.#json;
    const placement = new Placement(known, this.#trims, (id) => this.#tokens.get(id));
    this.#cut(Aligned.of(known), ALIGNED, this.#normalize?.align, skip, (piece, token) => {
      const whole = piece.text;
      if (token !== undefined) {
        placement.add(
          [token.id],
          () => piece.range(0, whole.length),
          () => whole,
        );
        return;
      }
      const ids: number[] = [];
      const places: number[] = [];
      this.#model.place(whole, banned, ids, places);
      const at = (i: number) => [places[2 * i]!, places[2 * i + 1]!] as const;
      // Unigram's unknown token is in Python the text that is unknown.
      const written = (i: number) => (ids[i] === unk_token_id ? whole.slice(...at(i)) : undefined);
      placement.add(ids, (i) => piece.range(...at(i)), model.type === "Unigram" ? written : undefined);
    });
    return placement;
  }

  /** Cuts a text into added tokens and pieces for the model. */
  #cut<T>(
    text: T,
    form: Form<T>,
    normalize: ((text: T) => Normalized<T>) | null | undefined,
    skip: boolean,
    take: (piece: T, token?: AddedToken) => void,
  ): void {
    let first = true;
    for (const { start, end, token } of this.#raw.cut(form.text(text), skip)) {
      const section = form.slice(text, start, end);
      if (token !== undefined) take(section, token);
      else {
        const { text: normal, late } = normalize?.(section) ?? { text: section, late: false };
        if (late) first = false;
        for (const part of this.#normalized.cut(form.text(normal), skip)) {
          const found = form.slice(normal, part.start, part.end);
          if (part.token !== undefined) take(found, part.token);
          else for (const piece of this.#preTokenize({ text: found, first }, form)) take(piece.text);
          first = false;
        }
      }
      first = false;
    }
  }

  decode(ids: Iterable<number>, options: DecodeIdsOptions = {}): string {
    const tokens = this.#tokensOf(ids, options);
    return tokens.length === 0 ? "" : this.#beginDecoding()(tokens, true);
  }

  decoding(options: DecodeIdsOptions = {}): IdDecoding {
    const decode = this.#beginDecoding();
    let begun = false;
    return {
      push: (ids) => {
        const tokens = this.#tokensOf(ids, options);
        begun ||= tokens.length > 0;
        return decode(tokens, false);
      },
      end: () => (begun ? decode([], true) : ""),
    };
  }

  join(tokens: readonly string[]): string {
    return this.#beginDecoding()(tokens, true);
  }

  #tokensOf(ids: Iterable<number>, options: DecodeIdsOptions): string[] {
    const tokens: string[] = [];
    for (const id of ids) {
      if (options.skip_special_tokens === true && this.special_ids.has(id)) continue;
      const token = this.#tokens.get(id);
      if (token !== undefined) tokens.push(token);
    }
    return tokens;
  }

  frame(ids: readonly number[], pair?: readonly number[]): Framed {
    const { before, between, after, types } =
      pair === undefined ? this.#single : (this.#pair ??= this.#makeFrame(true));
    const all: number[] = [];
    const token_type_ids: number[] = [];
    const special = (list: Frame["before"]) => {
      for (const [id, type] of list) {
        all.push(id);
        token_type_ids.push(type);
      }
    };
    const sequence = (list: readonly number[], type: number) => {
      for (const id of list) {
        all.push(id);
        token_type_ids.push(type);
      }
    };
    special(before);
    sequence(ids, types[0]);
    special(between);
    if (pair !== undefined) sequence(pair, types[1]);
    special(after);
    return { ids: all, token_type_ids };
  }

  token_to_id(token: string): number | undefined {
    return this.#added.get(token) ?? this.#json.vocab.get(token);
  }

  id_to_token(id: number): string | undefined {
    return this.#tokens.get(id);
  }

  get_vocab(): Map<string, number> {
    return new Map([...this.#json.vocab, ...this.#added]);
  }

  token_bytes(): TokenBytes {
    if (this.#bytes) return this.#bytes;
    const { file, decoder } = this.#json;
    const without = new Set([...(this.#banned ?? []), ...this.special_ids]);
    if (this.unk_token_id !== undefined) without.add(this.unk_token_id);
    this.#bytes = tokenBytes(file, decoder, this.#tokens, without, this.#suffix);
    return this.#bytes;
  }

  get added_tokens(): readonly AddedToken[] {
    return this.#json.added_tokens;
  }

  withAddedTokens(added_tokens: readonly AddedToken[]): JsonTokenizer {
    return new JsonTokenizer({ ...this.#json, added_tokens }, this);
  }

  withPostProcessor(post_processor: JsonObject): JsonTokenizer {
    return new JsonTokenizer({ ...this.#json, post_processor: [post_processor] }, this);
  }

  withText(normalizer: JsonObject, pre_tokenizer: JsonObject, post_processor: JsonObject): JsonTokenizer {
    const parts = { normalizer: [normalizer], pre_tokenizer: [pre_tokenizer], post_processor: [post_processor] };
    return new JsonTokenizer({ ...this.#json, ...parts }, this);
  }

  #makeFrame(pair: boolean): Frame {
    const { file, post_processor } = this.#json;
    const known = {
      file,
      idOf: (token: string) => this.token_to_id(token),
      has: (id: number) => this.#tokens.has(id),
    };
    return buildFrame(post_processor, pair, known);
  }
}
