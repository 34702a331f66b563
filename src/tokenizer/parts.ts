// Builds the five parts of a tokenizer (normalizer, pre-tokenizer, model, post-processor, decoder) with the library
// `@huggingface/tokenizers` and corrects the places where it differs from Python's `tokenizers`. Not here: added and special
// tokens (engine.ts), where the two differ too much.

import { Tokenizer as LibraryTokenizer } from "@huggingface/tokenizers";
import { FormatError } from "../core/errors.js";
import { isObject, type Json, type JsonObject, type TokenizerJson } from "./tokenizer-json.js";

// NodeNext cannot resolve the library's own types (its relative imports lack file extensions), so the interfaces used are
// declared here. Some are private to the library and may change in any release, so package.json pins one exact version.
// Without the library we would have to write the normalizers, BPE, Unigram and WordPiece, which it gets right, and prove them
// against Python. To upgrade, change the version and run test/tokenizer.
interface PreTokenizerPart {
  pre_tokenize(text: string, options: { section_index: number }): string[];
  pre_tokenize_text: (text: string, options?: { section_index?: number }) => string[];
  pattern?: RegExp | null;
  readonly tokenizers?: readonly (PreTokenizerPart | null)[];
}
interface DecoderPart {
  decode(tokens: string[]): string;
  decode_chain: (tokens: string[]) => string[];
  readonly decoders?: readonly DecoderPart[];
}
interface ModelPart {
  readonly fuse_unk: boolean;
  encode: (pieces: string[]) => string[];
  tokenize?(piece: string): string[];
  readonly tokens_to_ids: Map<string, number>;
  readonly unk_token_id?: number | null;
  readonly end_of_word_suffix?: string | null;
}
interface Library {
  readonly normalizer: { normalize(text: string): string } | null;
  readonly pre_tokenizer: PreTokenizerPart | null;
  readonly model: ModelPart;
  readonly post_processor: {
    post_process(a: string[], b: string[] | null, special: boolean): { tokens: string[]; token_type_ids?: number[] };
  } | null;
  readonly decoder: DecoderPart | null;
}
const LibraryTokenizerClass = LibraryTokenizer as unknown as new (json: JsonObject, config: JsonObject) => Library;

/** The parts of the library that the engine uses: text in, pieces out, tokens in, text out. */
export interface TokenizerParts {
  readonly normalize: (text: string) => string;
  /** `first`: the text is at the very start of the input. */
  readonly pre_tokenize: (text: string, first: boolean) => string[];
  readonly model: (pieces: string[]) => string[];
  /** Tokens around one sequence or two, or null when the file has no post-processor. */
  readonly post_process: ((a: string[], b: string[] | null) => { tokens: string[]; types?: number[] }) | null;
  readonly decode: (tokens: string[]) => string;
  readonly vocab: ReadonlyMap<string, number>;
  readonly unk_token_id: number | undefined;
  /** True if decode() concatenates the tokens' bytes, as UTF-8. */
  readonly byte_level: boolean;
}

const WORD = "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\u200C\\u200D"; // \w of Rust's regex crate
const SPACE = "\\p{White_Space}"; // JavaScript's \s adds U+FEFF and lacks U+0085
const PUNCTUATION = "[\\p{P}\\u0021-\\u002F\\u003A-\\u0040\\u005B-\\u0060\\u007B-\\u007E]";
const GPT2 = new RegExp(
  `'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^${SPACE}\\p{L}\\p{N}]+|${SPACE}+(?!\\P{White_Space})|${SPACE}+`,
  "gu",
);

function split(regex: string, behavior: Json, invert = false): JsonObject {
  return { type: "Split", pattern: { Regex: regex }, behavior, invert };
}

/** Rewrites every pre-tokenizer that cuts by a pattern as Split, so that `cut` implements its five behaviours. */
function canonical(config: JsonObject): JsonObject {
  const whitespace = split(`${SPACE}+`, "Removed");
  switch (config.type) {
    case "Sequence": {
      const list = Array.isArray(config.pretokenizers) ? config.pretokenizers : [];
      return { ...config, pretokenizers: list.map((child) => (isObject(child) ? canonical(child) : child)) };
    }
    case "Whitespace":
      return split(`[${WORD}]+|[^${WORD}${SPACE}]+`, "Removed", true);
    case "WhitespaceSplit":
      return whitespace;
    case "BertPreTokenizer":
      return { type: "Sequence", pretokenizers: [whitespace, split(PUNCTUATION, "Isolated")] };
    case "Punctuation":
      return split(PUNCTUATION, config.behavior ?? "Isolated");
    case "Digits":
      return split("\\p{N}", config.individual_digits === true ? "Isolated" : "Contiguous");
    case "CharDelimiterSplit":
      return { type: "Split", pattern: { String: config.delimiter ?? "" }, behavior: "Removed", invert: false };
    case "FixedLength":
      return split(`[\\s\\S]{1,${Number(config.length ?? 5)}}`, "Removed", true);
    case "Metaspace": // files from before prepend_scheme
      return config.prepend_scheme === undefined && config.add_prefix_space === false
        ? { ...config, prepend_scheme: "never" }
        : config;
    default:
      return config;
  }
}

/** Python's Split: cuts `text` at the matches of `pattern` and treats the matches according to `behavior`. */
export function cut(text: string, pattern: RegExp, behavior: string, invert: boolean): string[] {
  const parts: { start: number; end: number; match: boolean }[] = [];
  let at = 0;
  for (const found of text.matchAll(pattern)) {
    const end = found.index + found[0].length;
    if (end === found.index) continue;
    if (found.index > at) parts.push({ start: at, end: found.index, match: invert });
    parts.push({ start: found.index, end, match: !invert });
    at = end;
  }
  if (at < text.length) parts.push({ start: at, end: text.length, match: invert });

  const kept: { start: number; end: number; match: boolean }[] = [];
  for (const part of parts) {
    const last = kept.at(-1);
    if (behavior === "Removed") {
      if (!part.match) kept.push(part);
    } else if (last === undefined || behavior === "Isolated") kept.push(part);
    else if (behavior === "Contiguous" ? last.match === part.match : merges(behavior, last, part)) last.end = part.end;
    else kept.push(part);
    // A piece absorbs only one match: its flag becomes that of the newest part.
    if (kept.length > 0 && behavior !== "Removed" && behavior !== "Isolated") kept.at(-1)!.match = part.match;
  }
  return kept.map((part) => text.slice(part.start, part.end));
}

function merges(behavior: string, last: { match: boolean }, part: { match: boolean }): boolean {
  return behavior === "MergedWithPrevious" ? part.match && !last.match : last.match && !part.match;
}

function children(config: JsonObject, key: string): (JsonObject | null)[] {
  const list = config[key];
  return Array.isArray(list) ? list.map((child) => (isObject(child) ? child : null)) : [];
}

function mendPreTokenizer(part: PreTokenizerPart | null | undefined, config: JsonObject | null): void {
  if (part === null || part === undefined || config === null) return;
  if (config.type === "Sequence") {
    children(config, "pretokenizers").forEach((child, i) => {
      mendPreTokenizer(part.tokenizers?.[i], child);
    });
  } else if (config.type === "Split") {
    const { pattern } = part;
    const behavior = String(config.behavior ?? "Isolated");
    if (pattern) part.pre_tokenize_text = (text) => cut(text, pattern, behavior, config.invert === true);
  } else if (config.type === "ByteLevel") {
    part.pattern = GPT2;
  } else if (config.type === "Metaspace" && config.split !== false) {
    const mark = String(config.replacement ?? "\u2581");
    const pattern = new RegExp(mark.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&"), "gu");
    const whole = part.pre_tokenize_text.bind(part);
    part.pre_tokenize_text = (text, options) =>
      whole(text, options).flatMap((piece) => cut(piece, pattern, "MergedWithNext", false));
  }
}

/** The 256 characters that represent bytes in byte-level vocabularies, as character to byte. */
export const BYTE_OF: ReadonlyMap<string, number> = (() => {
  const map = new Map<string, number>();
  let next = 256;
  for (let byte = 0; byte < 256; byte++) {
    const visible = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    map.set(String.fromCharCode(visible ? byte : next++), byte);
  }
  return map;
})();

/** Bytes of a byte-level token; a token with any other character is encoded as UTF-8. */
export function byteLevelBytes(token: string): Uint8Array {
  const bytes: number[] = [];
  for (const char of token) {
    const byte = BYTE_OF.get(char);
    if (byte === undefined) return new TextEncoder().encode(token);
    bytes.push(byte);
  }
  return Uint8Array.from(bytes);
}

/** The byte of a byte-fallback token such as `<0xE2>`. */
export function fallbackByte(token: string): number | undefined {
  return /^<0x[0-9A-Fa-f]{2}>$/.test(token) ? Number.parseInt(token.slice(3, 5), 16) : undefined;
}

function decodeByteLevel(tokens: readonly string[]): string {
  const utf8 = new TextDecoder("utf-8", { ignoreBOM: true });
  let text = "";
  for (const token of tokens) text += utf8.decode(byteLevelBytes(token), { stream: true });
  return text + utf8.decode();
}

/** A run of byte tokens is one UTF-8 string, or, when it is not valid, one U+FFFD for each byte. */
function decodeFallback(tokens: readonly string[]): string[] {
  const result: string[] = [];
  let run: number[] = [];
  const flush = () => {
    if (run.length === 0) return;
    try {
      result.push(new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(Uint8Array.from(run)));
    } catch {
      for (let i = 0; i < run.length; i++) result.push("\uFFFD");
    }
    run = [];
  };
  for (const token of tokens) {
    const byte = fallbackByte(token);
    if (byte !== undefined) {
      run.push(byte);
      continue;
    }
    flush();
    result.push(token);
  }
  flush();
  return result;
}

function mendDecoder(part: DecoderPart | null | undefined, config: JsonObject | null): void {
  if (part === null || part === undefined || config === null) return;
  if (config.type === "Sequence") {
    children(config, "decoders").forEach((child, i) => {
      mendDecoder(part.decoders?.[i], child);
    });
  } else if (config.type === "ByteLevel") part.decode_chain = (tokens) => [decodeByteLevel(tokens)];
  else if (config.type === "ByteFallback") part.decode_chain = decodeFallback;
  else if (config.type === "Metaspace") {
    const { prepend_scheme, add_prefix_space } = config;
    const keep = prepend_scheme === "never" || (prepend_scheme === undefined && add_prefix_space === false);
    const mark = String(config.replacement ?? "\u2581");
    part.decode_chain = (tokens) => tokens.map((token, i) => token.replaceAll(mark, i === 0 && !keep ? "" : " "));
  }
}

/** Pieces of a Unigram model, without the library's limit on text length and with byte fallback. */
function unigram(model: ModelPart, byteFallback: boolean): (pieces: string[]) => string[] {
  const encoder = new TextEncoder();
  return (pieces) => {
    const tokens: string[] = [];
    for (const piece of pieces) {
      for (const token of model.tokenize?.(piece) ?? []) {
        if (byteFallback && !model.tokens_to_ids.has(token)) {
          const bytes = Array.from(
            encoder.encode(token),
            (b) => `<0x${b.toString(16).toUpperCase().padStart(2, "0")}>`,
          );
          if (bytes.every((byte) => model.tokens_to_ids.has(byte))) {
            for (const byte of bytes) tokens.push(byte);
            continue;
          }
        }
        tokens.push(token);
      }
    }
    return tokens;
  };
}

/** One unknown token for each run of them in a piece. (The library joins their texts, in quadratic time.) */
function fused(model: ModelPart): (pieces: string[]) => string[] {
  const unknown = (token: string) => (model.tokens_to_ids.get(token) ?? model.unk_token_id) === model.unk_token_id;
  return (pieces) => {
    const tokens: string[] = [];
    for (const piece of pieces) {
      let run = false;
      for (const token of model.encode([piece])) {
        const unk = unknown(token);
        if (!(unk && run)) tokens.push(token);
        run = unk;
      }
    }
    return tokens;
  };
}

/** Replacement text is literal in Python; JavaScript gives `$` a meaning. */
function literal(config: JsonObject | null): JsonObject | null {
  if (config === null) return null;
  const copy: JsonObject = { ...config };
  if (config.type === "Replace" && typeof config.content === "string")
    copy.content = config.content.replaceAll("$", "$$$$");
  if (config.type === "BPEDecoder" && !config.suffix) copy.suffix = "</w>";
  for (const key of ["normalizers", "decoders"]) {
    const list = config[key];
    if (Array.isArray(list)) copy[key] = list.map((child) => (isObject(child) ? literal(child) : child));
  }
  return copy;
}

function isByteLevel(config: JsonObject | null): boolean {
  if (config === null) return false;
  if (config.type === "ByteLevel") return true;
  if (config.type !== "Sequence" || !Array.isArray(config.decoders) || config.decoders.length !== 1) return false;
  const [only] = config.decoders;
  return isObject(only) && isByteLevel(only);
}

/**
 * Builds the parts that a checked tokenizer.json describes.
 * @throws FormatError when the library rejects a part, with the library's message
 */
export function buildParts(json: TokenizerJson): TokenizerParts {
  const preConfig = json.pre_tokenizer === null ? null : canonical(json.pre_tokenizer);
  const { model } = json;
  let inner: Library;
  try {
    inner = new LibraryTokenizerClass(
      {
        model: model.type === "WordLevel" ? { vocab: model.vocab } : model,
        normalizer: literal(json.normalizer),
        pre_tokenizer: preConfig,
        post_processor: json.post_processor,
        decoder: literal(json.decoder),
        added_tokens: [], // the engine handles them
      },
      { unk_token: model.unk_token ?? null },
    );
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new FormatError(`${json.file}: the tokenizer cannot be built: ${reason}`, {
      details: { file: json.file },
      cause,
    });
  }
  mendPreTokenizer(inner.pre_tokenizer, preConfig);
  mendDecoder(inner.decoder, json.decoder);
  const { normalizer, pre_tokenizer, post_processor, decoder, model: core } = inner;
  if (model.type === "Unigram") core.encode = unigram(core, model.byte_fallback === true);
  const suffix = core.end_of_word_suffix;
  return {
    normalize: (text) => (normalizer === null ? text : normalizer.normalize(text)),
    pre_tokenize: (text, first) =>
      pre_tokenizer === null ? [text] : pre_tokenizer.pre_tokenize(text, { section_index: first ? 0 : 1 }),
    model: core.fuse_unk ? fused(core) : (pieces) => core.encode(pieces),
    post_process:
      post_processor === null
        ? null
        : (a, b) => {
            const { tokens, token_type_ids } = post_processor.post_process(a, b, true);
            return { tokens, types: token_type_ids };
          },
    decode: (tokens) => {
      const text = decoder === null ? tokens.join(" ") : decoder.decode(tokens);
      // CLIP's decoder keeps the end-of-word mark; Python wraps it in the same way.
      return suffix && json.decoder?.type === "ByteLevel" ? text.replaceAll(suffix, " ").trim() : text;
    },
    vocab: core.tokens_to_ids,
    unk_token_id: core.unk_token_id ?? undefined,
    byte_level: isByteLevel(json.decoder) && !suffix,
  };
}
