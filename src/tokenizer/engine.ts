// The interface of tokenizers inside Octavo, and its implementation for tokenizer.json. It cuts added and special tokens out
// of the text. Not here: batches, padding, truncation, Python's call signature (api.ts), reading folders (load.ts).

import { FormatError, OptionError } from "../core/errors.js";
import { buildParts, byteLevelBytes, fallbackByte, type TokenizerParts } from "./parts.js";
import { type AddedToken, isObject, type JsonObject, type TokenizerJson } from "./tokenizer-json.js";

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

/** A tokenizer for one vocabulary. Immutable and synchronous; everything else is built on it. */
export interface Tokenizer {
  /** Tokens of the model itself, without added tokens. */
  readonly vocab_size: number;
  /** All tokens, added ones included: Python's `len(tokenizer)`. */
  readonly size: number;
  /** True if decode() concatenates the bytes of the tokens, so that streams can be decoded byte by byte. */
  readonly byte_level: boolean;
  /**
   * True if `clean_up_tokenization_spaces` applies. It does not to BPE, as in Python since transformers 5: there each space of
   * the text is a token's own, and files set the option by mistake of a converter.
   */
  readonly cleans: boolean;
  /** Tokens omitted by `skip_special_tokens`. */
  readonly special_ids: ReadonlySet<number>;
  readonly unk_token_id: number | undefined;
  encode(text: string, options?: EncodeTextOptions): number[];
  /** Text of `ids`; ids outside the vocabulary are skipped. */
  decode(ids: Iterable<number>, options?: { readonly skip_special_tokens?: boolean }): string;
  /** Adds the special tokens around ids that were encoded without them. */
  frame(ids: readonly number[], pair?: readonly number[]): Framed;
  token_to_id(token: string): number | undefined;
  id_to_token(id: number): string | undefined;
  /** Bytes of a token that encodes bytes (byte-level, or `<0xNN>`), else undefined. */
  token_bytes(id: number): Uint8Array | undefined;
  /** Every token with its id, added ones included. */
  get_vocab(): Map<string, number>;
}

/** Replaces lone surrogates, which no UTF-8 can hold, by U+FFFD. */
export function wellFormed(text: string): string {
  return text.replace(/\p{Surrogate}/gu, "\uFFFD");
}

type Section = string | AddedToken;
interface TrieNode {
  readonly next: Map<string, TrieNode>;
  token?: AddedToken;
}

const ENDS_IN_WORD = /[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}]$/u;
const STARTS_WITH_WORD = /^[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}]/u;

/** Finds added tokens in text: leftmost, then longest, as in Python. */
class AddedTokenCutter {
  readonly #root: TrieNode = { next: new Map() };
  readonly #starts = new Set<string>();

  add(content: string, token: AddedToken): void {
    let node = this.#root;
    for (let i = 0; i < content.length; i++) {
      let child = node.next.get(content[i]!);
      if (child === undefined) node.next.set(content[i]!, (child = { next: new Map() }));
      node = child;
    }
    node.token = token;
    this.#starts.add(content[0]!);
  }

  cut(text: string, skipSpecial: boolean): Section[] {
    const sections: Section[] = [];
    let start = 0;
    let at = 0;
    while (at < text.length) {
      const found = this.#starts.has(text[at]!) ? this.#longest(text, at) : undefined;
      if (found === undefined) {
        at++;
        continue;
      }
      const { token, length } = found;
      let stop = at + length;
      // As in Python, special tokens that count as text are found all the same, and hide shorter tokens within them.
      if (skipSpecial && token.special) {
        at = stop;
        continue;
      }
      const inWord =
        ENDS_IN_WORD.test(text.slice(Math.max(0, at - 2), at)) || STARTS_WITH_WORD.test(text.slice(stop, stop + 2));
      if (token.single_word && inWord) {
        at = stop;
        continue;
      }
      let end = at;
      if (token.lstrip) while (end > start && /\s/.test(text[end - 1]!)) end--;
      if (token.rstrip) while (stop < text.length && /\s/.test(text[stop]!)) stop++;
      if (end > start) sections.push(text.slice(start, end));
      sections.push(token);
      start = at = stop;
    }
    if (start < text.length) sections.push(text.slice(start));
    return sections;
  }

  #longest(text: string, at: number): { token: AddedToken; length: number } | undefined {
    let node: TrieNode | undefined = this.#root;
    let best: { token: AddedToken; length: number } | undefined;
    for (let i = at; i < text.length; i++) {
      node = node.next.get(text[i]!);
      if (node === undefined) break;
      if (node.token !== undefined) best = { token: node.token, length: i + 1 - at };
    }
    return best;
  }
}

interface Frame {
  readonly before: readonly (readonly [id: number, type: number])[];
  readonly between: readonly (readonly [id: number, type: number])[];
  readonly after: readonly (readonly [id: number, type: number])[];
  readonly types: readonly [number, number];
}

/** The engine over tokenizer.json. */
export class JsonTokenizer implements Tokenizer {
  readonly vocab_size: number;
  readonly size: number;
  readonly byte_level: boolean;
  readonly cleans: boolean;
  readonly special_ids: ReadonlySet<number>;
  readonly unk_token_id: number | undefined;
  readonly #file: string;
  readonly #parts: TokenizerParts;
  readonly #ids: Map<string, number>;
  readonly #tokens: Map<number, string>;
  readonly #byteFallback: boolean;
  readonly #raw = new AddedTokenCutter(); // tokens looked for before normalization
  readonly #normalized = new AddedTokenCutter(); // and after
  readonly #single: Frame;
  #pair: Frame | undefined; // made on first use: few tokenizers ever see a pair
  readonly #named: ReadonlyMap<string, readonly number[]>;

  /**
   * @param json a checked tokenizer.json, with the added tokens of the other files already merged in
   * @throws FormatError when a part cannot be built or the post-processor names a token that does not exist
   */
  constructor(json: TokenizerJson) {
    this.#file = json.file;
    this.#parts = buildParts(json);
    this.#ids = new Map(this.#parts.vocab);
    this.vocab_size = this.#ids.size;
    this.#tokens = new Map();
    for (const [token, id] of this.#ids) this.#tokens.set(id, token);
    const special = new Set<number>();
    for (const token of json.added_tokens) {
      this.#ids.set(token.content, token.id);
      this.#tokens.set(token.id, token.content);
      if (token.special) special.add(token.id);
      if (token.normalized && json.normalizer !== null) {
        const content = this.#parts.normalize(token.content);
        if (content !== "") this.#normalized.add(content, token);
      } else this.#raw.add(token.content, token);
    }
    this.special_ids = special;
    this.size = this.#tokens.size;
    this.byte_level = this.#parts.byte_level;
    this.cleans = json.model.type !== "BPE";
    this.unk_token_id = this.#parts.unk_token_id;
    this.#byteFallback = JSON.stringify(json.decoder)?.includes('"ByteFallback"') ?? false;
    this.#named = templateIds(json.post_processor);
    this.#single = this.#makeFrame(false);
  }

  /**
   * @throws OptionError when `text` is not a string
   * @throws FormatError when the text holds a piece that the vocabulary lacks and there is no unknown token
   */
  encode(text: string, options: EncodeTextOptions = {}): number[] {
    if (typeof text !== "string") throw new OptionError(`tokenizer: text must be a string, got ${typeof text}`);
    const skip = options.split_special_tokens === true;
    const ids: number[] = [];
    let first = true;
    for (const section of this.#raw.cut(wellFormed(text), skip)) {
      if (typeof section !== "string") ids.push(section.id);
      else {
        for (const part of this.#normalized.cut(this.#parts.normalize(section), skip)) {
          if (typeof part !== "string") ids.push(part.id);
          else this.#encodePlain(part, first, ids);
          first = false;
        }
      }
      first = false;
    }
    return options.add_special_tokens === false ? ids : this.frame(ids).ids;
  }

  #encodePlain(text: string, first: boolean, ids: number[]): void {
    const { vocab } = this.#parts;
    for (const token of this.#parts.model(this.#parts.pre_tokenize(text, first))) {
      const id = vocab.get(token) ?? this.unk_token_id;
      if (id === undefined) {
        throw new FormatError(
          `${this.#file}: ${JSON.stringify(token.slice(0, 40))} is not in the vocabulary and there is no unk_token`,
          { details: { file: this.#file, key: "model.unk_token" } },
        );
      }
      ids.push(id);
    }
  }

  decode(ids: Iterable<number>, options: { readonly skip_special_tokens?: boolean } = {}): string {
    const tokens: string[] = [];
    for (const id of ids) {
      if (options.skip_special_tokens === true && this.special_ids.has(id)) continue;
      const token = this.#tokens.get(id);
      if (token !== undefined) tokens.push(token);
    }
    return tokens.length === 0 ? "" : this.#parts.decode(tokens);
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
    return this.#ids.get(token);
  }

  id_to_token(id: number): string | undefined {
    return this.#tokens.get(id);
  }

  token_bytes(id: number): Uint8Array | undefined {
    const token = this.#tokens.get(id);
    if (token === undefined) return undefined;
    if (this.byte_level) return byteLevelBytes(token);
    const byte = this.#byteFallback ? fallbackByte(token) : undefined;
    return byte === undefined ? undefined : Uint8Array.of(byte);
  }

  get_vocab(): Map<string, number> {
    return new Map(this.#ids);
  }

  /** Runs the post-processor once on placeholders; it adds the same tokens around any text. */
  #makeFrame(pair: boolean): Frame {
    const [A, B] = ["\u0000A", "\u0000B"];
    const plain = { tokens: pair ? [A, B] : [A], types: pair ? [0, 1] : [0] };
    let { tokens, types }: { tokens: string[]; types?: number[] } = plain;
    try {
      ({ tokens, types } = this.#parts.post_process?.([A], pair ? [B] : null) ?? plain);
    } catch (cause) {
      const key = "post_processor";
      throw new FormatError(`${this.#file}: post_processor: malformed`, { details: { file: this.#file, key }, cause });
    }
    if (pair && !tokens.includes(B)) ({ tokens, types } = { tokens: [...tokens, B], types: [...(types ?? [0]), 1] });
    const atA = tokens.indexOf(A);
    const atB = pair ? tokens.indexOf(B) : tokens.length;
    if (atA < 0 || atB < atA || tokens.lastIndexOf(A) !== atA) {
      throw new FormatError(`${this.#file}: post_processor: the template must hold $A once, and $B after it`, {
        details: { file: this.#file, key: "post_processor" },
      });
    }
    const typeOf = (i: number) => types?.[i] ?? 0;
    const specials = (from: number, to: number) =>
      tokens.slice(from, to).flatMap((token, i) => {
        const ids = this.#named.get(token) ?? [this.#ids.get(token)];
        return ids.map((id) => {
          if (id === undefined || !this.#tokens.has(id)) {
            throw new FormatError(`${this.#file}: post_processor: token ${JSON.stringify(token)} does not exist`, {
              details: { file: this.#file, key: "post_processor", got: token },
            });
          }
          return [id, typeOf(from + i)] as const;
        });
      });
    const single = !pair;
    return {
      before: specials(0, atA),
      between: single ? [] : specials(atA + 1, atB),
      after: specials(single ? atA + 1 : atB + 1, tokens.length),
      types: [typeOf(atA), pair ? typeOf(atB) : 0],
    };
  }
}

/** Ids of the special tokens in a post-processor's templates. */
function templateIds(config: JsonObject | null): Map<string, readonly number[]> {
  const named = new Map<string, readonly number[]>();
  if (config === null) return named;
  for (const child of Array.isArray(config.processors) ? config.processors : []) {
    if (isObject(child)) for (const [name, ids] of templateIds(child)) named.set(name, ids);
  }
  for (const [name, token] of Object.entries(isObject(config.special_tokens) ? config.special_tokens : {})) {
    if (isObject(token) && Array.isArray(token.ids))
      named.set(
        name,
        token.ids.filter((id) => typeof id === "number"),
      );
  }
  return named;
}

/** `clean_up_tokenization_spaces`: removes spaces before English punctuation and contractions. */
export function cleanUp(text: string): string {
  return text
    .replaceAll(" .", ".")
    .replaceAll(" ?", "?")
    .replaceAll(" !", "!")
    .replaceAll(" ,", ",")
    .replaceAll(" ' ", "'")
    .replaceAll(" n't", "n't")
    .replaceAll(" 'm", "'m")
    .replaceAll(" 's", "'s")
    .replaceAll(" 've", "'ve")
    .replaceAll(" 're", "'re");
}
