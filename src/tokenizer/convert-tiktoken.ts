// Builds the structure of a tokenizer.json from the files of OpenAI's tiktoken, which Llama 3, GLM-4 and the first Qwen publish: a line for
// each token, its bytes in base64 and its rank, which is its id. Merges are not in them: a token comes of any two that it is made of.

import { FormatError } from "../core/errors.js";
import { show } from "../core/show.js";
import { MAX_ID } from "./components.js";
import type { ConvertOptions } from "./convert.js";
import { fail, isObject, type JsonObject } from "./json-file.js";
import { LONGEST_TOKEN } from "./model.js";
import { byteChars } from "./pre-tokenize.js";

/** How GPT-4 and Llama 3 cut text, and transformers where no class says it. */
const SPLIT =
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
/** Of the first Qwen: digits one by one, and the tokens behind its vocabulary. */
const QWEN_SPLIT = SPLIT.replace("{1,3}", "");
const QWEN_TOKENS = [
  "<|endoftext|>",
  "<|im_start|>",
  "<|im_end|>",
  ...Array.from({ length: 205 }, (_, i) => `<|extra_${i}|>`),
];
const LINE = /^([A-Za-z0-9+/]+={0,2}) (\d{1,9})$/;
/** Characters that are looked at to tell such a file from a SentencePiece model. */
const FIRST_LINE = 2 * LONGEST_TOKEN;

/** True if a file begins as tiktoken's do. */
export function isTiktoken(bytes: Uint8Array): boolean {
  const text = new TextDecoder("latin1").decode(bytes.subarray(0, FIRST_LINE));
  return LINE.test(text.slice(0, text.indexOf("\n")).trimEnd());
}

/** Tokens, in the letters that stand for bytes, with their ids. @throws FormatError */
function readRanks(bytes: Uint8Array, file: string): Map<string, number> {
  const ranks = new Map<string, number>();
  const taken = new Set<number>();
  const lines = new TextDecoder("latin1").decode(bytes).split("\n");
  for (const [i, written] of lines.entries()) {
    const line = written.trimEnd();
    if (line === "") continue;
    const key = `line ${i + 1}`;
    const [, code = "", rank = ""] =
      LINE.exec(line) ?? fail(file, key, `expected base64 and a rank, got ${show(line)}`);
    const id = Number(rank);
    const token = byteChars(decoded(code) ?? fail(file, key, `${show(code)} is not base64`));
    if (token.length > LONGEST_TOKEN) fail(file, key, `${token.length} bytes, at most ${LONGEST_TOKEN} are taken`);
    if (id > MAX_ID) fail(file, key, `rank ${id}, at most ${MAX_ID} are taken`);
    if (taken.has(id)) fail(file, key, `rank ${id} stands twice`);
    if (ranks.has(token)) fail(file, key, `the token ${show(token)} stands twice`);
    taken.add(id);
    ranks.set(token, id);
  }
  if (ranks.size === 0) throw new FormatError(`${file}: no tokens`, { details: { file } });
  return ranks;
}

function decoded(code: string): Uint8Array | undefined {
  try {
    return Uint8Array.from(atob(code), (char) => char.charCodeAt(0));
  } catch {
    return undefined;
  }
}

/** Most pairs of tokens that make a token: vocabularies of 200,000 tokens have half a million. */
const MOST_MERGES = 1 << 22;

/** All pairs of tokens that make a token: by its rank, then by the ranks of the two. @throws FormatError for very many */
function mergesOf(ranks: ReadonlyMap<string, number>, file: string): [string, string][] {
  const found: (readonly [left: string, right: string, ...ranks: number[]])[] = [];
  for (const [token, rank] of ranks) {
    for (let at = 1; at < token.length; at++) {
      const [left, right] = [token.slice(0, at), token.slice(at)];
      const [a, b] = [ranks.get(left), ranks.get(right)];
      if (a !== undefined && b !== undefined) found.push([left, right, rank, a, b]);
    }
    if (found.length > MOST_MERGES) {
      throw new FormatError(`${file}: more than ${MOST_MERGES} pairs of tokens make others`, { details: { file } });
    }
  }
  found.sort((one, other) => one[2]! - other[2]! || one[3]! - other[3]! || one[4]! - other[4]!);
  return found.map(([left, right]) => [left, right]);
}

/** Most tokens behind a vocabulary, gaps included: published ones have some hundreds. */
const MOST_BEHIND = 1 << 14;

/**
 * Tokens behind the vocabulary: those that the settings name, with transformers' names in the gaps between them.
 * @throws FormatError for very many
 */
function behind(base: number, file: string, { added, config }: ConvertOptions): string[] {
  const { extra_special_tokens: extra } = config;
  const listed = isObject(extra) ? Object.keys(extra) : Array.isArray(extra) ? extra : [];
  const byId = new Map([...added].map(([content, id]) => [id, content]));
  const tokens: string[] = [];
  let last = base - 1;
  for (const id of byId.keys()) last = Math.max(last, id);
  if (last - base >= MOST_BEHIND) {
    fail(file, "added tokens", `the last has the id ${last}, and at most ${MOST_BEHIND} stand behind ${base} tokens`);
  }
  for (let id = base; id <= last; id++) tokens.push(byId.get(id) ?? `<|reserved_token_${id}|>`);
  const named = new Set(tokens);
  return [...tokens, ...listed.filter((one): one is string => typeof one === "string" && !named.has(one))];
}

/**
 * Byte-level BPE from a tiktoken file.
 * @throws FormatError
 */
export function convertTiktoken(bytes: Uint8Array, file: string, options: ConvertOptions): JsonObject {
  const ranks = readRanks(bytes, file);
  const qwen =
    options.tokenizer_class === "QWenTokenizer" ||
    (options.tokenizer_class === undefined && file.endsWith(".tiktoken"));
  const tokens = qwen ? QWEN_TOKENS : behind(ranks.size, file, options);
  const bytesOnly = { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: false };
  const split = { type: "Split", pattern: { Regex: qwen ? QWEN_SPLIT : SPLIT }, behavior: "Isolated", invert: false };
  return {
    version: "1.0",
    added_tokens: tokens.map((content, i) => ({
      id: ranks.size + i,
      content,
      special: true,
      normalized: false,
      single_word: false,
      lstrip: false,
      rstrip: false,
    })),
    normalizer: qwen ? { type: "NFC" } : null,
    pre_tokenizer: { type: "Sequence", pretokenizers: [split, bytesOnly] },
    post_processor: { type: "ByteLevel", add_prefix_space: true, trim_offsets: false, use_regex: true },
    decoder: { type: "ByteLevel", add_prefix_space: true, trim_offsets: true, use_regex: true },
    model: {
      type: "BPE",
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: true,
      vocab: Object.assign(Object.create(null) as JsonObject, Object.fromEntries(ranks)),
      merges: mergesOf(ranks, file),
    },
  };
}
