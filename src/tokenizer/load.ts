// Opens a folder that holds a tokenizer: tokenizer.json, or the older files it can be built from (older-files.ts), and the settings
// beside them (settings-files.ts). Not here: finding the folder of a hub id.

import type { FolderWriter } from "../checkpoints/folder.js";
import { OptionError } from "../core/errors.js";
import { pick, readOptions } from "../core/options.js";
import { show } from "../core/show.js";
import type { Source } from "../sources/source.js";
import { CONVERSATIONS, PreTrainedTokenizer } from "./api.js";
import { classFacts } from "./classes.js";
import type { Components } from "./components.js";
import { JsonTokenizer, type Tokenizer } from "./engine.js";
import { fail, type JsonObject, readJsonObject } from "./json-file.js";
import { languageRule } from "./languages.js";
import {
  LOAD_TOKENIZER,
  type LoadTokenizerOptions,
  type SaveTokenizer,
  SPECIAL_NAMES,
  type SpecialName,
  type TokenizerSettings,
  type TokenizerState,
} from "./options.js";
import {
  addedIds,
  chatTemplate,
  extraTokens,
  type Files,
  modelTokens,
  type NamedToken,
  namedToken,
  readFiles,
  type TokenFlags,
  usualToken,
} from "./settings-files.js";
import { type AddedToken, checkTokenizerJson, type TokenizerJson } from "./tokenizer-json.js";

/** A tokenizer.json, checked, with where it came from. */
interface Structure {
  readonly checked: TokenizerJson;
  readonly json: JsonObject;
  /** Whether it was built from older files. */
  readonly converted: boolean;
  /** Special tokens that a SentencePiece model names itself. */
  readonly own: Readonly<Record<string, string | undefined>>;
  /** How texts that a model is to write are cut, where that is another way. */
  readonly target?: TokenizerJson;
  /** Joins the tokenizers of both, where what a model writes has the ids of `target`. */
  readonly join?: (read: Tokenizer, written: Tokenizer) => Tokenizer;
  /** The same in another language of the file. @throws OptionError */
  readonly inLanguage?: (target_lang: string) => TokenizerJson;
}

async function readStructure(files: Files, options: LoadTokenizerOptions): Promise<Structure> {
  const { source, names, config, className } = files;
  const file = source.path("tokenizer.json");
  if (names.has("tokenizer.json")) {
    const json = await readJsonObject(source, file);
    const checked = checkTokenizerJson(json, file);
    const whole = { json, converted: false, own: {} };
    if (classFacts(className).prefix_by_config !== true || !checked.pre_tokenizer) return { ...whole, checked };
    const pre_tokenizer = withPrefixSpace(checked.pre_tokenizer, config.add_prefix_space === true);
    return { ...whole, checked: { ...checked, pre_tokenizer } };
  }
  const { readOlderFiles } = await import("./older-files.js");
  const {
    json,
    file: made,
    special,
    target,
    join,
    inLanguage,
  } = await readOlderFiles(source, names, {
    tokenizer_class: files.convertedAs,
    config: options.target_lang === undefined ? config : { ...config, target_lang: options.target_lang },
    special: (name) => {
      const known = SPECIAL_NAMES.find((one) => one === name);
      if (known === undefined) return undefined;
      return options[known] ?? (namedToken(files, known) ?? usualToken(files, known))?.content;
    },
    added: addedIds(files),
  });
  const checked = checkTokenizerJson(json, made, true);
  const writing = target && { target: checkTokenizerJson(target, made, true), ...(join ? { join } : {}) };
  const others = inLanguage && {
    inLanguage: (target_lang: string) => checkTokenizerJson(inLanguage(target_lang), made, true),
  };
  return { checked, json, converted: true, own: special ?? {}, ...writing, ...others };
}

/** A pre-tokenizer whose ByteLevel parts add a space before the text, or do not. */
function withPrefixSpace(parts: Components, add_prefix_space: boolean): Components {
  return parts.map((part) => (part.type === "ByteLevel" ? { ...part, add_prefix_space } : part));
}

const PLAIN_FLAGS: TokenFlags = { single_word: false, lstrip: false, rstrip: false, normalized: false };

/** Adds the tokens declared in the settings files to those of tokenizer.json, as Python does after loading. */
function withAddedTokens(
  { checked, converted }: Structure,
  files: Files,
  specials: ReadonlyMap<string, TokenFlags | undefined>,
): TokenizerJson {
  const { vocab: ids } = checked;
  const added = new Map<string, AddedToken>(checked.added_tokens.map((token) => [token.content, token]));
  const taken = new Map<number, string>();
  for (const token of added.values()) taken.set(token.id, token.content);
  const put = (token: AddedToken) => {
    added.set(token.content, token);
    taken.set(token.id, token.content);
  };
  const declared = new Set<string>(converted ? [] : added.keys()); // tokens whose flags a file has
  for (const token of files.added) {
    const other = taken.get(token.id);
    const known = added.get(token.content)?.id ?? ids.get(token.content) ?? token.id;
    if (known !== token.id || (other !== undefined && other !== token.content)) continue; // tokenizer.json wins
    put(token);
    declared.add(token.content);
  }
  let next = 0;
  for (const id of [...ids.values(), ...taken.keys()]) next = Math.max(next, id + 1);
  for (const [content, flags] of specials) {
    const token = added.get(content);
    const own = declared.has(content) ? undefined : flags;
    if (token?.special && own === undefined) continue;
    put({
      ...(own ?? token ?? PLAIN_FLAGS),
      content,
      id: token?.id ?? ids.get(content) ?? next++,
      special: true,
    });
  }
  return { ...checked, added_tokens: [...added.values()] };
}

function paddingSide({ config, className }: Files, { padding }: TokenizerJson): "left" | "right" {
  const { padding_side: named } = config;
  if (named === "left" || named === "right") return named;
  return padding.side ?? (classFacts(className).pads_left === true ? "left" : "right");
}

/** The named special tokens, from the caller, the files, the class, or the SentencePiece model, the first that says one. */
function specialTokens(
  files: Files,
  { checked, converted, own }: Structure,
  options: LoadTokenizerOptions,
): Map<SpecialName, NamedToken> {
  const added = new Set(checked.added_tokens.map(({ content }) => content));
  const exists = (token: string) => checked.vocab.has(token) || added.has(token);
  const found = new Map<SpecialName, NamedToken>();
  for (const name of SPECIAL_NAMES) {
    const given = options[name];
    const usual = usualToken(files, name);
    const file = own[name];
    const token =
      (given === undefined ? undefined : { content: given, flags: undefined }) ??
      namedToken(files, name) ??
      (usual !== undefined && (converted || exists(usual.content)) ? usual : undefined) ??
      (file === undefined ? undefined : { content: file, flags: undefined });
    if (token !== undefined && token.content !== "") found.set(name, token);
  }
  const { token: pad } = checked.padding;
  if (!found.has("pad_token") && files.config.pad_token !== null && pad !== undefined && exists(pad)) {
    found.set("pad_token", { content: pad, flags: undefined });
  }
  return found;
}

/** Where a tokenizer came from, for `save_pretrained`. */
export interface TokenizerOrigin {
  /** Opens the folder again. */
  reopen(): Promise<Source>;
  /** Absent where a program cannot write files. */
  readonly folders?: FolderWriter | undefined;
  /** Parts that not every program needs come when they are asked for (core/part.ts). */
  readonly sparing?: boolean | undefined;
}

/** The languages of texts and of what is written for them: the caller's, those of tokenizer_config.json, or the class's. */
function languagesOf({ source, config, convertedAs }: Files, options: LoadTokenizerOptions) {
  const rule = languageRule(convertedAs, config);
  const named = (key: "src_lang" | "tgt_lang"): string | null => {
    const value = config[key] ?? null;
    if (value !== null && typeof value !== "string") {
      return fail(source.path("tokenizer_config.json"), key, `expected text, got ${show(value)}`);
    }
    if (rule) return options[key] ?? value;
    if (options[key] === undefined) return null;
    throw new OptionError(`${key}: this tokenizer says no language`, { details: { option: key } });
  };
  return { src_lang: named("src_lang") ?? rule?.usual ?? null, tgt_lang: named("tgt_lang") };
}

/** The language of a file that has several vocabularies. @throws OptionError for one asked of another file */
function targetLanguage({ config }: Files, { inLanguage }: Structure, options: LoadTokenizerOptions): string | null {
  if (!inLanguage && options.target_lang !== undefined) {
    throw new OptionError("target_lang: this tokenizer has one vocabulary, not one for each language", {
      details: { option: "target_lang" },
    });
  }
  const { target_lang } = { ...config, ...pick({ target_lang: LOAD_TOKENIZER.target_lang }, options) };
  return inLanguage && typeof target_lang === "string" ? target_lang : null;
}

/** What can change after loading, as the caller and then the files say it. */
function stateOf(
  files: Files,
  structure: Structure,
  options: LoadTokenizerOptions,
  { chat_template, additional_special_tokens }: Pick<TokenizerState, "chat_template" | "additional_special_tokens">,
): TokenizerState {
  const { truncation_side, model_max_length, clean_up_tokenization_spaces } = files.config;
  const longest = options.model_max_length ?? model_max_length;
  const named = specialTokens(files, structure, options);
  return {
    special: Object.fromEntries([...named].map(([name, { content }]) => [name, content])),
    padding_side: options.padding_side ?? paddingSide(files, structure.checked),
    truncation_side: options.truncation_side ?? (truncation_side === "left" ? "left" : "right"),
    model_max_length: typeof longest === "number" && longest > 0 ? longest : Number.POSITIVE_INFINITY,
    clean_up_tokenization_spaces: options.clean_up_tokenization_spaces ?? clean_up_tokenization_spaces === true,
    chat_template,
    additional_special_tokens,
    ...languagesOf(files, options),
    target_lang: targetLanguage(files, structure, options),
  };
}

/** A folder's tokenizer, read. */
async function readAll(source: Source, options: LoadTokenizerOptions) {
  const files = await readFiles(source);
  const structure = await readStructure(files, options);
  const named = specialTokens(files, structure, options);
  const [extra, ofModel] = [extraTokens(files), modelTokens(files)];
  const specials = new Map<string, TokenFlags | undefined>();
  for (const { content, flags } of named.values()) {
    if (!specials.has(content) || flags !== undefined) specials.set(content, flags);
  }
  for (const content of [...ofModel, ...extra]) if (!specials.has(content)) specials.set(content, undefined);
  const json = withAddedTokens(structure, files, specials);
  const { inLanguage } = structure;
  const speaking = inLanguage && {
    in_language: (target_lang: string) =>
      new JsonTokenizer(withAddedTokens({ ...structure, checked: inLanguage(target_lang) }, files, specials)),
  };
  return { files, structure, named, extra, ofModel, json, speaking };
}

/** Writes the tokenizer of `origin` as it is now. */
function saving(origin: TokenizerOrigin, options: LoadTokenizerOptions, loaded: TokenizerState): SaveTokenizer {
  return async (now, folder) => {
    const source = await origin.reopen();
    try {
      const { files, structure, json } = await readAll(source, options);
      const built = structure.converted ? structure.json : undefined;
      const before = { ...loaded, added_tokens: json.added_tokens };
      const { saveTokenizer } = await import("./save.js");
      return await saveTokenizer({ files, built, loaded: before, now, folders: origin.folders }, folder);
    } finally {
      await source.close();
    }
  };
}

/**
 * Opens the tokenizer in a folder.
 * @param origin how it is read again to be saved; without it `save_pretrained` refuses
 * @throws OptionError for unknown options and wrong values
 * @throws NotFoundError when the folder holds no readable tokenizer; says what is there and what to do
 * @throws FormatError when a file is malformed or needs an unsupported part
 * @throws NetworkError when a server does not give it
 * @throws UnsupportedModelError when older files belong to a class that cannot be built from them
 */
export async function loadTokenizer(
  source: Source,
  given: LoadTokenizerOptions = {},
  origin?: TokenizerOrigin,
): Promise<PreTrainedTokenizer> {
  const options = readOptions("loadTokenizer", LOAD_TOKENIZER, given);
  const { files, structure, named, extra, ofModel, json, speaking } = await readAll(source, options);
  const { config, className } = files;
  const own = structure.converted ? structure.checked.added_tokens.map(({ content }) => content) : [];
  const chat_template = await chatTemplate(files);
  const others = own.filter((token) => !isNamed(named, token) && !ofModel.includes(token));
  const additional_special_tokens = [...new Set([...extra, ...others])];
  const state = stateOf(files, structure, options, { chat_template, additional_special_tokens });
  const inFiles = stateOf(files, structure, {}, { chat_template, additional_special_tokens });
  const { model_input_names: inputs } = config;
  const { target, join } = structure;
  const special = json.added_tokens.filter((token) => !join || token.special);
  const writing = target && new JsonTokenizer({ ...target, added_tokens: special });
  const reading = new JsonTokenizer(json);
  const settings: TokenizerSettings = {
    ...state,
    return_token_type_ids: Array.isArray(inputs)
      ? inputs.includes("token_type_ids")
      : classFacts(className).typed === true,
    model_special_tokens: ofModel,
    name_or_path: source.location,
    init_kwargs: config,
    ...(writing ? { target: writing } : {}),
    ...speaking,
    languages: languageRule(files.convertedAs, config),
    ...(className === "CodeLlamaTokenizer" ? { infilling: new (await import("./infill.js")).Infilling(config) } : {}),
    save: origin === undefined ? undefined : saving(origin, options, inFiles),
  };
  if (!origin?.sparing) await CONVERSATIONS.open();
  return new PreTrainedTokenizer(writing && join ? join(reading, writing) : reading, settings);
}

function isNamed(named: ReadonlyMap<SpecialName, NamedToken>, token: string): boolean {
  return [...named.values()].some(({ content }) => content === token);
}
