// Checks tokenizer.json: ids, scores, merges, added tokens, so that whoever builds the parts gets values of the right kind. Not
// here: reading files (json-file.ts), components (components.ts) and files of other formats (convert.ts).

import { FormatError } from "../core/errors.js";
import { show } from "../core/show.js";
import { type Components, checkComponents, checkModelFields, isId, MAX_ID } from "./components.js";
import { fail, isObject, type Json, type JsonObject, kind } from "./json-file.js";
import type { Merges, Scores } from "./model.js";
import { wellFormed } from "./text.js";

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

export type ModelType = "BPE" | "WordPiece" | "Unigram" | "WordLevel" | "Pieces";

/** What makes a model of a tokenizer. */
export type ModelParts = Pick<TokenizerJson, "model" | "vocab" | "merges" | "scores" | "unk_token_id" | "inner">;

/** A checked tokenizer.json. Sections are lists of components, the sequences in them laid flat. */
export interface TokenizerJson {
  readonly file: string;
  /** The model's values beside its vocabulary and merges. `type` is always set. */
  readonly model: JsonObject & { type: ModelType };
  /** Tokens of the model itself. */
  readonly vocab: ReadonlyMap<string, number>;
  /** Empty except for BPE. */
  readonly merges: Merges;
  /** Tokens and scores in the order of their ids; empty except for Unigram. */
  readonly scores: Scores;
  readonly unk_token_id: number | undefined;
  /** The model that cuts the text for `Pieces`, which conversions alone make. */
  readonly inner?: ModelParts;
  readonly added_tokens: readonly AddedToken[];
  readonly normalizer: Components | null;
  readonly pre_tokenizer: Components | null;
  readonly post_processor: Components | null;
  readonly decoder: Components | null;
  /** How batches are padded where tokenizer_config.json does not say it. */
  readonly padding: { readonly token: string | undefined; readonly side: "left" | "right" | undefined };
}

function modelType(file: string, model: JsonObject, converted: boolean): ModelType {
  const { type } = model;
  if (converted && type === "Pieces") return type;
  if (type === undefined || type === null) {
    if (Array.isArray(model.vocab)) return "Unigram";
    if (model.merges !== undefined) return "BPE";
    return model.continuing_subword_prefix !== undefined ? "WordPiece" : "WordLevel";
  }
  if (type === "BPE" || type === "WordPiece" || type === "Unigram" || type === "WordLevel") return type;
  return fail(file, "model.type", `${show(type)} is not supported`, "known: BPE, WordPiece, Unigram, WordLevel");
}

function checkVocab(file: string, vocab: unknown): Map<string, number> {
  if (!isObject(vocab)) return fail(file, "model.vocab", `expected an object of token to id, got ${kind(vocab)}`);
  const ids = new Map<string, number>();
  const seen = new Uint8Array((MAX_ID + 8) >> 3); // a bit for each id
  for (const token of Object.keys(vocab)) {
    const id = vocab[token];
    if (!isId(id))
      return fail(file, "model.vocab", `id of ${show(token)} must be an integer in 0..${MAX_ID}, got ${show(id)}`);
    const bit = 1 << (id & 7);
    if (seen[id >> 3]! & bit) {
      const other = [...ids].find(([, taken]) => taken === id)![0];
      fail(file, "model.vocab", `${show(other)} and ${show(token)} share id ${id}`);
    }
    seen[id >> 3]! |= bit;
    ids.set(token, id);
  }
  return ids;
}

/**
 * A number of a JSON text as Python's `tokenizers` reads it: all digits as one integer, divided by a power of ten, which rounds twice.
 * Texts with two cuts of the same tokens ("00", "0" and "0", "00") are decided by that last bit.
 */
function twiceRounded(score: number): number {
  const text = String(score);
  const [digits = "", exponent = "0"] = text.split("e");
  const dot = digits.indexOf(".");
  const power = Number(exponent) - (dot < 0 ? 0 : digits.length - dot - 1);
  if (power === 0 || Math.abs(power) > 308) return score;
  const whole = Number(digits.replace(".", ""));
  return power < 0 ? whole / Number(`1e${-power}`) : whole * Number(`1e${power}`);
}

/** @param read the score of a number of the file */
function checkScores(file: string, { vocab, unk_id }: JsonObject, read: (score: number) => number): Scores {
  if (!Array.isArray(vocab)) fail(file, "model.vocab", `expected an array of [token, score], got ${kind(vocab)}`);
  if (vocab.length === 0) fail(file, "model.vocab", "is empty");
  if (vocab.length > MAX_ID) fail(file, "model.vocab", `${vocab.length} tokens, at most ${MAX_ID} are taken`);
  if (unk_id !== undefined && unk_id !== null && !(isId(unk_id) && unk_id < vocab.length)) {
    fail(file, "model.unk_id", `must be null or an id below ${vocab.length}, got ${show(unk_id)}`);
  }
  return vocab.map((entry, i): readonly [string, number] => {
    const [token, score] = Array.isArray(entry) && entry.length === 2 ? entry : [];
    if (typeof token === "string" && typeof score === "number" && Number.isFinite(score)) return [token, read(score)];
    return fail(file, `model.vocab[${i}]`, `expected [token, finite score], got ${show(entry)}`);
  });
}

function checkMerges(file: string, merges: unknown, vocab: ReadonlyMap<string, number>): Merges {
  if (!Array.isArray(merges)) return fail(file, "model.merges", `expected an array, got ${kind(merges)}`);
  const [left, right, result] = [0, 1, 2].map(() => new Int32Array(merges.length)) as [
    Int32Array,
    Int32Array,
    Int32Array,
  ];
  for (const [i, merge] of (merges as unknown[]).entries()) {
    const key = `model.merges[${i}]`;
    const pair: unknown = typeof merge === "string" ? merge.split(" ", 3) : merge;
    const [a, b] = Array.isArray(pair) && pair.length === 2 ? (pair as unknown[]) : [];
    if (typeof a !== "string" || typeof b !== "string" || a === "" || b === "") {
      fail(file, key, `expected two tokens, got ${show(merge)}`);
    }
    const idOf = (token: string) =>
      vocab.get(token) ?? fail(file, key, `token ${show(token)} is not in the vocabulary`);
    left[i] = idOf(a);
    right[i] = idOf(b);
    result[i] = idOf(a + b);
  }
  return { left, right, result };
}

const NO_MERGES: Merges = { left: new Int32Array(), right: new Int32Array(), result: new Int32Array() };
/** What Python's models call the unknown token if the file does not say it. */
const USUAL_UNKNOWN: Readonly<Record<string, string>> = { WordPiece: "[UNK]", WordLevel: "<unk>" };

function checkModel(file: string, value: Json | undefined, converted: boolean): ModelParts {
  if (!isObject(value)) return fail(file, "model", `expected an object, got ${kind(value)}`);
  const { vocab: given, merges, inner, ...rest } = value;
  if (given === undefined) fail(file, "model.vocab", "is missing");
  const type = modelType(file, value, converted);
  const model = Object.assign(rest, { type });
  checkModelFields(file, type, model);
  if (type === "Unigram") {
    const scores = checkScores(file, value, converted ? (score) => score : twiceRounded);
    const vocab = new Map(scores.map(([token], id) => [token, id]));
    const unk_token_id = typeof value.unk_id === "number" ? value.unk_id : undefined;
    return { model, vocab, merges: NO_MERGES, scores, unk_token_id };
  }
  const vocab = checkVocab(file, given);
  const prefix = model.continuing_subword_prefix;
  if (type === "BPE" && typeof prefix === "string" && prefix !== "") {
    fail(file, "model.continuing_subword_prefix", `${show(prefix)} is not supported for BPE`);
  }
  const unknown = model.unk_token ?? USUAL_UNKNOWN[type];
  return {
    model,
    vocab,
    merges: type === "BPE" ? checkMerges(file, merges, vocab) : NO_MERGES,
    scores: [],
    unk_token_id: typeof unknown === "string" ? vocab.get(unknown) : undefined,
    ...(type === "Pieces" ? { inner: checkModel(file, inner, converted) } : {}),
  };
}

/**
 * Makes an AddedToken from its JSON.
 * @throws FormatError when content or id are missing or of the wrong kind.
 */
export function addedToken(file: string, key: string, value: Json | undefined, id?: number): AddedToken {
  if (!isObject(value)) return fail(file, key, `expected an object, got ${kind(value)}`);
  const { content } = value;
  const given = id ?? value.id;
  if (typeof content !== "string" || content === "") {
    return fail(file, `${key}.content`, `expected a non-empty string, got ${show(content)}`);
  }
  if (content !== wellFormed(content)) fail(file, `${key}.content`, `${show(content)} holds half a character`);
  if (!isId(given)) return fail(file, `${key}.id`, `expected an integer in 0..${MAX_ID}, got ${show(given)}`);
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
      fail(file, `added_tokens[${i}]`, `${show(token.content)} has ids ${other.id} and ${token.id}`);
    }
    byContent.set(token.content, token);
  });
  return [...byContent.values()];
}

/**
 * Checks the content of a tokenizer.json.
 * @param converted whether it was made of older files
 * @throws FormatError naming the file and the key that is missing, malformed or not supported.
 */
export function checkTokenizerJson(value: unknown, file: string, converted = false): TokenizerJson {
  if (!isObject(value))
    throw new FormatError(`${file}: expected a JSON object, got ${kind(value)}`, { details: { file } });
  const section = (name: string) => checkComponents(file, name, value[name], converted);
  return {
    file,
    ...checkModel(file, value.model, converted),
    added_tokens: checkAdded(file, value.added_tokens),
    normalizer: section("normalizer"),
    pre_tokenizer: section("pre_tokenizer"),
    post_processor: section("post_processor"),
    decoder: section("decoder"),
    padding: checkPadding(file, value.padding),
  };
}

function checkPadding(file: string, value: Json | undefined): TokenizerJson["padding"] {
  if (value === undefined || value === null) return { token: undefined, side: undefined };
  if (!isObject(value)) return fail(file, "padding", `expected an object, got ${kind(value)}`);
  const { pad_token, direction } = value;
  if (pad_token !== undefined && typeof pad_token !== "string") {
    return fail(file, "padding.pad_token", `expected a string, got ${show(pad_token)}`);
  }
  const side = direction === "Left" ? "left" : direction === "Right" ? "right" : undefined;
  if (direction !== undefined && !side) {
    return fail(file, "padding.direction", `expected "Left" or "Right", got ${show(direction)}`);
  }
  return { token: pad_token || undefined, side };
}
