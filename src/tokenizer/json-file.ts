// Reads the text and JSON files of tokenizers: sizes, UTF-8, nesting. Not here: what the keys mean (tokenizer-json.ts, load.ts).

import { FormatError } from "../core/errors.js";
import { AGAIN, foreignKind } from "../sources/files.js";
import { parseJsonObject } from "../sources/json.js";
import { MAX_DEPTH } from "../sources/json-text.js";
import { type Source, withFile } from "../sources/source.js";
import { encodingOf, UTF8_HINT } from "../sources/text.js";

export type Json = null | boolean | number | string | Json[] | JsonObject;
export interface JsonObject {
  [key: string]: Json | undefined;
}

/** Largest tokenizer file that is read: 256 MB. */
const MAX_TOKENIZER_BYTES = 256 * 1024 * 1024;
/** Characters of a key that its error repeats; keys of hostile files may be long. */
const LONGEST_KEY = 80;

export function isObject(value: unknown): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** A key for a message. */
function shortKey(key: string): string {
  return key.length <= LONGEST_KEY ? key : `${key.slice(0, LONGEST_KEY)}...`;
}

/** @throws FormatError always, for a key of a tokenizer's file */
export function fail(file: string, key: string, message: string, hint?: string, cause?: unknown): never {
  const short = shortKey(key);
  throw new FormatError(`${file}: ${short}: ${message}`, { details: { file, key: short }, hint, cause });
}

/** The kind of a value in one word, for messages. */
export function kind(value: unknown): string {
  return value === null
    ? "null"
    : Array.isArray(value)
      ? "an array"
      : typeof value === "object"
        ? "an object"
        : typeof value;
}

/**
 * Reads a file of at most 256 MB.
 * @throws FormatError when it is larger, or another kind of file (a git-lfs pointer, an HTML page)
 */
export async function readBytes(source: Source, file: string): Promise<Uint8Array> {
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
  return bytes;
}

/**
 * Reads a text file that must be strict UTF-8 and no larger than 256 MB.
 * @throws FormatError when it is larger, not UTF-8, or another kind of file (a git-lfs pointer, an HTML page)
 */
export async function readText(source: Source, file: string): Promise<string> {
  const bytes = await readBytes(source, file);
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch (cause) {
    throw new FormatError(`${file}: not valid UTF-8, but ${encodingOf(bytes)}`, {
      details: { file },
      hint: UTF8_HINT,
      cause,
    });
  }
}

const [QUOTE, BACKSLASH] = [0x22, 0x5c];

/** True if brackets outside of strings nest deeper than the strict reader allows. Looks at the text, so nothing recurses. */
function nestsTooDeep(text: string): boolean {
  let depth = 0;
  for (let at = 0; at < text.length; at++) {
    const unit = text.charCodeAt(at);
    if (unit === QUOTE) {
      for (at++; at < text.length; at++) {
        const inside = text.charCodeAt(at);
        if (inside === QUOTE) break;
        if (inside === BACKSLASH) at++;
      }
    } else if (unit === 0x7b || unit === 0x5b) {
      if (++depth > MAX_DEPTH) return true;
    } else if (unit === 0x7d || unit === 0x5d) depth--;
  }
  return false;
}

function parse(text: string, file: string): unknown {
  if (!nestsTooDeep(text)) {
    try {
      return JSON.parse(text);
    } catch {
      // The strict reader below reads what Python writes beside JSON, and names the place of what nobody reads.
    }
  }
  return parseJsonObject(new TextEncoder().encode(text), file, "tokenizer file", true);
}

/**
 * Reads a file that must hold one JSON object.
 * @throws FormatError when it is too large, not UTF-8, not JSON, nested past 128 levels or not an object.
 */
export async function readJsonObject(source: Source, file: string): Promise<JsonObject> {
  const text = await readText(source, file);
  if (text.trim() === "") throw new FormatError(`${file}: the file is empty`, { details: { file }, hint: AGAIN });
  const value = parse(text, file);
  if (!isObject(value))
    throw new FormatError(`${file}: expected a JSON object, got ${kind(value)}`, { details: { file } });
  return value;
}
