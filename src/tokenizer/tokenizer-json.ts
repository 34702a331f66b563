// Reads and checks tokenizer.json: sizes, UTF-8, ids, merges, component names, regular expressions, so the tokenizer library
// never gets input that it would reject with its own errors. Not here: the components (parts.ts) and files of other formats
// (convert.ts).

import { FormatError } from "../core/errors.js";
import { AGAIN, foreignKind } from "../sources/files.js";
import { parseJsonObject } from "../sources/json.js";
import { type Source, withFile } from "../sources/source.js";

export type Json = null | boolean | number | string | Json[] | JsonObject;
export interface JsonObject {
  [key: string]: Json | undefined;
}

/** Largest tokenizer file that is read: 256 MB. */
export const MAX_TOKENIZER_BYTES = 256 * 1024 * 1024;
/** Largest token id; real vocabularies stay under 2^19. */
const MAX_ID = 1 << 24;
const MAX_REGEX = 16_384;

/** A token that is cut out of the text before the model sees it. */
export interface AddedToken {
  readonly id: number;
  readonly content: string;
  readonly single_word: boolean;
  readonly lstrip: boolean;
  readonly rstrip: boolean;
  readonly normalized: boolean;
  readonly special: boolean;
}

export type ModelType = "BPE" | "WordPiece" | "Unigram" | "WordLevel";

/** A checked tokenizer.json. `model.type` is always set and BPE merges are always pairs. */
export interface TokenizerJson {
  readonly file: string;
  readonly model: JsonObject & { type: ModelType };
  readonly added_tokens: readonly AddedToken[];
  readonly normalizer: JsonObject | null;
  readonly pre_tokenizer: JsonObject | null;
  readonly post_processor: JsonObject | null;
  readonly decoder: JsonObject | null;
  /** How batches are padded where tokenizer_config.json does not say it. */
  readonly padding: { readonly token: string | undefined; readonly side: "left" | "right" | undefined };
}

const COMPONENTS: Readonly<Record<string, readonly string[]>> = {
  normalizer:
    "BertNormalizer Lowercase NFC NFD NFKC NFKD Precompiled Prepend Replace Sequence Strip StripAccents".split(" "),
  pre_tokenizer: (
    "BertPreTokenizer ByteLevel CharDelimiterSplit Digits FixedLength Metaspace Punctuation Sequence Split " +
    "Whitespace WhitespaceSplit"
  ).split(" "),
  post_processor: "BertProcessing ByteLevel RobertaProcessing Sequence TemplateProcessing".split(" "),
  decoder: "BPEDecoder ByteFallback ByteLevel CTC Fuse Metaspace Replace Sequence Strip WordPiece".split(" "),
};
const CHILDREN = ["normalizers", "pretokenizers", "processors", "decoders"];

export function isObject(value: unknown): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function fail(file: string, key: string, message: string, hint?: string): never {
  throw new FormatError(`${file}: ${key}: ${message}`, { details: { file, key }, hint });
}

/** The kind of a value in one word, for messages. */
function kind(value: unknown): string {
  return value === null
    ? "null"
    : Array.isArray(value)
      ? "an array"
      : typeof value === "object"
        ? "an object"
        : typeof value;
}

/**
 * Reads a text file that must be strict UTF-8 and no larger than 256 MB.
 * @throws FormatError when it is larger, not UTF-8, or another kind of file (a git-lfs pointer, an HTML page)
 */
export async function readText(source: Source, file: string): Promise<string> {
  const bytes = await withFile(source, file, "tokenizer file", async (opened) => {
    const { size } = opened;
    if (size > MAX_TOKENIZER_BYTES) {
      throw new FormatError(`${file}: ${size} bytes, at most ${MAX_TOKENIZER_BYTES} are read`, {
        details: { file, got: size, expected: MAX_TOKENIZER_BYTES },
      });
    }
    return opened.read(0, size);
  });
  const foreign = foreignKind(bytes);
  if (foreign) {
    throw new FormatError(`${file}: expected a tokenizer file, got ${foreign.name}`, {
      details: { file, got: foreign.name },
      hint: foreign.hint,
    });
  }
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch (cause) {
    throw new FormatError(`${file}: not valid UTF-8`, { details: { file }, cause });
  }
}

/**
 * Reads a file that must hold one JSON object.
 * @throws FormatError when it is too large, not UTF-8, not JSON or not an object.
 */
export async function readJsonObject(source: Source, file: string): Promise<JsonObject> {
  const text = await readText(source, file);
  if (text.trim() === "") throw new FormatError(`${file}: the file is empty`, { details: { file }, hint: AGAIN });
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    // Reads what Python writes beside JSON, and names the place of what nobody reads.
    value = parseJsonObject(new TextEncoder().encode(text), file, "tokenizer file", true);
  }
  if (!isObject(value))
    throw new FormatError(`${file}: expected a JSON object, got ${kind(value)}`, { details: { file } });
  return value;
}

function isId(value: unknown): value is number {
  return typeof value === "number" && Number.isInteger(value) && value >= 0 && value <= MAX_ID;
}

function modelType(file: string, model: JsonObject): ModelType {
  const { type } = model;
  if (type === undefined || type === null) {
    if (Array.isArray(model.vocab)) return "Unigram";
    if (model.merges !== undefined) return "BPE";
    return model.continuing_subword_prefix !== undefined ? "WordPiece" : "WordLevel";
  }
  if (type === "BPE" || type === "WordPiece" || type === "Unigram" || type === "WordLevel") return type;
  return fail(
    file,
    "model.type",
    `${JSON.stringify(type)} is not supported`,
    "known: BPE, WordPiece, Unigram, WordLevel",
  );
}

function checkVocab(file: string, vocab: unknown): Map<string, number> {
  if (!isObject(vocab)) return fail(file, "model.vocab", `expected an object of token to id, got ${kind(vocab)}`);
  const ids = new Map<string, number>();
  const seen = new Map<number, string>();
  for (const [token, id] of Object.entries(vocab)) {
    if (!isId(id))
      fail(file, "model.vocab", `id of ${JSON.stringify(token)} must be an integer in 0..${MAX_ID}, got ${id}`);
    const other = seen.get(id);
    if (other !== undefined) {
      fail(file, "model.vocab", `${JSON.stringify(other)} and ${JSON.stringify(token)} share id ${id}`);
    }
    seen.set(id, token);
    ids.set(token, id);
  }
  return ids;
}

function checkScores(file: string, model: JsonObject): void {
  const { vocab, unk_id } = model;
  if (!Array.isArray(vocab)) fail(file, "model.vocab", `expected an array of [token, score], got ${kind(vocab)}`);
  if (vocab.length === 0) fail(file, "model.vocab", "is empty");
  vocab.forEach((entry, i) => {
    const [token, score] = Array.isArray(entry) && entry.length === 2 ? entry : [];
    if (typeof token !== "string" || typeof score !== "number" || !Number.isFinite(score)) {
      fail(file, `model.vocab[${i}]`, `expected [token, finite score], got ${JSON.stringify(entry)}`);
    }
  });
  if (unk_id !== undefined && unk_id !== null && !(isId(unk_id) && unk_id < vocab.length)) {
    fail(file, "model.unk_id", `must be null or an id below ${vocab.length}, got ${JSON.stringify(unk_id)}`);
  }
}

function checkMerges(file: string, merges: unknown, vocab: ReadonlyMap<string, number>): Json[] {
  if (!Array.isArray(merges)) return fail(file, "model.merges", `expected an array, got ${kind(merges)}`);
  return merges.map((merge: unknown, i) => {
    const pair: unknown = typeof merge === "string" ? merge.split(" ") : merge;
    if (!Array.isArray(pair) || pair.length !== 2) {
      return fail(file, `model.merges[${i}]`, `expected two tokens, got ${JSON.stringify(merge)}`);
    }
    const [a, b] = pair as unknown[];
    if (typeof a !== "string" || typeof b !== "string" || a === "" || b === "") {
      return fail(file, `model.merges[${i}]`, `expected two tokens, got ${JSON.stringify(merge)}`);
    }
    for (const token of [a, b, a + b]) {
      if (!vocab.has(token))
        fail(file, `model.merges[${i}]`, `token ${JSON.stringify(token)} is not in the vocabulary`);
    }
    return [a, b];
  });
}

function checkModel(file: string, value: unknown): JsonObject & { type: ModelType } {
  if (!isObject(value)) return fail(file, "model", `expected an object, got ${kind(value)}`);
  if (value.vocab === undefined) fail(file, "model.vocab", "is missing");
  const model: JsonObject & { type: ModelType } = Object.assign({ ...value }, { type: modelType(file, value) });
  if (model.type === "Unigram") {
    checkScores(file, model);
    return model;
  }
  const vocab = checkVocab(file, model.vocab);
  if (model.type === "BPE") {
    const prefix = model.continuing_subword_prefix;
    if (typeof prefix === "string" && prefix !== "") {
      fail(file, "model.continuing_subword_prefix", `${JSON.stringify(prefix)} is not supported for BPE`);
    }
    model.merges = checkMerges(file, model.merges, vocab);
  }
  if (model.type === "WordPiece") model.continuing_subword_prefix ??= "##";
  return model;
}

/**
 * Makes an AddedToken from its JSON.
 * @throws FormatError when content or id are missing or of the wrong kind.
 */
export function addedToken(file: string, key: string, value: Json | undefined, id?: number): AddedToken {
  if (!isObject(value)) return fail(file, key, `expected an object, got ${kind(value)}`);
  const { content } = value;
  const given = id ?? value.id;
  if (typeof content !== "string" || content === "") return fail(file, `${key}.content`, "expected a non-empty string");
  if (!isId(given)) return fail(file, `${key}.id`, `expected an integer in 0..${MAX_ID}, got ${JSON.stringify(given)}`);
  const special = value.special === true;
  return {
    id: given,
    content,
    special,
    single_word: value.single_word === true,
    lstrip: value.lstrip === true,
    rstrip: value.rstrip === true,
    normalized: typeof value.normalized === "boolean" ? value.normalized : !special,
  };
}

/** An added token without text, which published files have: it matches nothing, and Python's library leaves it out. */
export function isEmptyToken(value: Json | undefined): boolean {
  return isObject(value) && value.content === "";
}

function checkAdded(file: string, value: Json | undefined): AddedToken[] {
  if (value === undefined || value === null) return [];
  if (!Array.isArray(value)) return fail(file, "added_tokens", `expected an array, got ${kind(value)}`);
  const byContent = new Map<string, AddedToken>();
  value.forEach((entry, i) => {
    if (isEmptyToken(entry)) return;
    const token = addedToken(file, `added_tokens[${i}]`, entry);
    const other = byContent.get(token.content);
    if (other !== undefined && other.id !== token.id) {
      fail(file, `added_tokens[${i}]`, `${JSON.stringify(token.content)} has ids ${other.id} and ${token.id}`);
    }
    byContent.set(token.content, token);
  });
  return [...byContent.values()];
}

/**
 * Rejects regular expressions that can take exponential time: an unbounded repetition inside an unbounded repetition.
 * Polynomial ones (`.*.*x`) pass; tokenizers in use have neither.
 */
function checkRegex(file: string, key: string, source: string): void {
  if (source.length > MAX_REGEX)
    fail(file, key, `regular expression of ${source.length} characters, at most ${MAX_REGEX}`);
  const groups: boolean[] = [false]; // does the group hold an unbounded repetition?
  let depth = 0; // of nested character classes
  for (let i = 0; i < source.length; i++) {
    const c = source[i];
    if (c === "\\") i++;
    else if (c === "[") depth++;
    else if (c === "]") depth = Math.max(0, depth - 1);
    else if (depth > 0) continue;
    else if (c === "(") groups.push(false);
    else if (c === ")") {
      const inner = groups.length > 1 && groups.pop() === true;
      const repeated = /^(?:[*+]|\{\d+,\})/.test(source.slice(i + 1, i + 16));
      if (inner && repeated) {
        fail(file, key, `regular expression ${JSON.stringify(source.slice(0, 80))} nests unbounded repetitions`);
      }
      groups[groups.length - 1] ||= inner || repeated;
    } else if (c === "*" || c === "+" || (c === "{" && /^\{\d+,\}/.test(source.slice(i, i + 16)))) {
      groups[groups.length - 1] = true;
    }
  }
}

function checkComponent(
  file: string,
  section: string,
  key: string,
  value: Json | undefined,
  depth = 0,
): JsonObject | null {
  if (value === undefined || value === null) return null;
  if (!isObject(value)) return fail(file, key, `expected an object, got ${kind(value)}`);
  if (depth > 16) return fail(file, key, "nested too deeply");
  const known = COMPONENTS[section]!;
  if (typeof value.type !== "string" || !known.includes(value.type)) {
    fail(file, key, `type ${JSON.stringify(value.type) ?? "undefined"} is not supported`, `known: ${known.join(", ")}`);
  }
  if (value.pattern !== undefined) {
    const { pattern } = value;
    const regex = isObject(pattern) ? pattern.Regex : undefined;
    if (typeof regex === "string") checkRegex(file, `${key}.pattern`, regex);
    else if (!isObject(pattern) || typeof pattern.String !== "string") {
      fail(file, `${key}.pattern`, `expected {"String": ...} or {"Regex": ...}, got ${JSON.stringify(pattern)}`);
    }
  }
  if (value.type !== "Sequence") return value;
  const copy: JsonObject = { ...value };
  for (const name of CHILDREN) {
    const list = value[name];
    if (list === undefined) continue;
    if (!Array.isArray(list)) return fail(file, `${key}.${name}`, `expected an array, got ${kind(list)}`);
    copy[name] = list.map((child, i) => {
      const at = `${key}.${name}[${i}]`;
      return checkComponent(file, section, at, child, depth + 1) ?? fail(file, at, "expected an object, got null");
    });
  }
  return copy;
}

/**
 * Checks the content of a tokenizer.json.
 * @throws FormatError naming the file and the key that is missing, malformed or not supported.
 */
export function checkTokenizerJson(value: unknown, file: string): TokenizerJson {
  if (!isObject(value))
    throw new FormatError(`${file}: expected a JSON object, got ${kind(value)}`, { details: { file } });
  const component = (name: string) => checkComponent(file, name, name, value[name]);
  return {
    file,
    model: checkModel(file, value.model),
    added_tokens: checkAdded(file, value.added_tokens),
    normalizer: component("normalizer"),
    pre_tokenizer: component("pre_tokenizer"),
    post_processor: component("post_processor"),
    decoder: component("decoder"),
    padding: checkPadding(file, value.padding),
  };
}

function checkPadding(file: string, value: Json | undefined): TokenizerJson["padding"] {
  if (value === undefined || value === null) return { token: undefined, side: undefined };
  if (!isObject(value)) return fail(file, "padding", `expected an object, got ${kind(value)}`);
  const { pad_token: token, direction } = value;
  if (token !== undefined && typeof token !== "string") return fail(file, "padding.pad_token", "expected a string");
  const side = direction === "Left" ? "left" : direction === "Right" ? "right" : undefined;
  if (direction !== undefined && !side) return fail(file, "padding.direction", 'expected "Left" or "Right"');
  return { token: token || undefined, side };
}
