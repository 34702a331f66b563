// Writes a tokenizer's files, so that Octavo and transformers open the folder with the same ids. What was read and has not changed is
// written byte for byte; tokenizers that were built from older files get a tokenizer.json.

import type { FolderWriter } from "../checkpoints/folder.js";
import { OctavoError, OptionError } from "../core/errors.js";
import { show } from "../core/show.js";
import { editJson } from "../sources/json-edit.js";
import { TEMPLATES } from "../sources/model-files.js";
import type { Templates } from "./chat/templates.js";
import { isObject, type JsonObject, readBytes, readText } from "./json-file.js";
import { type SavedState, SPECIAL_NAMES } from "./options.js";
import {
  EXTRA,
  type Files,
  MODELS,
  namedToken,
  SOURCE_MODEL,
  TARGET_MODEL,
  TARGET_VOCABULARY,
  templateFiles,
  usualToken,
} from "./settings-files.js";

/** A tokenizer to save. */
export interface TokenizerToSave {
  readonly files: Files;
  /** What a tokenizer.json holds, for tokenizers that were built from older files. */
  readonly built: JsonObject | undefined;
  readonly loaded: SavedState;
  readonly now: SavedState;
  readonly folders: FolderWriter | undefined;
}

/** Python's number for "no limit". */
const NO_LIMIT = 1e30;
/** Classes whose tokenizer.json would be no other program's: their own files are written. */
const AS_THEY_WERE: Readonly<Record<string, readonly string[]>> = {
  Wav2Vec2CTCTokenizer: ["vocab.json"],
  MarianTokenizer: ["vocab.json", TARGET_VOCABULARY, SOURCE_MODEL, TARGET_MODEL],
  M2M100Tokenizer: ["vocab.json", ...MODELS],
};
const UTF8 = new TextEncoder();
type Contents = Map<string, Uint8Array>;

/** @throws OctavoError where files cannot be written; OptionError for what names no folder */
function writerFor(folders: FolderWriter | undefined, folder: unknown): FolderWriter {
  if (typeof folder !== "string" || folder === "" || folder.includes("\0")) {
    throw new OptionError(`tokenizer.save_pretrained: expected the path of a folder, got ${show(folder)}`);
  }
  if (folders !== undefined) return folders;
  throw new OctavoError("ERR_UNSUPPORTED", "tokenizer.save_pretrained writes a folder, which a page cannot do");
}

function write(contents: Contents, name: string, text: string): void {
  contents.set(name, UTF8.encode(text));
}

function pretty(value: unknown): string {
  return `${JSON.stringify(value, undefined, 2)}\n`;
}

/** The files of a class that are written as they were read, where the tokenizer was built from them. */
function keptFiles({ files: { convertedAs: name }, built }: TokenizerToSave): readonly string[] | undefined {
  return built !== undefined && name !== undefined && Object.hasOwn(AS_THEY_WERE, name)
    ? AS_THEY_WERE[name]
    : undefined;
}

/** Changes of tokenizer_config.json. */
function changes(tokenizer: TokenizerToSave): Record<string, unknown> {
  const { files, built, loaded, now } = tokenizer;
  const changed: Record<string, unknown> = {};
  for (const name of SPECIAL_NAMES) {
    // What a class would say anyway is said, too, where the class itself is new in the file.
    const written = now.special[name];
    if (written !== loaded.special[name] || (built !== undefined && files.config[name] === undefined)) {
      if (written !== undefined || loaded.special[name] !== undefined) changed[name] = written ?? null;
    }
  }
  if (now.padding_side !== loaded.padding_side || built !== undefined) changed.padding_side = now.padding_side;
  if (now.truncation_side !== loaded.truncation_side) changed.truncation_side = now.truncation_side;
  if (now.model_max_length !== loaded.model_max_length) {
    changed.model_max_length = Number.isFinite(now.model_max_length) ? now.model_max_length : NO_LIMIT;
  }
  if (now.clean_up_tokenization_spaces !== loaded.clean_up_tokenization_spaces) {
    changed.clean_up_tokenization_spaces = now.clean_up_tokenization_spaces;
  }
  for (const key of ["src_lang", "tgt_lang", "target_lang"] as const)
    if (now[key] !== loaded[key]) changed[key] = now[key];
  if (typeof files.config.tokenizer_class !== "string" && built !== undefined) {
    changed.tokenizer_class = files.convertedAs ?? "PreTrainedTokenizerFast";
  }
  if (!sameTemplates(now.chat_template, loaded.chat_template)) changed.chat_template = undefined;
  if (!sameLists(now, loaded, "additional_special_tokens")) {
    Object.assign(changed, withoutLists(files.config));
    changed[extraName(files)] = now.additional_special_tokens;
  }
  // Python's older programs add these to tokenizer.json's; tokenizers without that file have them here alone.
  const decoder = files.config.added_tokens_decoder !== undefined || keptFiles(tokenizer) !== undefined;
  if (decoder && !sameLists(now, loaded, "added_tokens")) {
    changed.added_tokens_decoder = Object.fromEntries(now.added_tokens.map(({ id, ...token }) => [id, token]));
  }
  return changed;
}

/** Edits that take the lists of special tokens out of a file; objects with names of the model's own stay. */
function withoutLists(file: JsonObject): Record<string, undefined> {
  return Object.fromEntries(EXTRA.filter((name) => !isObject(file[name])).map((name) => [name, undefined]));
}

/** The name under which tokenizer_config.json lists special tokens without a name. */
function extraName({ config }: Files): (typeof EXTRA)[number] {
  // Python reads a list beside an object only under the older name.
  return Array.isArray(config.extra_special_tokens) ? EXTRA[1] : EXTRA[0];
}

function sameLists(a: SavedState, b: SavedState, name: "additional_special_tokens" | "added_tokens"): boolean {
  return JSON.stringify(a[name]) === JSON.stringify(b[name]);
}

function sameTemplates(a: Templates, b: Templates): boolean {
  const key = (templates: Templates) =>
    JSON.stringify(typeof templates === "object" && templates ? Object.entries(templates).sort() : templates);
  return key(a) === key(b);
}

/** The chat templates as files, where they have changed; else the files as they were. */
async function addTemplates(contents: Contents, { files, loaded, now }: TokenizerToSave): Promise<void> {
  const { source } = files;
  if (sameTemplates(now.chat_template, loaded.chat_template)) {
    for (const name of await templateFiles(files)) contents.set(name, await readBytes(source, source.path(name)));
    return;
  }
  const { chat_template: templates } = now;
  if (templates === null) return;
  if (typeof templates === "string") {
    write(contents, "chat_template.jinja", templates);
    return;
  }
  for (const [name, template] of Object.entries(templates)) {
    if (!/^[\w-][\w.-]{0,63}$/.test(name)) {
      throw new OptionError(`tokenizer.save_pretrained: ${show(name)} cannot be the name of a template's file`);
    }
    write(contents, name === "default" ? "chat_template.jinja" : `${TEMPLATES}/${name}.jinja`, template);
  }
}

/** special_tokens_map.json: the named tokens, with how they are found where a file says so. */
function tokensMap({ files, now }: TokenizerToSave): JsonObject {
  const map: JsonObject = {};
  for (const name of SPECIAL_NAMES) {
    const content = now.special[name];
    if (content === undefined) continue;
    const token = [namedToken(files, name), usualToken(files, name)].find((one) => one?.content === content);
    map[name] = token?.flags === undefined ? content : { content, ...token.flags };
  }
  return map;
}

async function contentsOf(tokenizer: TokenizerToSave): Promise<Contents> {
  const { files, built, loaded, now } = tokenizer;
  const { source, names } = files;
  const contents: Contents = new Map();
  const copy = async (name: string) => contents.set(name, await readBytes(source, source.path(name)));
  const { added_tokens } = now;
  const kept = keptFiles(tokenizer);
  if (built === undefined) {
    const json = "tokenizer.json";
    if (sameLists(now, loaded, "added_tokens")) await copy(json);
    else write(contents, json, editJson(await readText(source, source.path(json)), { added_tokens }));
  } else if (kept) {
    for (const name of [...kept, "added_tokens.json"]) if (names.has(name)) await copy(name);
  } else write(contents, "tokenizer.json", pretty({ ...built, added_tokens }));

  const config = "tokenizer_config.json";
  const changed = changes(tokenizer);
  const given = names.has(config) ? await readText(source, source.path(config)) : "{}";
  if (Object.keys(changed).length === 0 && names.has(config)) await copy(config);
  else write(contents, config, editJson(given, changed));

  const map = "special_tokens_map.json";
  const sameTokens =
    SPECIAL_NAMES.every((name) => now.special[name] === loaded.special[name]) &&
    sameLists(now, loaded, "additional_special_tokens");
  if (!names.has(map)) write(contents, map, pretty(tokensMap(tokenizer)));
  else if (sameTokens) await copy(map);
  else {
    const tokens = tokensMap(tokenizer);
    const edits = Object.fromEntries(SPECIAL_NAMES.map((name) => [name, tokens[name]]));
    // tokenizer_config.json has what changed of these.
    if (!sameLists(now, loaded, "additional_special_tokens")) Object.assign(edits, withoutLists(files.map));
    write(contents, map, editJson(await readText(source, source.path(map)), edits));
  }
  await addTemplates(contents, tokenizer);
  return contents;
}

/** True for files of chat templates, which belong to the tokenizer that is replaced. */
function isTemplate(name: string): boolean {
  return name === "chat_template.jinja" || (name.startsWith(`${TEMPLATES}/`) && name.endsWith(".jinja"));
}

/**
 * Saves a tokenizer into a folder, which changes as a whole; files of others stay.
 * @throws OptionError for what names no folder; OctavoError in a page; FileError, and what reading the original throws
 */
export async function saveTokenizer(tokenizer: TokenizerToSave, folder: string): Promise<string[]> {
  const writer = writerFor(tokenizer.folders, folder);
  const contents = await contentsOf(tokenizer);
  await writer.replace(folder, isTemplate, async (out) => {
    for (const [name, bytes] of contents) await out.bytes(name, bytes);
  });
  return [...contents.keys()];
}
