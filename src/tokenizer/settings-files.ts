// The settings files of a tokenizer's folder: tokenizer_config.json, special_tokens_map.json, added_tokens.json, the chat templates.
// What stands in them is read here, and what it means for the tokenizer decided in load.ts.

import { show } from "../core/show.js";
import { TEMPLATES, templateNames } from "../sources/model-files.js";
import type { Source } from "../sources/source.js";
import { classFacts, className, modelClass } from "./classes.js";
import { isId } from "./components.js";
import { fail, isObject, type Json, type JsonObject, readJsonObject, readText } from "./json-file.js";
import { SPECIAL_NAMES, type SpecialName } from "./options.js";
import { wellFormed } from "./text.js";
import { type AddedToken, addedToken, isEmptyToken } from "./tokenizer-json.js";

/** Settings files of any tokenizer. */
const SETTINGS = [
  "tokenizer.json",
  "tokenizer_config.json",
  "special_tokens_map.json",
  "config.json",
  "chat_template.jinja",
];

/** Names of SentencePiece models, the usual one first. */
export const MODELS = [
  "tokenizer.model",
  "spiece.model",
  "sentencepiece.bpe.model",
  "sentencepiece.model",
  "spm.model",
];

/** Marian's SentencePiece models: of the language that is read, and of the one that is written. */
export const SOURCE_MODEL = "source.spm";
export const TARGET_MODEL = "target.spm";
/** The ids of what is written, where they are not those of what is read. */
export const TARGET_VOCABULARY = "target_vocab.json";

/** Names of tiktoken's files, beside a tokenizer.model that is one. */
export const TIKTOKEN: readonly string[] = ["tiktoken.model", "qwen.tiktoken"];

/** Files to build a tokenizer from if there is no tokenizer.json (older-files.ts). */
export const OLDER: readonly string[] = [
  "vocab.json",
  "merges.txt",
  "vocab.txt",
  "added_tokens.json",
  ...MODELS,
  SOURCE_MODEL,
  TARGET_MODEL,
  TARGET_VOCABULARY,
  ...TIKTOKEN,
];

/** The settings files of a folder, read but not yet interpreted. */
export interface Files {
  readonly source: Source;
  readonly names: ReadonlySet<string>;
  readonly config: JsonObject;
  readonly map: JsonObject;
  /** Python's class, if a file names it. */
  readonly className: string | undefined;
  /** The class by whose rules older files are converted: the model's, where no file names one. */
  readonly convertedAs: string | undefined;
  /** Tokens that tokenizer_config.json and added_tokens.json add, in the order of the files. */
  readonly added: readonly AddedToken[];
}

/** How a token is found in text. */
export type TokenFlags = Pick<AddedToken, "single_word" | "lstrip" | "rstrip" | "normalized">;

export interface NamedToken {
  readonly content: string;
  /** Undefined where the file has only the text. */
  readonly flags: TokenFlags | undefined;
}

/** A special token, which may be written as a string or as {content}. */
function tokenOf(file: string, key: string, value: Json | undefined): NamedToken | undefined {
  if (value === undefined || value === null) return undefined;
  const content = isObject(value) ? value.content : value;
  if (typeof content !== "string" || content !== wellFormed(content)) {
    return fail(file, key, `expected a string or an object with \`content\`, got ${show(value)}`);
  }
  if (!isObject(value)) return { content, flags: undefined };
  const { single_word, lstrip, rstrip, normalized } = value;
  return {
    content,
    flags: {
      single_word: single_word === true,
      lstrip: lstrip === true,
      rstrip: rstrip === true,
      normalized: normalized === true,
    },
  };
}

/** @throws FormatError when a file is malformed; NetworkError */
export async function readFiles(source: Source): Promise<Files> {
  let names = await source.names(SETTINGS);
  if (!names.has("tokenizer.json")) names = new Set([...names, ...(await source.names(OLDER))]);
  const optional = async (name: string) => (names.has(name) ? await readJsonObject(source, source.path(name)) : {});
  const config = await optional("tokenizer_config.json");
  // As in Python: who lists added tokens has named all of them, and otherwise the map has the last word.
  const map = Object.hasOwn(config, "added_tokens_decoder") ? {} : await optional("special_tokens_map.json");
  let named: unknown = config.tokenizer_class;
  let model: unknown;
  if (typeof named !== "string") {
    const { model_type, tokenizer_class } = await optional("config.json");
    model = model_type;
    named = tokenizer_class;
  }
  const words = names.has("vocab.txt") && !names.has("tokenizer.json");
  const known = className(named, model) ?? (words ? "BertTokenizer" : undefined);
  const added = [
    ...decoderTokens(source.path("tokenizer_config.json"), config),
    ...(names.has("tokenizer.json") ? [] : await addedTokens(source, names, config, map)),
  ];
  const convertedAs = known ?? (typeof named === "string" ? undefined : modelClass(model));
  return { source, names, config, map, className: known, convertedAs, added };
}

function decoderTokens(file: string, config: JsonObject): AddedToken[] {
  const decoder = isObject(config.added_tokens_decoder) ? config.added_tokens_decoder : {};
  return Object.entries(decoder).flatMap(([id, value]) => {
    if (isEmptyToken(value)) return [];
    const key = `added_tokens_decoder.${id}`;
    if (!/^\d{1,9}$/.test(id)) fail(file, key, `expected an id, got ${show(id)}`);
    return [addedToken(file, key, value, Number(id))];
  });
}

/** added_tokens.json: names and ids alone. */
async function addedTokens(
  source: Source,
  names: ReadonlySet<string>,
  config: JsonObject,
  map: JsonObject,
): Promise<AddedToken[]> {
  if (!names.has("added_tokens.json")) return [];
  const path = source.path("added_tokens.json");
  const specials = new Set([...namedTokens(source, config, map).values()].map(({ content }) => content));
  const named = { source, config, map };
  for (const content of [...extraTokens(named), ...modelTokens(named)]) specials.add(content);
  return Object.entries(await readJsonObject(source, path))
    .filter(([content]) => content !== "")
    .map(([content, id]) => addedToken(path, content, { content, id, special: specials.has(content) }));
}

function namedTokens(source: Source, config: JsonObject, map: JsonObject): Map<SpecialName, NamedToken> {
  const found = new Map<SpecialName, NamedToken>();
  for (const name of SPECIAL_NAMES) {
    const token = namedToken({ source, config, map }, name);
    if (token !== undefined) found.set(name, token);
  }
  return found;
}

type Named = Pick<Files, "source" | "config" | "map">;

/** A named special token from the files; undefined if only the class's default is left. */
export function namedToken({ source, config, map }: Named, name: SpecialName): NamedToken | undefined {
  return (
    tokenOf(source.path("special_tokens_map.json"), name, map[name]) ??
    tokenOf(source.path("tokenizer_config.json"), name, config[name])
  );
}

/** The special token of that name where the files name none. */
export function usualToken({ config, convertedAs }: Files, name: SpecialName): NamedToken | undefined {
  if (config[name] === null) return undefined; // null means that there is none
  const { special, mask_lstrip } = classFacts(convertedAs);
  const content = special[name];
  if (content === undefined) return undefined;
  const strips = mask_lstrip === true && name === "mask_token";
  return {
    content,
    flags: strips ? { single_word: false, lstrip: true, rstrip: false, normalized: false } : undefined,
  };
}

/** Keys of lists of special tokens without a name; of objects with names of a model's own. */
export const EXTRA = ["additional_special_tokens", "extra_special_tokens"] as const;
/** Keys of such objects: those that are written for transformers 4, and those that its version 5 writes. */
const OF_MODEL = [...EXTRA, "model_specific_special_tokens"] as const;

function tokensUnder(
  { source, config, map }: Named,
  key: string,
  values: (value: Json) => readonly (Json | undefined)[],
): string[] {
  const [value, other] = [map[key] ?? config[key], map[key] === undefined ? undefined : config[key]];
  if (value === undefined || value === null) return [];
  const more = key === "extra_special_tokens" && Array.isArray(other) ? other : [];
  return [...new Set([...more, ...values(value)])].flatMap((entry) => {
    const { content = "" } = tokenOf(source.path("tokenizer_config.json"), key, entry) ?? {};
    return content === "" ? [] : [content];
  });
}

/** Special tokens without a name: additional_special_tokens and extra_special_tokens. */
export function extraTokens(files: Named): string[] {
  return EXTRA.flatMap((key) => tokensUnder(files, key, (value) => (Array.isArray(value) ? value : [])));
}

/** Special tokens with names of the model's own, such as image_token. */
export function modelTokens(files: Named): string[] {
  return OF_MODEL.flatMap((key) => tokensUnder(files, key, (value) => (isObject(value) ? Object.values(value) : [])));
}

/** Ids of the tokens that the files add, for conversions. */
export function addedIds({ added }: Files): ReadonlyMap<string, number> {
  return new Map(added.filter(({ id }) => isId(id)).map(({ content, id }) => [content, id]));
}

/** Files of chat templates in the folder. */
export async function templateFiles({ source, names }: Files): Promise<string[]> {
  return [...(names.has("chat_template.jinja") ? ["chat_template.jinja"] : []), ...(await templateNames(source))];
}

/** The chat template, several by their names, or null. @throws FormatError, NetworkError */
export async function chatTemplate(files: Files): Promise<string | Record<string, string> | null> {
  const { source, config } = files;
  const templates = new Map<string, string>();
  for (const file of await templateFiles(files)) {
    const name = file === "chat_template.jinja" ? "default" : file.slice(TEMPLATES.length + 1, -".jinja".length);
    templates.set(name, await readText(source, source.path(file)));
  }
  if (templates.size === 1 && templates.has("default")) return templates.get("default")!;
  if (templates.size > 0) return Object.fromEntries(templates);
  const { chat_template: template } = config;
  if (typeof template === "string") return template;
  if (!Array.isArray(template)) return null;
  return Object.fromEntries(
    template.flatMap((entry) =>
      isObject(entry) && typeof entry.name === "string" && typeof entry.template === "string"
        ? [[entry.name, entry.template]]
        : [],
    ),
  );
}
