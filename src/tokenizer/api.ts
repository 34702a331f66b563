// PreTrainedTokenizer: the tokenizer as Python users know it, callable, with padding, truncation and named special
// tokens, over any engine. Not here: how text becomes ids (engine.ts), reading files (load.ts), how chat templates are applied
// (apply-chat-template.ts).

import { isList } from "../core/checks.js";
import { OctavoError, OptionError } from "../core/errors.js";
import { problemWith, readOptions } from "../core/options.js";
import { Part } from "../core/part.js";
import { show } from "../core/show.js";
import type {
  Applied,
  AppliedTo,
  ApplyChatTemplateOptions,
  ApplyOptions,
  ChatTokenizer,
  Conversation,
  Encoded,
} from "./apply-chat-template.js";
import type { BatchEncoding, Encoding, IdRows, Side, TensorEncoding } from "./batch.js";
import { chooseTemplate, isTemplates } from "./chat/templates.js";
import { type AnyDecoded, type Decoded, decodeIds } from "./decoded.js";
import { encodingOf } from "./encoding.js";
import type { Tokenizer } from "./engine.js";
import { type IdList, readIds, readRows, readTexts } from "./ids.js";
import type { Infilled } from "./infill.js";
import type { JsonObject } from "./json-file.js";
import { Languages } from "./languages.js";
import { NamedTokens } from "./named-tokens.js";
import {
  ADD_SPECIAL_TOKENS,
  ADD_TOKENS,
  type AddSpecialTokensOptions,
  type AddTokensOptions,
  type NewToken,
  readNewTokens,
  readSpecialTokens,
  type SpecialTokens,
  withNewTokens,
} from "./new-tokens.js";
import { CALL, type CallOptions, DECODE_TIMED, type DecodeOptions, type TokenizerSettings } from "./options.js";
import { makeRows } from "./rows.js";
import { StreamDecoder, type StreamDecoderOptions } from "./stream.js";
import { promptIds } from "./timed.js";

export type { ApplyChatTemplateOptions, ChatMessage, Conversation } from "./apply-chat-template.js";
export type { BatchEncoding, Encoding, IdRows, IntTensor, OffsetTensor, Side, TensorEncoding } from "./batch.js";
export { type CallOptions, type DecodeOptions, SPECIAL_NAMES, type SpecialName } from "./options.js";

/** What conversations need, a fifth of a page's bytes. */
export const CONVERSATIONS = new Part(() => import("./apply-chat-template.js"));

function sideOf(value: Side, option: string): Side {
  const problem = problemWith(option, CALL.padding_side, value);
  if (problem) throw new OptionError(problem.message, { details: { option } });
  return value;
}

export class PreTrainedTokenizer extends NamedTokens {
  readonly name_or_path: string;
  readonly init_kwargs: JsonObject;
  clean_up_tokenization_spaces: boolean;
  #paddingSide: Side;
  #truncationSide: Side;
  #typeIds: boolean;
  #longest: number;
  #template: TokenizerSettings["chat_template"];
  readonly #save: TokenizerSettings["save"];
  #backend: Tokenizer;
  readonly #languages: Languages;
  #writing: Tokenizer | undefined;
  #targetLang: string | null;
  readonly #inLanguage: TokenizerSettings["in_language"];

  constructor(backend: Tokenizer, settings: TokenizerSettings) {
    super(settings);
    this.#backend = backend;
    this.#template = settings.chat_template;
    this.#save = settings.save;
    this.name_or_path = settings.name_or_path;
    this.init_kwargs = settings.init_kwargs;
    this.#longest = settings.model_max_length;
    this.clean_up_tokenization_spaces = settings.clean_up_tokenization_spaces;
    this.#paddingSide = sideOf(settings.padding_side, "padding_side");
    this.#truncationSide = sideOf(settings.truncation_side, "truncation_side");
    this.#typeIds = settings.return_token_type_ids;
    this.#writing = settings.target;
    this.#targetLang = settings.target_lang ?? null;
    this.#inLanguage = settings.in_language;
    this.#languages = new Languages(settings);
    if (settings.src_lang !== null) this.src_lang = settings.src_lang;
  }

  /**
   * The language of texts, by a code of the model's ("en_XX", "eng_Latn", "en"): a token beside each text says it. Null for tokenizers
   * without languages. @throws OptionError, when it is set, for a code that is not known, and for such a tokenizer
   */
  get src_lang(): string | null {
    return this.#languages.source;
  }
  set src_lang(code: string) {
    this.#backend = this.#languages.framed(this, "src_lang", code);
    this.#languages.source = code;
  }
  /** The language of `text_target`, as `src_lang`; null if none is set. */
  get tgt_lang(): string | null {
    return this.#languages.target;
  }
  set tgt_lang(code: string) {
    this.#languages.framed(this, "tgt_lang", code);
    this.#languages.target = code;
  }

  /** The id of a language's token, for `forced_bos_token_id` of `generate`. @throws OptionError as `src_lang` */
  get_lang_id(lang: string): number {
    return this.#languages.id(this, "get_lang_id", lang);
  }

  /** The language whose characters a speech recognizer of many languages writes (MMS); null for other tokenizers. */
  get target_lang(): string | null {
    return this.#targetLang;
  }

  /**
   * Changes that language; the model's follows by `model.load_adapter(target_lang)`.
   * @throws OptionError for a language that vocab.json does not have, and for tokenizers of one vocabulary
   */
  set_target_lang(target_lang: string): void {
    if (!this.#inLanguage) {
      throw new OptionError("tokenizer.set_target_lang: this tokenizer has one vocabulary, not one for each language");
    }
    this.#backend = this.#inLanguage(target_lang);
    this.#targetLang = target_lang;
  }

  /** The engine: text to ids and back, without Python's conveniences. Another one once tokens are added. */
  get backend(): Tokenizer {
    return this.#backend;
  }

  /** The side that `padding` fills. Generation with decoder-only models needs "left". */
  get padding_side(): Side {
    return this.#paddingSide;
  }
  set padding_side(side: Side) {
    this.#paddingSide = sideOf(side, "padding_side");
  }
  /** The side that `truncation` cuts. */
  get truncation_side(): Side {
    return this.#truncationSide;
  }
  set truncation_side(side: Side) {
    this.#truncationSide = sideOf(side, "truncation_side");
  }

  /** The text of the chat template, several by their names, or null. */
  get chat_template(): TokenizerSettings["chat_template"] {
    return this.#template;
  }
  set chat_template(template: TokenizerSettings["chat_template"]) {
    if (!isTemplates(template)) {
      throw new OptionError(`chat_template must be text, an object of texts or null, got ${show(template)}`, {
        details: { option: "chat_template" },
      });
    }
    this.#template = typeof template === "object" && template !== null ? { ...template } : template;
  }

  /** The length that `truncation` cuts to unless a call says another; Infinity for none. */
  get model_max_length(): number {
    return this.#longest;
  }
  set model_max_length(length: number) {
    if (typeof length !== "number" || !(length > 0)) {
      throw new OptionError(`model_max_length must be a number above 0, got ${show(length)}`, {
        details: { option: "model_max_length" },
      });
    }
    this.#longest = length;
  }

  /** Tokens of the model itself. */
  get vocab_size(): number {
    return this.backend.vocab_size;
  }
  /** All tokens, added ones included: Python's `len(tokenizer)`. */
  get size(): number {
    return this.backend.size;
  }

  /**
   * Adds tokens, which are cut out of texts as a whole. Those that the vocabulary has keep their ids; a model needs
   * `resize_token_embeddings(tokenizer.size)` for others.
   * @returns how many of them were no added tokens before, or others
   * @throws OptionError
   */
  add_tokens(new_tokens: NewToken | readonly NewToken[], options: AddTokensOptions = {}): number {
    const { special_tokens = false } = readOptions("tokenizer.add_tokens", ADD_TOKENS, options);
    return this.#add(readNewTokens("tokenizer.add_tokens", new_tokens, special_tokens));
  }

  /**
   * Adds special tokens and names them: `{ pad_token: "<pad>", additional_special_tokens: ["<a>"] }`.
   * @returns as add_tokens
   * @throws OptionError
   */
  add_special_tokens(special_tokens: SpecialTokens, options: AddSpecialTokensOptions = {}): number {
    const place = "tokenizer.add_special_tokens";
    const { named, others } = readSpecialTokens(place, special_tokens);
    const { replace_additional_special_tokens, replace_extra_special_tokens } = readOptions(
      place,
      ADD_SPECIAL_TOKENS,
      options,
    );
    const count = this.#add([...named.values(), ...(others ?? [])]);
    const replace = replace_additional_special_tokens ?? replace_extra_special_tokens ?? true;
    this.nameTokens(named, others, replace);
    return count;
  }

  #add(tokens: Parameters<typeof withNewTokens>[1]): number {
    const { all, count } = withNewTokens(this.#backend, tokens);
    if (count > 0) {
      this.#backend = this.#backend.withAddedTokens(all);
      this.#writing = this.#writing?.withAddedTokens(all);
    }
    return count;
  }

  /** The added tokens with their ids, those of the vocabulary included. */
  get_added_vocab(): Map<string, number> {
    return new Map(this.#backend.added_tokens.map(({ content, id }) => [content, id]));
  }

  /** @internal the implementation of `tokenizer(...)`; TokenizerCall has the types */
  _call(text: string | readonly string[], given: CallOptions = {}): Encoding | BatchEncoding | TensorEncoding {
    return this.#encode(text, given).encoding;
  }

  #encode(text: string | readonly string[], given: CallOptions, located = false): Encoded {
    const options = readOptions("tokenizer", CALL, given);
    const single = typeof text === "string";
    const texts = readTexts("tokenizer", "text", text);
    // Beside one text an empty one is none, as in Python; in lists it counts.
    const text_pair = options.text_pair === "" ? undefined : options.text_pair;
    const pairs = text_pair === undefined ? undefined : readTexts("tokenizer", "text_pair", text_pair);
    if (pairs !== undefined && (pairs.length !== texts.length || (typeof text_pair === "string") !== single)) {
      throw new OptionError(`tokenizer: text_pair must match text: ${texts.length} texts, ${pairs.length} pairs`);
    }
    const filled = this.#filled(text, options);
    const where = located || options.return_offsets_mapping === true;
    const rows = filled
      ? makeRows(this.#over(filled.backend), filled.texts, filled.pairs, filled.options, where)
      : makeRows(this, texts, pairs, options, where);
    const labels = options.text_target === undefined ? undefined : this.#labels(options.text_target, options);
    if (labels && labels.length !== texts.length) {
      throw new OptionError(`tokenizer: text_target must match text: ${texts.length} texts, ${labels.length} targets`);
    }

    const typed = options.return_token_type_ids ?? this.#typeIds;
    const encoding = encodingOf({ rows, labels, single, typed }, options);
    return { encoding, rows };
  }

  /** Ids of texts that are to be written. @throws OptionError without their language, where the tokenizer says one */
  #labels(text: string | readonly string[], options: CallOptions): number[][] {
    const targets = readTexts("tokenizer", "text_target", text);
    const backend = this.#languages.writing(this) ?? this.#writing ?? this.#backend;
    return makeRows(this.#over(backend), targets, undefined, options, false).map(({ ids }) => ids);
  }

  /** The parts of texts with holes; undefined where there are none. */
  #filled(text: string | readonly string[], options: CallOptions): Infilled<CallOptions> | undefined {
    if (this.infilling) return this.infilling.parts(this, text, options);
    if (options.suffix === undefined && options.suffix_first === undefined) return undefined;
    throw new OptionError("tokenizer: suffix: this tokenizer fills no holes", { details: { option: "suffix" } });
  }

  /** What rows need, with another engine. */
  #over(backend: Tokenizer) {
    const { padding_side, truncation_side, model_max_length, pad_token_id } = this;
    return { backend, padding_side, truncation_side, model_max_length, pad_token_id };
  }

  /**
   * Ids of one text (or a pair), with special tokens.
   * @throws OptionError for what is not a string, unknown options and wrong values
   */
  encode(text: string, given: Omit<CallOptions, "return_tensors"> = {}): number[] {
    const options = readOptions("tokenizer.encode", CALL, given);
    if (typeof text !== "string") {
      throw new OptionError(`tokenizer.encode: text must be a string, got ${show(text)}`, {
        hint: "for several texts at once use tokenizer(texts)",
      });
    }
    const { text_pair, padding, max_length, truncation, split_special_tokens, add_special_tokens } = options;
    const filled = this.#filled(text, options);
    if (!filled && text_pair === undefined && !padding && max_length === undefined && !truncation) {
      return this.backend.encode(text, { split_special_tokens, add_special_tokens });
    }
    const one = { ...options, return_tensors: false, return_overflowing_tokens: false } as const;
    return (this._call(text, one) as Encoding).input_ids;
  }

  /**
   * Text of ids; ids outside the vocabulary are skipped. Tokens of Whisper's times are no text.
   * @throws OptionError for unknown options, those of another kind of tokenizer, or a value that is not a list of integers
   */
  decode<const O extends DecodeOptions = DecodeOptions>(ids: IdList, given?: O): Decoded<O>;
  decode(ids: IdList, given: DecodeOptions = {}): AnyDecoded {
    const options = readOptions("tokenizer.decode", DECODE_TIMED, given);
    return decodeIds(this, readIds("tokenizer.decode", ids), options);
  }

  /**
   * `decode` of every row.
   * @throws OptionError for unknown options or what is neither a list of lists of integers nor a tensor [B, T]
   */
  batch_decode<const O extends DecodeOptions = DecodeOptions>(rows: IdRows, given?: O): Decoded<O>[];
  batch_decode(rows: IdRows, given: DecodeOptions = {}): AnyDecoded[] {
    const options = readOptions("tokenizer.batch_decode", DECODE_TIMED, given);
    return readRows("tokenizer.batch_decode", rows).map((row) => decodeIds(this, row, options));
  }

  /**
   * Ids of a text that comes before a transcript: `prompt_ids` of a Whisper's generate().
   * @throws OptionError for what is not a string, for special tokens in it, and for tokenizers of other models
   */
  get_prompt_ids(text: string): number[] {
    if (typeof text === "string") return promptIds(this.backend, text);
    throw new OptionError(`tokenizer.get_prompt_ids: text must be a string, got ${show(text)}`);
  }

  /** The tokens of a text, as written in the vocabulary. */
  tokenize(text: string, given: Pick<CallOptions, "add_special_tokens"> = {}): string[] {
    const options = readOptions("tokenizer.tokenize", { add_special_tokens: CALL.add_special_tokens }, given);
    const ids = this.backend.encode(text, { add_special_tokens: options.add_special_tokens === true });
    return this.convert_ids_to_tokens(ids);
  }

  /**
   * Id of a token; if the vocabulary lacks it, the id of the unknown token, or null if there is none.
   * @throws OptionError for anything but a string or an array of strings
   */
  convert_tokens_to_ids(token: string): number | null;
  convert_tokens_to_ids(tokens: readonly string[]): (number | null)[];
  convert_tokens_to_ids(tokens: string | readonly string[]): number | null | (number | null)[] {
    const ids = readTexts("tokenizer.convert_tokens_to_ids", "tokens", tokens).map(
      (token) => this.backend.token_to_id(token) ?? this.unk_token_id,
    );
    return typeof tokens === "string" ? ids[0]! : ids;
  }

  /**
   * Token of an id, as written in the vocabulary.
   * @throws OptionError for an id that is not in the vocabulary
   */
  convert_ids_to_tokens(id: number | bigint): string;
  convert_ids_to_tokens(ids: Iterable<number | bigint>): string[];
  convert_ids_to_tokens(ids: IdList): string | string[] {
    const tokens = readIds("tokenizer.convert_ids_to_tokens", ids).map((id) => {
      const token = this.backend.id_to_token(id);
      if (token === undefined) throw new OptionError(`tokenizer: id ${show(id)} is not in the vocabulary`);
      return token;
    });
    return typeof ids === "number" || typeof ids === "bigint" ? tokens[0]! : tokens;
  }

  /**
   * A conversation, or several, as the model's chat template writes them: tokens, or text with `tokenize: false`. Options that the
   * template mentions, such as `enable_thinking`, are variables of it.
   * @throws OptionError for wrong options, for messages that the template refuses, and when there is no template
   * @throws FormatError when the template is malformed, fails, or takes more time or space than it may
   */
  apply_chat_template<C extends Conversation | readonly Conversation[], const O extends ApplyOptions = ApplyOptions>(
    conversation: C,
    given?: O,
  ): AppliedTo<C, O>;
  apply_chat_template(conversation: unknown, given: ApplyChatTemplateOptions = {}): Applied {
    const { chat_template, special_tokens_map } = this;
    const encode = (...call: Parameters<ChatTokenizer["encode"]>) => this.#encode(...call);
    return CONVERSATIONS.now.applyChatTemplate({ chat_template, special_tokens_map, encode }, conversation, given);
  }

  /**
   * The template that `apply_chat_template` takes: the named or given one, the one for tools, or the default.
   * @throws OptionError when there is none
   */
  get_chat_template(chat_template?: string, tools?: readonly object[]): string {
    if (chat_template !== undefined && typeof chat_template !== "string") {
      throw new OptionError(`tokenizer.get_chat_template: chat_template must be text, got ${show(chat_template)}`);
    }
    return chooseTemplate(this.chat_template, chat_template, isList(tools));
  }

  /**
   * Writes the tokenizer's files into a folder, so that Octavo and transformers open it with the same ids: tokenizer.json,
   * tokenizer_config.json, special_tokens_map.json, chat_template.jinja. What was read and has not changed is written byte for
   * byte; what else the folder holds stays.
   * @returns the names of the files
   * @throws OptionError for what names no folder, and for options; OctavoError in a page and for tokenizers that came from no files; FileError
   */
  async save_pretrained(folder: string, ...more: never[]): Promise<string[]> {
    if (more.length > 0) throw new OptionError("tokenizer.save_pretrained takes a folder, and no options");
    if (this.#save === undefined) {
      throw new OctavoError(
        "ERR_UNSUPPORTED",
        "tokenizer.save_pretrained needs a tokenizer that was loaded by from_pretrained",
      );
    }
    const { padding_side, truncation_side, model_max_length, clean_up_tokenization_spaces, chat_template } = this;
    const rest = { padding_side, truncation_side, model_max_length, clean_up_tokenization_spaces, chat_template };
    const tokens = {
      additional_special_tokens: this.additional_special_tokens,
      added_tokens: this.#backend.added_tokens,
    };
    const languages = { src_lang: this.src_lang, tgt_lang: this.tgt_lang, target_lang: this.target_lang };
    return this.#save({ special: this.special_tokens_map, ...rest, ...tokens, ...languages }, folder);
  }

  get_vocab(): Map<string, number> {
    return this.backend.get_vocab();
  }

  /** A decoder for ids that arrive one by one; see StreamDecoder. */
  streamDecoder(options: StreamDecoderOptions = {}): StreamDecoder {
    return new StreamDecoder(this, options);
  }
}
